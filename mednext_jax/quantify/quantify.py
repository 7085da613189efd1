"""The command: tables of clusters and regions from masks, for one scan or a folder of them."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from mednext_jax.errors import InputError, Problem, in_groups, shown
from mednext_jax.io.atomic import atomic_file, refuse_existing, replace_text
from mednext_jax.io.json_file import read_json
from mednext_jax.io.lock import locked
from mednext_jax.io.nifti import refuse_labels, write_image
from mednext_jax.io.voxels import Source
from mednext_jax.quantify.mask_files import (
    files_by_case,
    find_mask_files,
    read_mask,
    read_probability,
)
from mednext_jax.quantify.one_scan import Counting, Quantified, quantify_arrays
from mednext_jax.quantify.region_source import ATLAS, RegionSource, open_regions
from mednext_jax.quantify.scan_tables import table_texts
from mednext_jax.quantify.tables import (
    COHORT,
    TableFiles,
    cohort_text,
    dictionaries,
    labels_image,
    read_rows,
    read_tables,
)
from mednext_jax.version import __version__

RECORD = "quantification.json"


def quantify(
    mask: Source,
    probability: Source | None = None,
    regions: Source | None = None,
    *,
    out: str | Path | None = None,
    scans: Source | None = None,
    region_names: str | Path | None = None,
    labels: Sequence[int] | None = None,
    threshold: float | None = None,
    connectivity: int = 26,
    min_voxels: int = 5,
    min_mm3: float = 0.0,
    split: bool = False,
) -> Quantified | list[dict[str, Any]]:
    """Measure the PVS of a mask, or of all masks of a folder into the folder `out`.

    mask: a NIfTI file, an image of nibabel or an array (x, y, z; 1 mm) of 0 and 1; or a folder, also one that `predict`
    wrote. probability: the map, or a folder of maps; by default those beside the masks. regions: a map, a folder of
    maps or "atlas" (`open_regions`), with the lookup table `region_names`. scans: the scan, or a folder of them: the
    atlas needs them, and a map is checked against their brain. labels: the values of the mask that are PVS. threshold:
    the mask is a probability map, and PVS is what lies above. connectivity, min_voxels, min_mm3, split: `Counting`.

    Returns the measures of one mask; without `out` nothing is written. With `out` (or a folder) it returns the rows of
    `out`/pvs.tsv, each with its scan, and writes for each case CASE_clusters.nii.gz, CASE_clusters.tsv and
    CASE_regions.tsv (BIDS masks: `TableFiles.bids`), and clusters.json and pvs.json that define all columns.
    A case that fails is left out, the others are done, and InputError tells the failures at the end. The same call
    goes on with a folder in which it was stopped; any other output that exists is refused.
    """
    counting = Counting(connectivity, min_voxels, min_mm3, split)
    if threshold is not None and not 0 <= threshold < 1:
        raise InputError("The threshold is not a probability.", expected="from 0 to below 1", found=threshold)
    refuse_labels(labels or ())
    reading = _Reading(None if labels is None else tuple(labels), threshold)
    of_folder = isinstance(mask, str | os.PathLike) and Path(mask).is_dir()
    if out is None and not of_folder:
        source = open_regions(regions, region_names)
        return reading.measure("the mask", reading.mask(mask), mask, probability, scans, source, counting)
    if out is None:
        raise InputError("The tables of a folder need an output folder.", file=mask, hint="name one: out=, -o OUT")
    if not isinstance(mask, str | os.PathLike):
        raise InputError(
            "Only files are measured into a folder.", expected="a file or a folder", found=type(mask).__name__
        )
    return _quantify_files(Path(mask), probability, regions, Path(out), scans, region_names, reading, counting)


@dataclasses.dataclass(frozen=True)
class _Reading:
    """How masks are read: the labels that are PVS, or the threshold of a probability."""

    labels: tuple[int, ...] | None
    threshold: float | None

    def mask(self, source: Source) -> nib.Nifti1Image:
        return read_mask(source, labels=self.labels, threshold=self.threshold)

    def measure(
        self,
        case: str,
        mask: nib.Nifti1Image,
        source: Source,
        probability: Source | None,
        scan: Source | None,
        regions: RegionSource | None,
        counting: Counting,
    ) -> Quantified:
        """The measures of the mask that was read from `source`."""
        if probability is None and self.threshold is not None:
            probability = source
        values = None if probability is None else read_probability(probability, mask)
        found = None if regions is None else regions(case, mask, scan)
        array, affine = np.asanyarray(mask.dataobj) > 0, np.asarray(mask.affine, np.float64)
        measured = quantify_arrays(array, affine, values, None if found is None else found.brain, counting)
        return measured if found is None else found.told_in(measured)


def _quantify_files(
    masks: Path,
    probability: Source | None,
    regions: Source | None,
    out: Path,
    scans: Source | None,
    region_names: str | Path | None,
    reading: _Reading,
    counting: Counting,
) -> list[dict[str, Any]]:
    files, others = find_mask_files(masks)
    cases = [file.case for file in files]
    maps = {} if probability is None else _by_case(probability, cases, "probability maps")
    images = {} if scans is None else _by_case(scans, cases, "scans")
    source = open_regions(regions, region_names, single=len(files) == 1)
    settings = {
        "masks": masks.resolve().as_posix(),
        "regions": str(regions) if regions is None or regions == ATLAS else Path(str(regions)).resolve().as_posix(),
        "region_names": None if region_names is None else str(region_names),
        "labels": None if reading.labels is None else list(reading.labels),
        "threshold": reading.threshold,
        **dataclasses.asdict(counting),
        "mednext_jax": __version__,
    }
    if others:
        print(in_groups(others), flush=True)
    _claim(out, settings)
    targets = {
        file.case: TableFiles.bids(file.folder, file.case) if file.is_bids else TableFiles.plain(file.case)
        for file in files
    }
    before = read_tables({case: out / names.regions for case, names in targets.items()})
    problems: list[Problem] = []
    done: list[tuple[str, list[dict[str, str]]]] = []
    with locked(out / ".quantify.lock", "Another quantify writes into this folder."):
        with atomic_file(out / RECORD) as record:
            record.write_text(json.dumps(settings, indent=2) + "\n")
        for number, file in enumerate(files, 1):
            try:
                if file.case not in before:
                    mask, beside = reading.mask(file.mask), maps.get(file.case, file.probability)
                    scan = images.get(file.case)
                    found = reading.measure(file.case, mask, file.mask, beside, scan, source, counting)
                    write_tables(out, targets[file.case], found, mask)
                    _tell(number, len(files), file.case, found)
                rows = before.get(file.case) or read_rows(out / targets[file.case].regions)
                done.append((file.case, rows))
            except InputError as error:
                problems += [dataclasses.replace(p, file=p.file or str(file.mask)) for p in error.problems]
        if done:
            replace_text(out / COHORT, cohort_text(done))
            for name, text in dictionaries().items():
                replace_text(out / name, text)
        else:
            (out / RECORD).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        (out / ".quantify.lock").unlink(missing_ok=True)
        out.rmdir()  # only if nothing was written
    if problems:
        raise InputError.of(problems)
    return [{"scan": case} | row for case, rows in done for row in rows]


def write_tables(out: Path, files: TableFiles, found: Quantified, like: nib.Nifti1Image) -> None:
    """Write the files of one scan into the folder `out`; the table of regions last: where it is, the others are."""
    write_image(out / files.labels, labels_image(found, like))
    for path, text in table_texts(files, found).items():
        replace_text(out / path, text)


def _by_case(source: Source, cases: Sequence[str], what: str) -> dict[str, Path]:
    if not isinstance(source, str | os.PathLike):
        raise InputError(f"The {what} of files are files.", expected="a file or a folder", found=type(source).__name__)
    return files_by_case(Path(source), cases, what)


def _claim(out: Path, settings: dict[str, Any]) -> None:
    """Make the folder, or go on in one that the same call has begun; raises InputError for any other."""
    record = out / RECORD
    if record.is_file():
        before = read_json(record)
        differing = [name for name in settings if not isinstance(before, dict) or before.get(name) != settings[name]]
        if differing:
            name = differing[0]
            raise InputError(
                f"The output exists already and was made with other settings ({', '.join(differing)}).",
                file=record,
                expected=f"{name} {json.dumps(settings[name])}",
                found=json.dumps(before.get(name) if isinstance(before, dict) else before)[:300],
                hint="name another output, or remove this one first",
            )
        return
    refuse_existing(out)
    out.mkdir(parents=True, exist_ok=True)


def _tell(number: int, total: int, case: str, found: Quantified) -> None:
    print(f"[{number}/{total}] {shown(case)}: {found.in_words()}", flush=True)
    for warning in found.warnings:
        print(f"  {shown(warning)}", flush=True)
