"""Real scans for `bench_real`: each cut to its brain, with its region map, and what a model or a tool says of it."""

from __future__ import annotations

import dataclasses
import functools
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from mednext_jax.errors import InputError
from mednext_jax.io.contrast import contrast_in
from mednext_jax.io.nifti import image_like, read_labels, read_scan, write_image
from mednext_jax.io.nifti_names import case_of, files_in, is_nifti_name
from mednext_jax.measure.freesurfer import FREESURFER
from mednext_jax.measure.parcellation import Parcellation
from mednext_jax.quantify.atlas import register_atlas
from mednext_jax.quantify.region_source import RegionSource
from mednext_jax.simulate.acquisition import PAINTED_CONTRASTS
from mednext_jax.simulate.on_scans import regions_of
from tools.real_tissue import estimate_tissue

MARGIN = 4  # voxels around the brain
BEST = ("T1w", "T2w", "FLAIR")  # which contrast of a person tells the tissues


@dataclasses.dataclass(frozen=True)
class Case:
    """One scan, cut to its brain. box: of the whole scan. lesions: boolean or None."""

    name: str
    person: str
    contrast: str
    path: Path
    whole: nib.Nifti1Image
    box: tuple[slice, ...]
    lesions: np.ndarray | None

    @functools.cached_property
    def scan(self) -> nib.Nifti1Image:
        """The scan in its box."""
        return self.whole.slicer[self.box]

    @property
    def array(self) -> np.ndarray:
        """The voxels (x, y, z) in the box."""
        return np.asarray(self.scan.dataobj)


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a model or a tool says of a scan, cut to the box. probability: None if it gives none."""

    mask: np.ndarray
    probability: np.ndarray | None
    threshold: float | None = None


def open_cases(paths: Mapping[str, Path]) -> list[Case]:
    """The scans among files by name, with the lesion masks; what cannot be used is told and left out."""
    lesions = {name.removesuffix("_lesions"): path for name, path in paths.items() if name.endswith("_lesions")}
    cases = []
    for name, path in paths.items():
        if name.endswith("_lesions"):
            continue
        contrast = contrast_in(name)
        try:
            if contrast not in PAINTED_CONTRASTS:
                expected = f"one of {', '.join(PAINTED_CONTRASTS)}"
                raise InputError("The name of a scan tells no contrast.", file=path, expected=expected, found=contrast)
            whole = read_scan(path)
            at = np.argwhere(np.asarray(whole.dataobj) != 0)
            low, high = np.maximum(at.min(0) - MARGIN, 0), at.max(0) + 1 + MARGIN
            box = tuple(slice(int(a), int(min(b, n))) for a, b, n in zip(low, high, whole.shape, strict=True))
            person = _person(name)
            mask = None
            if person in lesions:
                image = read_labels(lesions[person])
                if image.shape == whole.shape and np.allclose(image.affine, whole.affine, atol=1e-3):
                    mask = np.asarray(image.dataobj)[box] > 0
                else:
                    print(f"{name}: the lesion mask is on another grid, and not used", file=sys.stderr, flush=True)
            cases.append(Case(name, person, str(contrast), path, whole, box, mask))
        except InputError as error:
            tell(error)
    return cases


def _person(name: str) -> str:
    """The name without the word of its contrast: ms07 of ms07_T1."""
    return "_".join(word for word in name.split("_") if contrast_in(word) is None)


def brains_of(cases: Sequence[Case], source: RegionSource | None, folder: Path) -> dict[str, Parcellation]:
    """The region map of each scan of a person, given or estimated; scans on one grid share the best estimate."""
    found: dict[str, Parcellation] = {}
    estimated: list[tuple[Case, np.ndarray]] = []
    for case in sorted(cases, key=lambda c: BEST.index(c.contrast)):
        try:
            if source is not None:
                found[case.name] = regions_of(source, case.name, case.whole, case.path)[0]
                continue
            same = [values for other, values in estimated if same_grid(case, other)]
            if same:
                values = same[0]
            else:
                atlas, _ = register_atlas(case.name, case.path, case.whole)
                values = np.zeros(case.whole.shape, np.int16)
                values[case.box] = estimate_tissue(case.scan, atlas, case.contrast == "T2w", case.lesions)
                estimated.append((case, values))
            write_image(folder / f"{case.name}.nii.gz", image_like(values, case.whole, np.int16))
            found[case.name] = Parcellation.of(values, case.whole.affine, FREESURFER).refined()
        except InputError as error:
            tell(error)
    return found


def same_grid(one: Case, other: Case) -> bool:
    """Whether two scans lie on one grid."""
    return one.whole.shape == other.whole.shape and np.allclose(one.whole.affine, other.whole.affine, atol=1e-3)


def cut_to_brain(brain: Parcellation, case: Case) -> Parcellation:
    """A map on the grid of the whole scan, cut to its box."""
    if brain.codes.shape != case.whole.shape or not np.allclose(brain.affine, case.whole.affine, atol=1e-3):
        return brain
    return dataclasses.replace(brain, codes=brain.codes[case.box], affine=case.scan.affine)


def ask_model(predictor: Any, case: Case, scan: nib.Nifti1Image) -> Answer:
    """What a `Predictor` says of a case's `scan`, which may be the painted one."""
    scan.set_filename(str(case.path))  # whose name tells the contrast
    answer = predictor(scan)
    labels = predictor.recipe.labels
    mask = np.asarray(answer.mask.dataobj)[case.box]
    pvs = mask == labels["pvs"] if len(labels) > 2 and "pvs" in labels else mask > 0
    threshold = getattr(answer, "threshold", predictor.threshold)
    return Answer(pvs, np.asarray(answer.probability.dataobj)[case.box], threshold)


def read_answer(folder: Path, case: Case, name: str) -> Answer | None:
    """The mask of a case or of its painted scan, and the probability if it is there; None without a mask."""
    files = [p for p in files_in(folder) if is_nifti_name(p) and case_of(p) == name]
    maps = [p for p in files if re.search(r"_prob(ability|seg)\.", p.name)]
    chosen = [p for p in files if p not in maps]
    if not chosen:
        if name == case.name:
            raise InputError("A scan has no mask.", file=folder, expected=f"{name}_mask.nii.gz", found="nothing")
        return None
    if len(chosen) > 1:
        raise InputError(
            "A scan has several masks.", file=folder, expected="one", found=", ".join(p.name for p in chosen)
        )
    arrays = []
    for path, read in ((chosen[0], read_labels), *((p, read_scan) for p in maps[:1])):
        image = read(path)
        if image.shape != case.whole.shape or not np.allclose(image.affine, case.whole.affine, atol=1e-3):
            raise InputError(
                "A mask is not on the grid of its scan.", file=path, expected=case.whole.shape, found=image.shape
            )
        arrays.append(np.asarray(image.dataobj)[case.box])
    return Answer(arrays[0] > 0, arrays[1] if len(arrays) > 1 else None)


def tell(error: InputError) -> None:
    """Print what is wrong with one scan; the others go on."""
    print(error, file=sys.stderr, flush=True)
