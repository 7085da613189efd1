"""Which masks are measured: one file, a folder of masks, or what `predict` wrote; with probabilities and scans."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

from mednext_jax.errors import InputError, Problem
from mednext_jax.io.brain_masks import is_brain_mask
from mednext_jax.io.geometry import grid_problems
from mednext_jax.io.nifti import image_like, read_labels, read_scan
from mednext_jax.io.nifti_names import (
    case_of,
    few,
    files_below,
    files_in,
    is_nifti_name,
    is_scan_name,
    left_out,
    stem,
)
from mednext_jax.io.voxels import Source

_CHANNEL = re.compile(r"_(0000|T1w|T2w|FLAIR)$")
# What `predict` and `quantify` write beside masks.
_OTHERS = re.compile(r"_(probability|probseg|clusters)$|_seg-PVS_dseg$")


@dataclasses.dataclass(frozen=True)
class MaskFile:
    """One case. mask: its file; probability: that beside it, if any. folder: where, below the source."""

    case: str
    mask: Path
    probability: Path | None = None
    folder: Path = Path()

    @property
    def is_bids(self) -> bool:
        """Whether the mask is named as BIDS names one of PVS: sub-01_space-orig_label-PVS_mask."""
        return self.mask.name.startswith("sub-") and "_label-PVS_mask." in self.mask.name


def find_mask_files(source: Path) -> tuple[list[MaskFile], list[Problem]]:
    """The masks of a file or a folder and those below it, sorted, and warnings of what is left out.

    In a folder with names in _mask, no other file is a mask; brain masks and probabilities never are. Raises
    InputError if there is none, or if two are of one case.
    """
    if not source.is_dir():
        if not source.is_file():
            raise InputError("There are no masks.", file=source, expected="a folder or a NIfTI file", found="nothing")
        return [MaskFile(case_of(source), source, _probability_beside(source, files_in(source.parent)))], []
    files = files_below(source)
    images = [p for p in files if is_nifti_name(p) and not is_brain_mask(p) and not _OTHERS.search(stem(p))]
    masks = [p for p in images if stem(p).endswith("_mask")] or images
    others = left_out(files, source)
    if not masks:
        raise InputError(
            "There are no masks.",
            file=source,
            expected="a folder with CASE_mask.nii.gz or CASE.nii.gz",
            found=others[0].found if others else "a folder without NIfTI files other than brain masks",
            hint=others[0].hint if others else None,
        )
    cases: dict[str, MaskFile] = {}
    for path in masks:
        case = case_of(path)
        if case in cases:
            hint = "keep one of them"
            raise InputError("Two masks are of one case.", file=path, found=cases[case].mask, hint=hint)
        folder = path.parent.relative_to(source)
        cases[case] = MaskFile(case, path, _probability_beside(path, files), folder)
    return sorted(cases.values(), key=lambda found: found.case), others


def files_by_case(source: Path, cases: Sequence[str], what: str) -> dict[str, Path]:
    """Case -> its file among those of a folder and below it (or the one file); cases without one are left out.

    CASE_0000.nii.gz, CASE_T2w.nii.gz and the like are of CASE, where CASE.nii.gz is not there.
    """
    if not source.exists():
        raise InputError(f"The {what} are missing.", file=source, expected="a folder or a NIfTI file", found="nothing")
    if source.is_file():
        return dict.fromkeys(cases, source) if len(cases) == 1 else {case_of(source): source}
    found: dict[str, Path] = {}
    images = [p for p in files_below(source) if is_scan_name(p) and not is_brain_mask(p)]
    for path in images:
        found.setdefault(_CHANNEL.sub("", case_of(path)), path)
    found |= {case_of(path): path for path in images}
    return {case: found[case] for case in cases if case in found}


def read_mask(source: Source, *, labels: Sequence[int] | None, threshold: float | None) -> nib.Nifti1Image:
    """The mask as uint8 of 0 and 1 on its own grid.

    labels: the values that are PVS; None for a mask with one value above 0. threshold: for a probability map.
    Raises InputError for a map of other values, with what it looks like.
    """
    if threshold is not None:
        image = read_scan(source)
        values = np.asanyarray(image.dataobj)
        _require_probability(values, image, "The map to be thresholded is no probability.")
        return image_like((values > threshold).astype(np.uint8), image, np.uint8)
    try:
        image = read_labels(source)
    except InputError as error:
        if any("not integers" in problem.what for problem in error.problems):
            hint = "is it a probability map? Then --threshold 0.5; a mask must be resampled with nearest neighbour"
            raise InputError.of(dataclasses.replace(p, hint=hint) for p in error.problems) from None
        raise
    values = np.asanyarray(image.dataobj)
    there = [int(v) for v in np.flatnonzero(np.bincount(values.ravel())) if v]
    file = str(source) if isinstance(source, str | Path) else image.get_filename()
    if labels is None:
        if len(there) > 1:
            raise InputError(
                "The mask has several values.",
                file=file,
                expected="0, and 1 at PVS",
                found=few([str(v) for v in there]),
                hint="say which are PVS: --labels 1 (or 1,2)",
            )
        return image_like((values > 0).astype(np.uint8), image, np.uint8)
    return image_like(np.isin(values, labels).astype(np.uint8), image, np.uint8)


def read_probability(source: Source, mask: nib.Nifti1Image) -> np.ndarray:
    """A probability map float32 (x, y, z) on the grid of the mask; raises InputError for another grid or values."""
    try:
        image = read_scan(source)
    except InputError as error:
        if any("constant" in problem.what for problem in error.problems):  # nothing anywhere
            return np.zeros(mask.shape, np.float32)
        raise
    file = str(source) if isinstance(source, str | Path) else image.get_filename()
    problems = grid_problems(image, mask, "The probability map", file, mask.get_filename() or "the mask")
    if any(problem.severity == "E" for problem in problems):
        raise InputError.of(problems)
    values = np.asanyarray(image.dataobj)
    _require_probability(values, image, "The probability map has values that are no probabilities.")
    return values


def _require_probability(values: np.ndarray, image: nib.Nifti1Image, what: str) -> None:
    low, high = float(values.min()), float(values.max())
    if low < -1e-6 or high > 1 + 1e-6:
        raise InputError(what, file=image.get_filename(), expected="values from 0 to 1", found=f"{low:g} to {high:g}")


def _probability_beside(mask: Path, files: Sequence[Path]) -> Path | None:
    case = case_of(mask)
    names = {
        f"{case}_probability",
        re.sub(r"_mask$", "_probseg", stem(mask)),
        re.sub(r"_mask$", "_probability", stem(mask)),
    }
    found = [p for p in files if p.parent == mask.parent and is_nifti_name(p) and stem(p) in names and p != mask]
    return found[0] if len(found) == 1 else None
