"""A cohort's scans as a stream: the next is read and the last ones written while the device computes one."""

from __future__ import annotations

import contextlib
import dataclasses
import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import nibabel as nib

from mednext_jax.inference.failures import FailedStage, Failure
from mednext_jax.inference.flags import scan_flags
from mednext_jax.inference.on_device import LoadedScan
from mednext_jax.inference.outputs import Outputs, Written
from mednext_jax.inference.predictor import Predictor, Segmentation
from mednext_jax.inference.scan_record import FileState
from mednext_jax.inference.scans import Scan
from mednext_jax.inference.uncertainty import find_members
from mednext_jax.quantify.members import Members

# Scans under way beside the one on the device: a GPU may take less time for a scan than a thread to read or to write.
READERS = 2
WRITERS = 4


@dataclasses.dataclass(frozen=True)
class Done:
    """A scan that is written. seconds: of each stage."""

    written: Written
    seconds: dict[str, float]
    tiles: int


Outcome = tuple[Scan, Done | Failure]
# Tiles that are computed of all of a scan's; is called with (done, all) by the thread that computes.
TileProgress = Callable[[int, int], None]
# Scan -> the mask of its brain, and the name of the tool that made it.
BrainExtraction = Callable[[Scan], tuple[nib.Nifti1Image, str]]


@dataclasses.dataclass(frozen=True)
class Work:
    """What is done with each scan."""

    predictor: Predictor
    outputs: Outputs
    uncertainty: bool = False
    extract_brain: BrainExtraction | None = None
    tiles: TileProgress | None = None


@dataclasses.dataclass(frozen=True)
class _About:
    """What is known of a scan that was read, beside its voxels."""

    inputs: tuple[FileState, ...]
    tiles: int
    brain: tuple[nib.Nifti1Image, str] | None


class _AtStage(Exception):
    def __init__(self, stage: FailedStage, cause: Exception):
        super().__init__(str(cause))
        self.stage, self.cause = stage, cause


def stream(work: Work, scans: Sequence[Scan]) -> Generator[Outcome, None, None]:
    """Each scan with its outcome, as soon as its files are written or it failed.

    The work is done by other threads, so that a signal is answered at once while a scan is compiled or computed; they
    end after the scans at work.
    """
    outcomes: queue.SimpleQueue[Outcome | BaseException] = queue.SimpleQueue()
    stop = threading.Event()

    def segment() -> None:
        try:
            _segment_all(work, scans, outcomes.put, stop)
        except BaseException as error:
            outcomes.put(error)

    thread = threading.Thread(target=segment, name="predict")
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


def _segment_all(work: Work, scans: Sequence[Scan], tell: Callable[[Outcome], None], stop: threading.Event) -> None:
    """One scan is computed while others are read and written; whatever one fails of, the others are done."""
    room = threading.Semaphore(WRITERS)  # computed scans wait on the device until there is
    predictor = work.predictor

    def finish(scan: Scan, about: _About, computed: Segmentation, members: Members | None) -> None:
        try:
            with _stage("segment"):
                result = predictor.finish(computed)
            flags = scan_flags(predictor.recipe, scan.files, result.properties.spacing, result.brain_extracted)
            with _stage("write"):
                written = work.outputs.write(
                    scan,
                    result,
                    members,
                    inputs=about.inputs,
                    flags=flags,
                    training=predictor.training_ranges,
                    brain=about.brain,
                )
            tell((scan, Done(written, dict(result.seconds), about.tiles)))
        except Exception as error:
            tell((scan, _failure(scan, error)))
        finally:
            room.release()

    todo = iter(scans)
    with ThreadPoolExecutor(READERS) as reader, ThreadPoolExecutor(WRITERS) as writer:
        loading: deque[tuple[Scan, Future[tuple[LoadedScan, _About]]]] = deque()

        def read_next() -> None:
            if (scan := next(todo, None)) is not None:
                loading.append((scan, reader.submit(_read, work, scan)))

        for _ in range(READERS):
            read_next()
        while loading and not stop.is_set():
            scan, future = loading.popleft()
            read_next()
            loaded: LoadedScan | None = None
            try:
                loaded, about = future.result()
                del future
                with _stage("segment"):
                    computed = predictor.infer(loaded, work.tiles)
                    members = find_members(predictor, loaded) if work.uncertainty else None
            except Exception as error:
                tell((scan, _failure(scan, error)))
            else:
                room.acquire()
                writer.submit(finish, scan, about, computed, members)
                del computed, members
            loaded = None  # the scan's voxels may go while the next is computed
        reader.shutdown(cancel_futures=True)


def _read(work: Work, scan: Scan) -> tuple[LoadedScan, _About]:
    with _stage("read"):
        inputs = tuple(FileState.of(path) for path in scan.inputs)
    brain = None
    if work.extract_brain is not None:
        with _stage("brain"):
            brain = work.extract_brain(scan)
    with _stage("read"):
        loaded = work.predictor.load(scan.files, scan.brain if brain is None else brain[0])
    return loaded, _About(inputs, len(loaded.starts), brain)


@contextlib.contextmanager
def _stage(stage: FailedStage) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise _AtStage(stage, error) from None


def _failure(scan: Scan, error: Exception) -> Failure:
    if isinstance(error, _AtStage):
        return Failure.of(scan, error.stage, error.cause)
    return Failure.of(scan, "write", error)
