"""Segment many scans: the next is read and the last one written while the device computes."""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax

from mednext_jax.errors import InputError, Problem, WorkError
from mednext_jax.inference.on_device import LoadedScan
from mednext_jax.inference.outputs import describe_run, table_paths, write_scan, write_tables
from mednext_jax.inference.predictor import Predictor, Segmentation
from mednext_jax.inference.scans import Scan, find_scans
from mednext_jax.io.atomic import refuse_existing
from mednext_jax.io.brain_masks import BrainMasks
from mednext_jax.io.nifti_header import NIFTI_ENDINGS
from mednext_jax.parallel.processes import checked_together, initialise, leaving_at_once, meet

# Scans under way beside the one on the device: a GPU may take less time for a scan than a thread to read or to write.
READERS = 2
WRITERS = 4
# What one scan can do to its own run without harm to the others: a bad file, or one too large for memory.
SCAN_FAILURES = (InputError, OSError, MemoryError, jax.errors.JaxRuntimeError)


def predict(
    inputs: str | Path,
    output: str | Path,
    models: str | Path | Sequence[str | Path],
    threshold: float | None = None,
    tta: bool = True,
    step: float = 0.5,
    part: tuple[int, int] = (1, 1),
    *,
    brain_masks: str | Path | None = None,
    tile_batch: int | None = None,
    skip_background: bool = False,
    background: str = "auto",
) -> list[dict[str, Any]]:
    """Segment a scan, a folder of scans or a BIDS data set (`find_scans`) into the folder `output`.

    Each scan gives CASE_mask.nii.gz (uint8) and CASE_probability.nii.gz (float32) on its own grid; a BIDS data set
    gives a derivative, sub-.../anat/..._space-orig_label-PVS_mask.nii.gz and _probseg.nii.gz with side-cars. Besides:
    volumes.tsv (scan, 26-connected clusters, mm3, seconds) and prediction.json (models, settings, software).
    part: (k, n) takes every n-th of the sorted scans from the k-th, for n processes that write into one folder. When
    several processes were started together (`parallel.processes.initialise`), each takes its part by itself.
    brain_masks: a folder (io.brain_masks); all but the brain is set to 0. A model trained with such masks needs them.
    Other arguments as `Predictor`. Returns the rows of volumes.tsv.

    Names, channels and headers of all scans are checked before any is computed, and an output that exists is refused;
    either raises InputError and nothing is written. A scan whose voxels turn out wrong, or that is too large for the
    device, is left out, the others are done, and the failures are raised together at the end: InputError if all of
    them are the input's fault, else WorkError.
    """
    initialise()
    if part == (1, 1):
        part = jax.process_index() + 1, jax.process_count()
    inputs, output = Path(inputs), Path(output)
    k, n = part
    with checked_together():
        if not 1 <= k <= n:
            raise InputError(
                "The part is not one of its number of parts.", expected="K/N, 1 <= K <= N", found=f"{k}/{n}"
            )
        if output.name.endswith(NIFTI_ENDINGS):
            raise InputError("The output is a folder, not a file.", file=output, hint="name a new folder")
        if n == 1:
            refuse_existing(output)
        predictor = Predictor(
            [models] if isinstance(models, str | Path) else list(models),
            threshold=threshold,
            tta=tta,
            step=step,
            tile_batch=tile_batch,
            skip_background=skip_background,
            background=background,
        )
        scans = find_scans(inputs, predictor.recipe.channel_names)[k - 1 :: n]
        brains = _brain_masks(brain_masks, predictor, scans)
        for path in [*table_paths(output, part), *(output / p for s in scans for p in (s.mask, s.probability))]:
            refuse_existing(path)

    settings = describe_run(predictor, inputs, part)
    log = _Log(len(scans), f"{len(predictor.paths)} model{'s' * (len(predictor.paths) > 1)}, {settings['device']}")
    outcomes = _stream(predictor, scans, brains, lambda s, result: write_scan(output, s, result, settings))
    with leaving_at_once():
        try:
            for scan, outcome in outcomes:
                log.take(scan, outcome)
        finally:  # what is done is done, also after Ctrl-C
            if log.rows:
                write_tables(output, log.rows, settings, part, bids=bool(scans[0].bids_sources))
        meet("predicted")  # JAX would end processes that wait at their exit for longer than five minutes
    log.finish()
    return log.rows


def _brain_masks(folder: str | Path | None, predictor: Predictor, scans: Sequence[Scan]) -> dict[str, Path]:
    """Case -> its brain mask, if there are any; raises InputError if one is missing."""
    needed = "brain" in predictor.recipe.cleaning
    if needed and folder is None:
        raise InputError(
            "The model was trained on brain-extracted scans and needs a brain mask for each scan.",
            file=predictor.paths[0],
            hint="give the folder of the masks: --brain-masks MASKS",
        )
    if folder is None:
        return {}
    cases = [scan.case for scan in scans]
    return dict(zip(cases, BrainMasks.open(folder).paths(cases), strict=True))


@dataclasses.dataclass(frozen=True)
class _Done:
    row: dict[str, Any]
    device_seconds: float


def _stream(
    predictor: Predictor, scans: Sequence[Scan], brains: Mapping[str, Path], write
) -> Iterator[tuple[Scan, _Done | Exception]]:
    """Each scan with its outcome, in order; one is computed while others are read and written."""

    def finish(scan: Scan, computed: Segmentation) -> _Done:
        result = predictor.finish(computed)
        return _Done(write(scan, result), result.seconds["device"])

    todo = iter(scans)
    with ThreadPoolExecutor(READERS) as reader, ThreadPoolExecutor(WRITERS) as writer:
        loading: deque[tuple[Scan, Future[LoadedScan]]] = deque()
        writing: deque[tuple[Scan, Future[_Done]]] = deque()

        def read_next() -> None:
            if (scan := next(todo, None)) is not None:
                loading.append((scan, reader.submit(predictor.load, scan.files, brains.get(scan.case))))

        for _ in range(READERS):
            read_next()
        while loading:
            scan, loaded = loading.popleft()
            read_next()
            try:
                computed = predictor.infer(loaded.result())
            except SCAN_FAILURES as error:
                yield from _drain(writing, 0)
                yield scan, error
            else:
                writing.append((scan, writer.submit(finish, scan, computed)))
                yield from _drain(writing, WRITERS)
        yield from _drain(writing, 0)


def _drain(writing: deque, keep: int) -> Iterator[tuple[Scan, _Done]]:
    """Scans whose files are written; a failure to write is not the scan's and stops the run."""
    while len(writing) > keep:
        scan, done = writing.popleft()
        yield scan, done.result()


class _Log:
    """Says what happens, and keeps the rows and the failures."""

    def __init__(self, count: int, how: str):
        self.count, self.start, self.busy = count, time.perf_counter(), 0.0
        self.rows: list[dict[str, Any]] = []
        self.failures: list[tuple[Scan, Exception]] = []
        print(f"{count} scan{'s' * (count != 1)}, {how}; the first scan of a size waits for the compiler", flush=True)

    def take(self, scan: Scan, outcome: _Done | Exception) -> None:
        if isinstance(outcome, Exception):
            self.failures.append((scan, outcome))
            text = "failed"
        else:
            self.rows.append(outcome.row)
            self.busy += outcome.device_seconds
            text = "{count} PVS, {volume_mm3:.1f} mm3, {seconds:.1f} s".format(**outcome.row)
        done = len(self.rows) + len(self.failures)
        rest = (time.perf_counter() - self.start) / done * (self.count - done)
        print(f"[{done}/{self.count}] {scan.case}: {text}" + (f", ETA {rest:.0f} s" if rest else ""), flush=True)

    def finish(self) -> None:
        """Say the speed; raise what failed."""
        seconds = time.perf_counter() - self.start
        speed = (
            f"{3600 * len(self.rows) / seconds:.0f} scans an hour, device idle {max(0, 1 - self.busy / seconds):.0%}"
        )
        print(f"{len(self.rows)} of {self.count} scans in {seconds:.1f} s: {speed}", flush=True)
        problems = [problem for scan, error in self.failures for problem in _problems(scan, error)]
        if problems and all(isinstance(error, InputError) for _, error in self.failures):
            raise InputError.of(problems)
        if problems:
            raise WorkError("\n".join(map(str, problems)))


def _problems(scan: Scan, error: Exception) -> list[Problem]:
    if isinstance(error, InputError):
        return [dataclasses.replace(p, file=p.file or str(scan.files[0])) for p in error.problems]
    found = (str(error) or type(error).__name__).splitlines()[0]
    return [Problem("The scan could not be segmented.", str(scan.files[0]), found=found)]
