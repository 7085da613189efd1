"""Segment many scans: the next is read and the last ones written while the device computes."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mednext_jax.errors import InputError, NothingDone, Problem, WorkError, in_groups, shown
from mednext_jax.inference.on_device import LoadedScan
from mednext_jax.inference.outputs import Outputs, describe_run, open_outputs, refuse_output, table_paths
from mednext_jax.inference.predictor import Predictor, Segmentation
from mednext_jax.inference.run_report import RunReport
from mednext_jax.inference.scans import Scan, find_scans, images_left_out
from mednext_jax.inference.uncertainty import find_members
from mednext_jax.inference.unlike_model import unlike_model
from mednext_jax.io.brain_masks import BrainMasks
from mednext_jax.io.geometry import grid_warnings
from mednext_jax.io.nifti import grid_of, spacing_warnings
from mednext_jax.io.nifti_header import NIFTI_ENDINGS
from mednext_jax.io.nifti_names import few
from mednext_jax.io.voxels import open_voxels
from mednext_jax.parallel.processes import checked_together, initialise, leaving_at_once, meet
from mednext_jax.quantify.members import Members
from mednext_jax.quantify.one_scan import Counting
from mednext_jax.quantify.scan_tables import ScanTables
from mednext_jax.weights.recipe import Recipe

# Scans under way beside the one on the device: a GPU may take less time for a scan than a thread to read or to write.
READERS = 2
WRITERS = 4
HEADER_READERS = 8


def predict(
    inputs: str | Path,
    output: str | Path,
    models: str | Path | Sequence[str | Path],
    threshold: float | None = None,
    tta: bool = True,
    step: float = 0.5,
    part: tuple[int, int] = (1, 1),
    *,
    suffix: str | None = None,
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
) -> list[dict[str, Any]]:
    """Segment a scan, a folder of scans or a BIDS data set (`find_scans`) into the folder `output`.

    Each scan gives CASE_mask.nii.gz (uint8) and CASE_probability.nii.gz (float32) on its own grid; a BIDS data set
    gives a derivative, sub-.../anat/..._space-orig_label-PVS_mask.nii.gz and _probseg.nii.gz with side-cars. Besides:
    volumes.tsv (scan, 26-connected clusters, mm3, seconds), prediction.json (models, settings, software, and at the end
    what the run did: `RunReport`) and scans.json
    (each scan's files, and what failed).
    part: (k, n) takes every n-th of the sorted scans from the k-th, for n processes that write into one folder. When
    several processes were started together (`parallel.processes.initialise`), each takes its part by itself.
    suffix: the scans of a BIDS data set, one per channel ("T2w", or "T1w,FLAIR"), if the model's channels do not say.
    brain_masks: a folder (io.brain_masks); all but the brain is set to 0. A model trained with such masks needs them.
    after: is called with the folder and the cases that have outputs there, before failures are raised.
    tables: besides, labelled clusters and tables of clusters and regions of each scan, and pvs.tsv of all of them, as
    `quantify` writes them. regions, region_names, connectivity, min_voxels, min_mm3, split: as `quantify`; a scan whose
    regions are not there or do not fit has tables without regions, and the reason is raised at the end.
    uncertainty: each model and each mirror also by itself (`find_members`): maps of their standard deviations and of
    the entropy, their mean in each cluster, and intervals of counts and volumes. Takes twice as long.
    Other arguments as `Predictor`. Returns the rows of volumes.tsv.

    Names, channels and headers of all scans are checked before any is computed, and what is odd about headers is
    printed. An output that exists is refused: InputError, and nothing is written. But a run that was stopped goes on
    when it is called again with the same settings: scans that have their files and their row are not done again, and
    those of them that have changed since are named.
    A scan that fails (a channel or a brain mask that is missing, its header, voxels, memory, a file that cannot be
    written, a result that is not finite) is left out, the others are done, and the failures are raised together at the
    end: WorkError if others are done, NothingDone if none is; InputError if none is and the input is at fault. If no
    scan is left, nothing is written.
    KeyboardInterrupt leaves at once; the table tells what is done.
    """
    initialise()
    if part == (1, 1):
        part = jax.process_index() + 1, jax.process_count()
    inputs, output = Path(inputs), Path(output)
    k, n = part
    with contextlib.ExitStack() as claim:
        told = claim.enter_context(RunReport())
        with checked_together():
            if not 1 <= k <= n:
                raise InputError(
                    "The part is not one of its number of parts.", expected="K/N, 1 <= K <= N", found=f"{k}/{n}"
                )
            if output.name.lower().endswith(NIFTI_ENDINGS):
                raise InputError("The output is a folder, not a file.", file=output, hint="name a new folder")
            refuse_output(output, part)
            counting = Counting(connectivity, min_voxels, min_mm3, split)
            if not tables and uncertainty:
                raise InputError(
                    "Uncertainty is told in tables, and there are to be none.", hint="leave --no-tables out"
                )
            if not tables and (regions, region_names) != (None, None):
                raise InputError("Regions are for tables, and there are to be none.", hint="leave --no-tables out")
            predictor = Predictor(
                [models] if isinstance(models, str | Path) else list(models),
                threshold=threshold,
                tta=tta,
                step=step,
                tile_batch=tile_batch,
                skip_background=skip_background,
                background=background,
            )
            scans, bad = find_scans(inputs, predictor.recipe.channel_names, suffix)
            brains, without = _brain_masks(brain_masks, predictor, scans)
            scans = [scan for scan in scans if scan.case not in dict(without)][k - 1 :: n]
            bad = [*bad, *without] if k == 1 else []  # told once, by the first part
            measured = ScanTables.open(regions, region_names, counting, single=len(scans) == n == 1) if tables else None
            if measured is not None and uncertainty:
                measured.about["uncertainty"] = True
            settings = describe_run(predictor, inputs, part, brain_masks, measured)
            outputs = claim.enter_context(open_outputs(output, scans, settings, measured))
            told.begin(table_paths(output, part)[1], settings, predictor)

        told.warn(images_left_out(inputs) if k == 1 else [])
        todo = [scan for scan in scans if not outputs.has(scan)]
        told.warn(_changed([scan for scan in scans if outputs.has(scan) and outputs.is_older(scan)]))
        told.warn(_unusual(todo, predictor.recipe))
        models_ = f"{len(predictor.paths)} model{'s' * (len(predictor.paths) > 1)}"
        log = _Log(len(scans), len(scans) - len(todo), f"{models_}, {settings['device']}", bad)
        with leaving_at_once():
            with contextlib.closing(_stream(predictor, todo, brains, outputs, uncertainty)) as outcomes:
                for scan, outcome in outcomes:
                    log.take(scan, outcome)
            outputs.list_scans(log.problems)
            log.bad = [*log.bad, *outputs.without_regions]
            told.end(outputs.rows, log.problems)
            meet("predicted")  # JAX would end processes that wait at their exit for longer than five minutes
    try:
        if after is not None and outputs.rows:  # all is written now
            after(output, [row["scan"] for row in outputs.rows])
    finally:
        log.finish(nothing=not outputs.rows)
    return outputs.rows


def _brain_masks(
    folder: str | Path | None, predictor: Predictor, scans: Sequence[Scan]
) -> tuple[dict[str, Path], list[tuple[str, Problem]]]:
    """Case -> its brain mask, if there are any, and (case, problem) for scans without one.

    Raises InputError if the folder or all masks are missing, or if the model needs them and none were named.
    """
    needed = "brain" in predictor.recipe.optional_steps
    if needed and folder is None:
        raise InputError(
            "The model was trained on brain-extracted scans and needs a brain mask for each scan.",
            file=predictor.paths[0],
            hint="give the folder of the masks: --brain-masks MASKS",
        )
    if folder is None:
        return {}, []
    found, without = BrainMasks.open(folder).paths([scan.case for scan in scans])
    if not found:
        raise InputError.of(problem for _, problem in without)
    return found, without


def _changed(scans: Sequence[Scan]) -> list[Problem]:
    """Warnings that name the scans that have changed since they were segmented: their numbers are of what they were."""
    what, hint = "A scan has changed since it was segmented.", "it is not done again; remove its mask to have it done"
    return [Problem(what, str(scan.files[0]), hint=hint, severity="W") for scan in scans]


def _unusual(scans: Sequence[Scan], recipe: Recipe) -> list[Problem]:
    """What is odd about the names and headers of the scans."""
    with ThreadPoolExecutor(HEADER_READERS) as pool:
        found = list(pool.map(lambda file: _header_warnings(file, recipe), (f for scan in scans for f in scan.files)))
    return [*itertools.chain.from_iterable(found), *unlike_model(scans, recipe)]


def _header_warnings(file: Path, recipe: Recipe) -> list[Problem]:
    try:
        header = open_voxels(file)
        image = header.image(np.broadcast_to(np.uint8(0), header.shape))
        grid = grid_of(image, recipe.orientation)
    except InputError:  # told when the voxels are read
        return []
    return grid_warnings(image, file) + spacing_warnings(grid, recipe.spacing, file)


@dataclasses.dataclass(frozen=True)
class _Done:
    row: dict[str, Any]
    device_seconds: float


@dataclasses.dataclass(frozen=True)
class _Failed:
    problems: list[Problem]
    by_input: bool

    @classmethod
    def of(cls, scan: Scan, error: Exception) -> _Failed:
        """Without the error itself, whose traceback would keep the scan in memory."""
        if isinstance(error, InputError):
            problems = [dataclasses.replace(p, file=p.file or str(scan.files[0])) for p in error.problems]
            return cls(problems, by_input=True)
        said = (str(error) or type(error).__name__).splitlines()[0]
        if isinstance(error, OSError):
            said = error.strerror or said  # the file is a temporary one
        elif not isinstance(error, WorkError | MemoryError | jax.errors.JaxRuntimeError):
            said = f"{type(error).__name__}: {said}"
        return cls([Problem("The scan could not be segmented.", str(scan.files[0]), found=said)], by_input=False)


Outcome = tuple[Scan, _Done | _Failed]


def _stream(
    predictor: Predictor,
    scans: Sequence[Scan],
    brains: Mapping[str, Path],
    outputs: Outputs,
    uncertainty: bool,
) -> Generator[Outcome, None, None]:
    """Each scan with its outcome, as soon as its files are written or it failed.

    The work is done by other threads, so that a signal is answered at once while a scan is compiled or computed; they
    end after the scans at work.
    """
    outcomes: queue.SimpleQueue[Outcome | BaseException] = queue.SimpleQueue()
    stop = threading.Event()

    def work() -> None:
        try:
            _segment_all(predictor, scans, brains, outputs, uncertainty, outcomes.put, stop)
        except BaseException as error:
            outcomes.put(error)

    thread = threading.Thread(target=work, name="predict")
    thread.start()
    try:
        for _ in scans:
            outcome = outcomes.get()
            if isinstance(outcome, BaseException):
                raise outcome
            yield outcome
        thread.join()
    finally:
        stop.set()


def _segment_all(
    predictor: Predictor,
    scans: Sequence[Scan],
    brains: Mapping[str, Path],
    outputs: Outputs,
    uncertainty: bool,
    tell: Callable[[Outcome], None],
    stop: threading.Event,
) -> None:
    """One scan is computed while others are read and written; whatever one fails of, the others are done."""
    room = threading.Semaphore(WRITERS)  # computed scans wait on the device until there is

    def finish(scan: Scan, computed: Segmentation, members: Members | None) -> None:
        try:
            result = predictor.finish(computed)
            tell((scan, _Done(outputs.write(scan, result, members), result.seconds["device"])))
        except Exception as error:
            tell((scan, _Failed.of(scan, error)))
        finally:
            room.release()

    todo = iter(scans)
    with ThreadPoolExecutor(READERS) as reader, ThreadPoolExecutor(WRITERS) as writer:
        loading: deque[tuple[Scan, Future[LoadedScan]]] = deque()

        def read_next() -> None:
            if (scan := next(todo, None)) is not None:
                loading.append((scan, reader.submit(predictor.load, scan.files, brains.get(scan.case))))

        for _ in range(READERS):
            read_next()
        while loading and not stop.is_set():
            scan, loaded = loading.popleft()
            read_next()
            try:
                computed = predictor.infer(loaded.result())
                members = find_members(predictor, loaded.result()) if uncertainty else None
            except Exception as error:
                tell((scan, _Failed.of(scan, error)))
            else:
                room.acquire()
                writer.submit(finish, scan, computed, members)
                del computed, members
            del loaded
        reader.shutdown(cancel_futures=True)


class _Log:
    """Says what happens, and keeps the failures."""

    def __init__(self, count: int, before: int, how: str, bad: Sequence[tuple[str, Problem]]):
        self.count, self.done, self.written, self.busy = count, before, 0, 0.0
        self.failures: list[_Failed] = []
        self.bad = bad
        self.problems = {case: str(problem) for case, problem in bad}  # case -> why it has no outputs
        self.start = time.perf_counter()
        self.first: float | None = None  # when the first scan was done, which waited for the compiler
        print(
            f"{count} scan{'s' * (count != 1)}, {how}; "
            + (f"{before} done before; " if before else "")
            + ("the first scan of a size waits for the compiler" if before < count else "nothing is left to do"),
            flush=True,
        )
        if bad:
            cases = sorted({case for case, _ in bad})
            print(f"left out, for reasons that come at the end: {shown(few(cases))}", flush=True)

    def take(self, scan: Scan, outcome: _Done | _Failed) -> None:
        self.done += 1
        if isinstance(outcome, _Failed):
            self.failures.append(outcome)
            self.problems[scan.case] = "\n".join(map(str, outcome.problems))
            text = "failed"
        else:
            self.written += 1
            self.busy += outcome.device_seconds
            text = "{count} PVS, {volume_mm3:.1f} mm3, {seconds:.1f} s".format(**outcome.row)
        print(f"[{self.done}/{self.count}] {shown(scan.case)}: {text}{self._rest()}", flush=True)

    def _rest(self) -> str:
        """How long the rest will take at the pace since the first written scan."""
        now = time.perf_counter()
        if not self.written or self.done == self.count:
            return ""
        if self.first is None:
            self.first, self.done_by_first = now, self.done
            return ""
        pace = (now - self.first) / (self.done - self.done_by_first)
        return f", ETA {pace * (self.count - self.done):.0f} s"

    def finish(self, *, nothing: bool) -> None:
        """Say the speed; raise what failed. nothing: whether no scan at all is done."""
        seconds = time.perf_counter() - self.start
        speed = f"{3600 * self.written / seconds:.0f} scans an hour, device idle {max(0, 1 - self.busy / seconds):.0%}"
        if self.written or self.failures:
            done = self.count - len(self.failures)
            print(f"{done} of {self.count} scans in {seconds:.1f} s: {speed}", flush=True)
        problems = [problem for _, problem in self.bad]
        problems += [problem for failure in self.failures for problem in failure.problems]
        if problems and nothing and all(failure.by_input for failure in self.failures):
            raise InputError.of(problems)
        if problems:
            raise (NothingDone if nothing else WorkError)(in_groups(problems))
