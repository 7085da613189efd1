"""Segment many scans: what is to be done, into which folder, and what is said and raised at the end."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from mednext_jax.errors import InputError, NothingDone, Problem, WorkError, in_groups
from mednext_jax.inference.brain_extraction import named_tool, open_brain_extraction
from mednext_jax.inference.claim import changed_since, open_outputs
from mednext_jax.inference.dry_run import plan
from mednext_jax.inference.failures import Failure
from mednext_jax.inference.flags import flagged
from mednext_jax.inference.headers import warnings_of
from mednext_jax.inference.predictor import Predictor
from mednext_jax.inference.progress import QUIET, USUAL, VERBOSE, CohortProgress
from mednext_jax.inference.run_record import describe_run, record_path, refuse_output
from mednext_jax.inference.run_report import RunReport
from mednext_jax.inference.scans import Scan, find_scans, images_left_out
from mednext_jax.inference.stream import Work, stream
from mednext_jax.inference.unlike_model import unlike_model
from mednext_jax.io.bids_selection import BidsSelection
from mednext_jax.io.brain_masks import BrainMasks
from mednext_jax.io.nifti_header import NIFTI_ENDINGS
from mednext_jax.parallel.processes import checked_together, initialise, leaving_at_once, meet
from mednext_jax.quantify.one_scan import Counting
from mednext_jax.quantify.scan_tables import ScanTables
from mednext_jax.weights.packaged import NAME


def predict(
    inputs: str | Path,
    output: str | Path,
    models: str | Path | Sequence[str | Path] | None = None,
    threshold: float | None = None,
    tta: bool = True,
    step: float = 0.5,
    part: tuple[int, int] = (1, 1),
    *,
    suffix: str | None = None,
    chosen: BidsSelection | None = None,
    brain_masks: str | Path | None = None,
    tile_batch: int | None = None,
    skip_background: bool = False,
    background: str = "auto",
    after: Callable[[Path, list[str]], object] | None = None,
    uncertainty: bool = False,
    tables: bool = True,
    regions: str | Path | None = None,
    region_names: str | Path | None = None,
    connectivity: int = 26,
    min_voxels: int = 5,
    min_mm3: float = 0.0,
    split: bool = False,
    force: bool = False,
    brain_extraction: str | None = None,
    dry_run: bool = False,
    quiet: bool = False,
    verbose: bool = False,
) -> list[dict[str, Any]]:
    """Segment a scan, a folder of scans or a BIDS data set (`find_scans`) into the folder `output`.

    Each scan gives CASE_mask.nii.gz (uint8) and CASE_probability.nii.gz (float32) on its own grid; a BIDS data set
    gives a derivative, sub-.../anat/..._space-orig_label-PVS_mask.nii.gz and _probseg.nii.gz with side-cars. Besides:
    volumes.tsv (scan, 26-connected clusters, mm3, seconds), prediction.json (models, settings, software, and at the end
    what the run did: `RunReport`) and scans.json (each scan's files, and what failed).
    models: by default the packaged one, trained on simulated PVS alone (`weights.packaged`).
    part: (k, n) takes every n-th of the sorted scans from the k-th, for n processes that write into one folder. When
    several processes were started together (`parallel.processes.initialise`), each takes its part by itself.
    suffix: the scans of a BIDS data set, one per channel ("T2w", or "T1w,FLAIR"), if the model's channels do not say.
    chosen: of a BIDS data set, only these scans.
    brain_masks: a folder (io.brain_masks); all but the brain is set to 0. A model trained with such masks needs them.
    after: is called with the folder and the cases that have outputs there, before failures are raised.
    tables: besides, labelled clusters and tables of clusters and regions of each scan, and pvs.tsv of all of them, as
    `quantify` writes them. regions, region_names, connectivity, min_voxels, min_mm3, split: as `quantify`; a scan whose
    regions are not there or do not fit has tables without regions, and the reason is raised at the end.
    uncertainty: each model and each mirror also by itself (`find_members`): maps of their standard deviations and of
    the entropy, their mean in each cluster, and intervals of counts and volumes. Takes twice as long.
    force: make everything again, also where a prediction with other settings is. brain_extraction: the tool (of
    `brain_extraction.TOOLS`) that makes a brain mask of each scan, which is saved too.
    dry_run: print the scans, the models, the tiles and an estimate of time and memory, and write nothing.
    quiet: print nothing but what is wrong, at the end. verbose: the time of each stage of each scan, too.
    Other arguments as `Predictor`. Returns the rows of volumes.tsv.

    Names, channels and headers of all scans are checked before any is computed, and what is odd about headers is
    printed. An output that exists is refused: InputError, and nothing is written. But a run that was stopped goes on
    when it is called again with the same settings: a scan whose record (`scan_record`) fits its input, the models and
    the settings, and whose outputs are whole, is not done again.
    A scan that fails (a channel or a brain mask that is missing, its header, voxels, memory, a file that cannot be
    written, a result that is not finite) is left out and listed in failed.tsv, the others are done, and the failures
    are raised together at the end: WorkError if others are done, NothingDone if none is; InputError if none is and the
    input is at fault. Then, with one scan, nothing is written.
    KeyboardInterrupt leaves at once; the table tells what is done.
    """
    initialise()
    if part == (1, 1):
        part = jax.process_index() + 1, jax.process_count()
    inputs, output = Path(inputs), Path(output)
    k, n = part
    with contextlib.ExitStack() as claim:
        report = claim.enter_context(RunReport())
        with checked_together():
            if not 1 <= k <= n:
                raise InputError(
                    "The part is not one of its number of parts.", expected="K/N, 1 <= K <= N", found=f"{k}/{n}"
                )
            if output.name.lower().endswith(NIFTI_ENDINGS):
                raise InputError("The output is a folder, not a file.", file=output, hint="name a new folder")
            refuse_output(output, part, force=force)
            if named_tool(brain_extraction) is not None and brain_masks is not None:
                raise InputError("The brain is extracted by a tool or by masks.", found="both", hint="leave one out")
            if brain_masks is not None and Path(brain_masks).resolve() in (output.resolve(), *output.resolve().parents):
                hint = "name a folder outside of it"
                raise InputError("The output lies in the folder of the brain masks.", file=output, hint=hint)
            counting = Counting(connectivity, min_voxels, min_mm3, split)
            if not tables and uncertainty:
                raise InputError(
                    "Uncertainty is told in tables, and there are to be none.", hint="leave --no-tables out"
                )
            if not tables and (regions, region_names) != (None, None):
                raise InputError("Regions are for tables, and there are to be none.", hint="leave --no-tables out")
            models = NAME if models is None else models
            predictor = Predictor(
                [models] if isinstance(models, str | Path) else list(models),
                threshold=threshold,
                tta=tta,
                step=step,
                tile_batch=tile_batch,
                skip_background=skip_background,
                background=background,
            )
            scans, bad = find_scans(inputs, predictor.recipe.channel_names, suffix, chosen)
            scans, without = _with_brains(scans, brain_masks, brain_extraction, predictor)
            failures = [Failure(case, "find", (problem,), by_input=True) for case, problem in [*bad, *without]]
            # A scan that fails counts too: mended, it moves no other into another part.
            mine = set(sorted({s.case for s in scans} | {f.case for f in failures})[k - 1 :: n])
            scans = [scan for scan in scans if scan.case in mine]
            failures = [failure for failure in failures if failure.case in mine]
            measured = ScanTables.open(regions, region_names, counting, single=len(scans) == n == 1) if tables else None
            if measured is not None and uncertainty:
                measured.about["uncertainty"] = True
            settings = describe_run(predictor, inputs, part, brain_masks, measured, named_tool(brain_extraction))
            if dry_run:
                return plan(predictor, scans, output, settings, failures, uncertainty=uncertainty, force=force)
            outputs = claim.enter_context(open_outputs(output, scans, settings, measured, force=force))
            report.begin(record_path(output, part), settings, predictor)

        level = QUIET if quiet else VERBOSE if verbose else USUAL
        todo = [scan for scan in scans if not outputs.has(scan)]
        log = CohortProgress(len(scans), len(scans) - len(todo), log=outputs.log, level=level)
        others = images_left_out(inputs) if k == 1 else []
        unlike = unlike_model(todo, predictor.recipe, predictor.thresholds)
        headers = [*warnings_of(todo, predictor.recipe), *unlike]
        for warnings in (others, _changed(changed_since(output, todo)), headers):
            log.warn(warnings)
            report.keep(warnings)
        models_ = f"{len(predictor.paths)} model{'s' * (len(predictor.paths) > 1)}"
        for line in predictor.notices:
            log.say(line)
        log.begin(f"{models_}, {settings['device']}", sorted({failure.case for failure in failures}))
        outputs.take(failures)
        tiles = log.tiles if log.shows_tiles else None
        work = Work(predictor, outputs, uncertainty, open_brain_extraction(brain_extraction), tiles)
        with leaving_at_once(), contextlib.closing(log):
            with contextlib.closing(stream(work, todo)) as outcomes:
                for scan, outcome in outcomes:
                    outputs.take([outcome] if isinstance(outcome, Failure) else outcome.written.lacks)
                    log.take(scan, outcome)
            log.end()
            report.end(outputs.rows, outputs.failures)
            meet("predicted")  # JAX would end processes that wait at their exit for longer than five minutes
    try:
        if after is not None and outputs.rows:  # all is written now
            after(output, [row["scan"] for row in outputs.rows])
    finally:
        log.warn(flagged(outputs.rows))
        _raise(outputs.failures, nothing=not outputs.rows)
    return outputs.rows


def _with_brains(
    scans: Sequence[Scan], masks: str | Path | None, tool: str | None, predictor: Predictor
) -> tuple[list[Scan], list[tuple[str, Problem]]]:
    """The scans with their brain masks, if there are any, and (case, problem) for scans without one.

    Raises InputError if the folder or all masks are missing, or if the model needs them and none were named.
    """
    if masks is None:
        if "brain" in predictor.recipe.optional_steps and tool is None:
            raise InputError(
                "The model was trained on brain-extracted scans and needs a brain mask for each scan.",
                file=predictor.paths[0],
                hint="give the folder of the masks: --brain-masks MASKS, or have them made: --brain-extraction TOOL",
            )
        return list(scans), []
    found, without = BrainMasks.open(masks).paths([scan.case for scan in scans])
    if not found:
        raise InputError.of(problem for _, problem in without)
    return [dataclasses.replace(s, brain=found[s.case]) for s in scans if s.case in found], without


def _changed(scans: Sequence[Scan]) -> list[Problem]:
    """Warnings that name the scans that have changed since they were segmented."""
    what = "A scan has changed since it was segmented, and is done again."
    return [Problem(what, str(scan.files[0]), severity="W") for scan in scans]


def _raise(failures: Sequence[Failure], *, nothing: bool) -> None:
    """Raise what failed, if anything; the input is at fault only if `nothing` is done and no work failed."""
    problems = [problem for failure in failures for problem in failure.problems]
    if problems and nothing and all(failure.by_input for failure in failures):
        raise InputError.of(problems)
    if problems:
        raise (NothingDone if nothing else WorkError)(in_groups(problems))
