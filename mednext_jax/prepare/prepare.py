"""`prepare`: verify a data set, bring every case to the network's grid and intensities, split it, store it.

Nothing is written before the whole data set has been verified. A run that stops goes on where it stopped: each stored
case carries a key of its source files' hashes and of everything that shaped it, and is made again when that changes.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from tqdm import tqdm

from mednext_jax.data.case_store import ANNOTATED, CaseWriter
from mednext_jax.data.prepared import PreparedMeta
from mednext_jax.data.splits import Fold, make_splits, subject_leaks
from mednext_jax.errors import InputError, Problem, in_groups, shown
from mednext_jax.io.absent import found_at, is_named
from mednext_jax.io.atomic import refuse_existing
from mednext_jax.io.bids import is_bids, read_bids
from mednext_jax.io.brain_masks import BrainMasks, read_brain
from mednext_jax.io.geometry import in_mm
from mednext_jax.io.lock import locked
from mednext_jax.io.nifti import grid_of, label_volume, read_labels, read_scan, to_volume
from mednext_jax.io.nnunet_raw import read_nnunet_raw
from mednext_jax.io.raw_dataset import RawCase, RawDataset
from mednext_jax.io.validate import CaseReport, validate
from mednext_jax.measure.regions import NAMES, RegionMaps, only_named
from mednext_jax.prepare.foreground import draw_foreground
from mednext_jax.prepare.plan import (
    brain_extracted,
    draw_intensities,
    intensity_properties,
    median_spacing,
    use_mask_for_norm,
)
from mednext_jax.preprocess.clean import clean, packages
from mednext_jax.preprocess.normalise import needs_intensities, scheme_of, uses_mask
from mednext_jax.preprocess.trip import Properties, preprocess_scan, to_prepared_grid
from mednext_jax.version import __version__

# Part of every case's key: raise it when the same files and settings would give other voxels.
PIPELINE = 1
SPACING_RANGE = (0.05, 20.0)
REGIONS = "regions"  # the folder of region maps in a data set
LOCK = ".lock"  # held in the output while a data set is written
PACKAGES = ("mednext-jax", "nibabel", "numpy", "scipy", "tensorstore")

Spacing = float | Sequence[float] | str | None
Item = TypeVar("Item")
Result = TypeVar("Result")


def prepare(
    dataset: str | os.PathLike,
    out: str | os.PathLike,
    spacing: Spacing = 0.8,
    splits: str | os.PathLike = "kfold:5",
    labels: str | os.PathLike | None = None,
    *,
    suffix: str | None = None,
    regions: str | os.PathLike | None = None,
    n4: bool = False,
    denoise: bool = False,
    brain_masks: str | os.PathLike | None = None,
    threads: int | None = None,
) -> PreparedMeta:
    """Verify and preprocess a data set into the folder (or gs://, s3:// URL) `out`; prints a summary.

    `dataset`: an nnU-Net raw data set, or a BIDS one with its label maps in the derivatives folder `labels` (`suffix`
    chooses among T1w, T2w, ...; with commas: several channels). `spacing`: mm, isotropic or three along (d, h, w) =
    (z, y, x); "median" (nnU-Net's rule) or None, each scan's own. `splits`: see data.splits.make_splits. `regions`: a
    folder of region maps (see measure.regions; default: `dataset`/regions if it is one), by which validation scores are
    told apart.
    `n4`, `denoise`, `brain_masks` (a folder, see io.brain_masks): see preprocess.clean; all off by default.
    Raises InputError with all problems together, if `out` holds a data set made with other settings, or if another
    process writes one there (known for folders only).
    """
    switches = {"n4": n4, "denoise": denoise, "brain": brain_masks is not None}
    steps = tuple(step for step, on in switches.items() if on)
    packages(steps)  # before any work
    raw = _with_regions(_read_dataset(Path(dataset), labels, suffix), regions)
    if brain_masks is not None:
        raw = BrainMasks.open(brain_masks).added_to(raw)
    spacing = _checked_spacing(spacing)
    settings = {
        "spacing": list(spacing) if isinstance(spacing, tuple) else spacing,
        "splits": str(splits),
        "cleaning": list(steps),
    }
    writer = _open_output(out, raw, settings)
    threads = threads or min(4, os.cpu_count() or 1)
    folds: list[Fold] = []
    try:
        folds = make_splits(splits, raw.subjects, raw.participants)
    except InputError as error:  # reported together with what is wrong with the files
        raw = dataclasses.replace(raw, problems=(*raw.problems, *error.problems))

    with tqdm(total=len(raw.cases), desc="verify", unit="case", disable=None) as bar:
        reports = validate(raw, threads=threads, progress=bar.update)
    warnings = [problem for report in reports for problem in report.problems]
    if warnings := [*warnings, *subject_leaks(folds, raw.subjects)]:
        print(in_groups(warnings))

    meta = _describe(raw, reports, spacing, settings, threads)
    keys = {report.id: _case_key(report, meta) for report in reports}
    written = 0
    if writer.keys() != keys or writer.splits() != folds or not _same(writer.meta(), meta):
        with _alone(out):
            _open_output(out, raw, settings)  # another process may have written there in the meantime
            written = _write_all(writer, raw, meta, keys, folds, threads)
    print(_summary(meta, out, len(folds), written))
    return meta


def _read_dataset(root: Path, labels: str | os.PathLike | None, suffix: str | None) -> RawDataset:
    if is_named(root / "dataset.json"):
        given = {"--labels": labels, "--suffix": suffix}
        if of_bids := [name for name, value in given.items() if value is not None]:
            raise InputError(
                f"{' and '.join(of_bids)} are for BIDS data sets; this is an nnU-Net raw one.",
                file=root / "dataset.json",
                expected="label maps in labelsTr, channels as dataset.json names them",
                found=", ".join(f"{name} {given[name]}" for name in of_bids),
                hint="leave them out, or name the BIDS data set",
            )
        return read_nnunet_raw(root)
    if not (root.is_dir() and is_bids(root)):
        found, hint = ("a file", None) if root.exists() else found_at(root)
        raise InputError(
            "The data set is not understood.",
            file=root,
            expected="an nnU-Net raw data set (dataset.json, imagesTr, labelsTr) or a BIDS data set",
            found="a folder without dataset.json and without sub-*/anat" if root.is_dir() else found,
            hint=hint
            or (
                f"name the folder of this file: {root.parent}"
                if root.is_file()
                else "check the path, or write a dataset.json"
            ),
        )
    if labels is None:
        raise InputError(
            "A BIDS data set needs its label maps.",
            file=root,
            expected="--labels FOLDER, for example derivatives/pvs",
            hint="name the derivatives folder that holds the label maps",
        )
    return read_bids(root, labels, suffix)


def _with_regions(raw: RawDataset, folder: str | os.PathLike | None) -> RawDataset:
    if folder is None and not is_named(raw.root / REGIONS / NAMES):
        return raw
    return RegionMaps.open(Path(folder or raw.root / REGIONS)).added_to(raw)


def _checked_spacing(spacing: Spacing) -> tuple[float, float, float] | str | None:
    if spacing is None or spacing == "median":
        return spacing
    try:
        sizes = np.broadcast_to(np.asarray(spacing, float), 3)
    except ValueError:
        sizes = np.zeros(3)
    if not ((sizes >= SPACING_RANGE[0]) & (sizes <= SPACING_RANGE[1])).all():
        raise InputError(
            "The target spacing is not understood.",
            expected=f"{SPACING_RANGE[0]} to {SPACING_RANGE[1]} mm, 'median' or none",
            found=spacing,
            hint="for example --spacing 0.8",
        )
    d, h, w = (float(size) for size in sizes)
    return d, h, w


def _open_output(out: str | os.PathLike, raw: RawDataset, settings: dict[str, Any]) -> CaseWriter:
    """The writer; refuses, before any work, a place with something else or a data set made with other settings."""
    writer = CaseWriter(out)
    if not _is_url(out) and (Path(out).is_file() or not writer.started):
        refuse_existing(out, hidden=False)
    before = writer.meta()
    if before is None:
        return writer
    asked = {"name": raw.name, "channel_names": raw.channel_names, "labels": raw.labels, "settings": settings}
    for field, value in asked.items():
        wanted, there = (json.dumps(x) for x in (value, getattr(before, field)))
        if wanted != there:
            raise InputError(
                f"The output holds a data set made with other {field.replace('_', ' ')}.",
                file=out,
                expected=wanted,
                found=there,
                hint="name another output, or remove this one first",
            )
    return writer


def _is_url(out: str | os.PathLike) -> bool:
    return "://" in os.fspath(out)


@contextlib.contextmanager
def _alone(out: str | os.PathLike) -> Iterator[None]:
    """Hold the output folder: two processes with other settings would mix their cases under one description."""
    if _is_url(out):
        yield
        return
    Path(out).mkdir(parents=True, exist_ok=True)
    with locked(Path(out) / LOCK, "Another prepare writes into this folder."):
        yield


def _write_all(
    writer: CaseWriter,
    raw: RawDataset,
    meta: PreparedMeta,
    keys: dict[str, str],
    folds: Sequence[Fold],
    threads: int,
) -> int:
    """Write the cases that are not there as they should be, remove others, then the description; how many it wrote."""
    there = writer.keys()
    todo = [case for case in raw.cases if there.get(case.id) != keys[case.id]]
    writer.begin()
    for case_id in sorted(set(there) - set(keys)):
        writer.remove_case(case_id)
    with tqdm(total=len(todo), desc="prepare", unit="case", disable=None) as bar:
        _for_each(lambda case: _write(case, meta, keys[case.id], writer), todo, threads, bar.update)
    writer.finish(meta, folds)
    return len(todo)


def _describe(
    raw: RawDataset, reports: Sequence[CaseReport], spacing: Any, settings: dict[str, Any], threads: int
) -> PreparedMeta:
    """The description of the data set to be, from what verifying it found."""
    schemes = tuple(scheme_of(name) for name in raw.channel_names)
    steps = tuple(settings["cleaning"])
    if spacing == "median":
        spacing = median_spacing([r.spacing for r in reports], [r.box_shape for r in reports])
    properties = None
    if needs_intensities(schemes):
        drawn = _for_each(
            lambda case: draw_intensities(*_read_case(case, steps)[:2], len(raw.cases)), raw.cases, threads
        )
        properties = intensity_properties(drawn)
    return PreparedMeta(
        name=raw.name,
        channel_names=raw.channel_names,
        labels=raw.labels,
        ignore_label=raw.ignore_label,
        regions_class_order=raw.regions_class_order,
        spacing=spacing,
        normalisation=schemes,
        use_mask_for_norm=use_mask_for_norm([report.relative_size for report in reports], schemes),
        intensity_properties=properties,
        brain_extracted=brain_extracted([r.zero_fraction for r in reports], [r.relative_size for r in reports]),
        cases=tuple(case.id for case in raw.cases),
        subjects=raw.subjects,
        sources={report.id: _relative(report.sources, raw.root) for report in reports},
        settings=settings,
        versions={package: _version(package) for package in (*PACKAGES, *packages(steps))},
        regions=raw.regions,
        optional_steps=steps,
    )


def _case_key(report: CaseReport, meta: PreparedMeta) -> str:
    """Changes whenever the stored voxels of a case would."""
    shaping = {
        "pipeline": PIPELINE,
        "files": list(report.sources.values()),
        "spacing": meta.spacing,
        "normalisation": meta.normalisation,
        "use_mask_for_norm": meta.use_mask_for_norm,
        "intensity_properties": meta.intensity_properties,
        "classes": sorted(meta.classes.items()),
        "ignore_label": meta.ignore_label,
        "regions": sorted(meta.regions.values()),
        "cleaning": meta.optional_steps,
    }
    return hashlib.sha256(json.dumps(shaping).encode()).hexdigest()


def _read_case(
    case: RawCase, optional_steps: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, tuple[float, float, float], dict[str, Any]]:
    """Cleaned volume (d, h, w, c), label (d, h, w), spacing in mm, and where the scan lay."""
    images = [read_scan(path) for path in case.images]
    volume, spacing, grid = to_volume(images)
    brain = None if case.brain is None else read_brain(case.brain, images[0], grid)[0]  # its warnings were told
    volume = clean(volume, spacing, optional_steps, brain)
    label = label_volume(read_labels(case.label), grid)
    return volume, label, spacing, {"stored_shape": grid.shape, "affine": grid.affine.tolist()}


def _write(case: RawCase, meta: PreparedMeta, key: str, writer: CaseWriter) -> None:
    volume, label, spacing, where = _read_case(case, meta.optional_steps)
    try:
        done = preprocess_scan(volume, spacing, meta.preprocessing, label)
    except InputError as error:
        raise InputError.of(
            dataclasses.replace(p, file=p.file or str(case.images[0])) for p in error.problems
        ) from None
    assert done.label is not None  # it was given one
    classes = dict(meta.classes)
    if meta.ignore_label is not None:
        # nnU-Net draws a patch without forced foreground from what is annotated, the outside included.
        classes[ANNOTATED] = (-1, 0, *sorted({value for values in meta.classes.values() for value in values}))
    regions = None if case.regions is None else _region_map(case.regions, meta, done.properties)
    record = {"key": key, "subject": case.subject, "properties": done.properties.to_dict(), **where}
    writer.write_case(case.id, done.volume, done.label, draw_foreground(done.label, classes), record, regions)


def _region_map(path: Path, meta: PreparedMeta, properties: Properties) -> np.ndarray:
    image = read_labels(path)
    return to_prepared_grid(only_named(label_volume(image, grid_of(image)), meta.regions.values()), properties)


def _for_each(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    threads: int,
    progress: Callable[[], object] = lambda: None,
) -> list[Result]:
    """`work` for each item in threads. Every InputError is collected and raised as one; any other error at once."""
    problems: list[Problem] = []
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        futures = [pool.submit(work, item) for item in items]
        try:
            for future in concurrent.futures.as_completed(futures):
                error = future.exception()
                if isinstance(error, InputError):
                    problems += error.problems
                elif error is not None:
                    raise error
                progress()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    if problems:
        raise InputError.of(problems)
    return [future.result() for future in futures]


def _same(before: PreparedMeta | None, now: PreparedMeta) -> bool:
    return before is not None and before.to_json() == now.to_json()


def _relative(sources: dict[str, str], root: Path) -> dict[str, str]:
    """File names from the data set's folder, so that a moved data set is still the same."""
    return {os.path.relpath(file, root): digest for file, digest in sources.items()}


def _version(package: str) -> str:
    return __version__ if package == "mednext-jax" else version(package)


def _convention(meta: PreparedMeta) -> str:
    """Over which voxels the data set's z-scores are taken, and what its scans look like; both go into the model."""
    over = "inside the non-zero mask" if meta.use_mask_for_norm else "over the whole non-zero box"
    return f"z-score {over} ({'extracted brains' if meta.brain_extracted else 'whole heads'})"


def _summary(meta: PreparedMeta, out: str | os.PathLike, folds: int, written: int) -> str:
    names = [name for name in meta.labels if meta.labels[name] not in (0, (0,))]
    spacing = "each scan's own voxel size" if meta.spacing is None else in_mm(reversed(meta.spacing))
    schemes = ", ".join(f"{c} {s}" for c, s in zip(meta.channel_names, meta.normalisation, strict=True))
    where = f", {_convention(meta)}" if uses_mask(meta.normalisation) else ""
    cleaned = f" cleaned by {', '.join(meta.optional_steps)};" if meta.optional_steps else ""
    lines = [
        f"prepared {meta.name}: {len(meta.cases)} cases of {len(set(meta.subjects.values()))} subjects in {out} "
        f"({written} written, {len(meta.cases) - written} kept)",
        f"  channels {schemes}{where};{cleaned} {spacing}; labels {', '.join(names)}; {folds} folds",
    ]
    return "\n".join(shown(line) for line in lines)
