"""The maps of one tool, rater or reference by its name, read as masks or probabilities on the grid of another image."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

from mednext_jax.errors import InputError, Problem, shown
from mednext_jax.evaluate.find_masks import find_masks
from mednext_jax.io.geometry import grid_problems
from mednext_jax.io.nifti import read_labels, read_scan, refuse_labels
from mednext_jax.measure.clusters import label_clusters

# Names beside those of tools and raters: of the references, and of one tool without a name.
REFERENCE, UNNAMED = "reference", "prediction"
# Beyond 0 and 1 by the rounding of a sum of softmaxes, or of 16 bits.
PROBABILITY_TOLERANCE = 1e-3
# Of the smaller field of view; less is another scan, or an affine that was lost.
LEAST_OVERLAP = 0.5
# More values than that are of an image or a parcellation, unless each cluster has its own.
MANY_LABELS = 20
# Of the clusters; a few may have been split by another rule than ours.
OWN_VALUE = 0.5


@dataclasses.dataclass(frozen=True)
class MaskSource:
    """Where the maps of `name` are, and how they become masks.

    files: case -> file. threshold: a probability above it is PVS, as `predict` decides; None: probability maps are
    refused. labels: the values of a label map that are PVS; None: all above 0. resample: maps on other grids are
    brought over.
    """

    name: str
    files: Mapping[str, Path]
    threshold: float | None = None
    labels: tuple[int, ...] | None = None
    resample: bool = False

    @classmethod
    def open(
        cls,
        name: str,
        source: str | Path,
        threshold: float | None = None,
        labels: tuple[int, ...] | None = None,
        resample: bool = False,
        *,
        probabilities: bool = False,
    ) -> MaskSource:
        """Find the maps of a folder, file or pattern (`find_masks`).

        Where masks and probability maps lie side by side, the latter are taken with a threshold or `probabilities`.
        """
        if threshold is not None and not 0 <= threshold < 1:
            raise InputError("The threshold is not a probability.", expected="from 0 to below 1", found=threshold)
        refuse_labels(labels or ())
        wanted = probabilities or threshold is not None
        return cls(name, find_masks(source, probabilities=wanted), threshold, labels, resample)

    def mask(self, case: str, like: nib.Nifti1Image, warnings: list[Problem]) -> np.ndarray:
        """The mask (x, y, z), boolean, on the grid of `like`; what is odd is added to `warnings`.

        Raises InputError if the file cannot be read, is a probability map without a threshold or neither map nor mask,
        or lies on another grid (with `resample`: hardly overlaps it).
        """
        image, probability = read_map(self.files[case])
        return self._mask(self.files[case], image, probability, like, warnings, None)

    def reference(
        self, case: str, ignore_label: int | None, warnings: list[Problem]
    ) -> tuple[nib.Nifti1Image, np.ndarray, np.ndarray, set[int]]:
        """On its own grid: the image, its mask, where it counts (not at the ignore label), and its label values."""
        file = self.files[case]
        image, probability = read_map(file)
        counted, there = np.ones(image.shape, bool), set()
        if not probability:
            values = np.asanyarray(image.dataobj)
            there = set(np.flatnonzero(np.bincount(values.ravel(order="K"))).tolist())
            counted = counted if ignore_label is None else values != ignore_label
        return image, self._mask(file, image, probability, image, warnings, ignore_label) & counted, counted, there

    def _mask(
        self,
        file: Path,
        image: nib.Nifti1Image,
        probability: bool,
        like: nib.Nifti1Image,
        warnings: list[Problem],
        ignore_label: int | None,
    ) -> np.ndarray:
        if not probability:
            values = self._on_grid(image, like, file, 0, warnings)
            if self.labels is not None:
                return np.isin(values, self.labels)
            found = np.setdiff1d(np.unique(values[values > 0]), [] if ignore_label is None else [ignore_label])
            if len(found) > MANY_LABELS and not _is_of_clusters(values):
                raise InputError(
                    "This is no mask: it has many values, and they are not those of single clusters.",
                    file=file,
                    expected="0 and 1, a few labels, or a number for each cluster",
                    found=f"{len(found)} values up to {found[-1]}",
                    hint="divide a scaled probability map by its maximum, or name the PVS values with --labels",
                )
            if len(found) > 1 and self.name != REFERENCE:
                what, hint = "A map has several values; all above 0 count.", "choose with --labels if some are not PVS"
                few = ", ".join(map(str, found[:5])) + (f", ... ({len(found)})" if len(found) > 5 else "")
                warnings.append(Problem(what, str(file), "0 and one other", few, hint, "W"))
            return values > 0
        if self.threshold is None:
            raise InputError(
                "This is a probability map, not a mask.",
                file=file,
                expected="0 and 1, or label values",
                found="values between 0 and 1",
                hint=f"give a threshold, such as --threshold {'reference=' if self.name == REFERENCE else ''}0.5",
            )
        return self._on_grid(image, like, file, 1, warnings) > self.threshold

    def probability(self, case: str, like: nib.Nifti1Image) -> np.ndarray:
        """The probability (x, y, z), float32 from 0 to 1, on the grid of `like`; raises InputError as `mask` does."""
        file = self.files[case]
        image, probability = read_map(file)
        values = self._on_grid(image, like, file, 1, [])
        if not probability and values.any():
            raise InputError(
                "This is a mask or label map, not a probability map.",
                file=file,
                expected="values between 0 and 1",
                found=f"whole values up to {values.max()}",
                hint="name the folder or pattern of the probability maps",
            )
        return np.clip(values, 0, 1, dtype=np.float32)

    def _on_grid(
        self, image: nib.Nifti1Image, like: nib.Nifti1Image, file: Path, order: int, warnings: list[Problem]
    ) -> np.ndarray:
        of = like.get_filename() or "the reference"
        what = "The prediction" if self.name == UNNAMED else f"A map of {shown(self.name)}"
        problems = grid_problems(image, like, what, file, of)
        errors = [problem for problem in problems if problem.severity == "E"]
        values = np.asanyarray(image.dataobj)
        if not errors:
            warnings += problems
            return values
        if not self.resample:
            hint = "--resample brings it onto the grid of the reference, if it is of the same scan"
            raise InputError.of([dataclasses.replace(problem, hint=hint) for problem in errors])
        share = overlap(image, like)
        if share < LEAST_OVERLAP:
            raise InputError(
                "The grids hardly overlap.",
                file=file,
                expected=f"at least {LEAST_OVERLAP:.0%} of the smaller field of view inside that of {of}",
                found=f"{share:.0%}",
                hint="find the right pair, or correct the affine",
            )
        to_image = np.linalg.inv(image.affine) @ like.affine
        values = values.astype(np.float32) if order else values
        return ndimage.affine_transform(
            values, to_image[:3, :3], to_image[:3, 3], like.shape, order=order, mode="grid-constant"
        )


def read_map(file: Path) -> tuple[nib.Nifti1Image, bool]:
    """An image with its voxels in memory: label values (int16) and False, or probabilities (float32) and True.

    Raises InputError as `read_labels` does; what has values between integers must lie between 0 and 1.
    """
    try:
        return read_labels(file), False
    except InputError as error:
        labels_error = error
    try:
        image = read_scan(file)
    except InputError:
        raise labels_error from None
    values = np.asanyarray(image.dataobj)
    low, high = float(values.min()), float(values.max())
    if low < -PROBABILITY_TOLERANCE or high > 1 + PROBABILITY_TOLERANCE:
        raise labels_error
    return image, True


def _is_of_clusters(values: np.ndarray) -> bool:
    """Whether most of the 26-connected clusters above 0 have one value each."""
    labels, count = label_clusters(values)
    numbers = np.arange(1, count + 1)
    same = ndimage.minimum(values, labels, numbers) == ndimage.maximum(values, labels, numbers)
    return bool(np.mean(same) >= OWN_VALUE)


def overlap(image: nib.Nifti1Image, other: nib.Nifti1Image, steps: int = 24) -> float:
    """The part of the smaller field of view that lies inside the other one, estimated on a grid of points."""
    return max(_inside(image, other, steps), _inside(other, image, steps))


def _inside(image: nib.Nifti1Image, other: nib.Nifti1Image, steps: int) -> float:
    points = np.array([*itertools.product(*(np.linspace(0, size - 1, steps) for size in image.shape[:3]))])
    there = nib.affines.apply_affine(np.linalg.inv(other.affine) @ image.affine, points)
    return float(((there >= -0.5) & (there <= np.array(other.shape[:3]) - 0.5)).all(1).mean())
