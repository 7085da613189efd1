"""NIfTI scans: read and check, turn to the network's axes and back, write on the same grid.

The affine of a scan is never changed: flips and axis swaps are exact, and what is written carries the geometry fields
of the input file bit for bit (nnU-Net's SimpleITK reader refuses affines that are slightly sheared; nibabel does not).
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterable, Sequence

import nibabel as nib
import numpy as np
from isal import igzip
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform

from mednext_jax.errors import InputError, Problem
from mednext_jax.io.atomic import atomic_file
from mednext_jax.io.geometry import FAR_SPACING, grid_problems, in_mm, is_far
from mednext_jax.io.memory import refuse_beyond_memory
from mednext_jax.io.slabs import copy_slabs
from mednext_jax.io.voxels import Source, Voxels, not_3d, open_voxels, placed_like

# Voxel sizes outside this range are a wrong unit (metres, micrometres), not a brain scan.
VOXEL_SIZE_RANGE = (0.01, 50.0)
# Label values that a float file stores are integers up to its rounding.
INTEGRAL_TOLERANCE = 1e-3
COMPRESSION_LEVEL = 1  # of ISA-L; its files are as small as zlib's at nibabel's level, also 1
# Beside a larger value float32 holds nothing of the tissue's contrast, and the z-score's squares overflow soon after.
MAX_INTENSITY = 1e12
MAX_LABEL = 2**15 - 1


@dataclasses.dataclass(frozen=True)
class Grid:
    """The voxel grid of a scan as stored, and how the network's axes lie on it.

    `shape` and `affine` are those of the file, axes (x, y, z); `orientation` is the order the network sees ("RAS", or
    None for as stored); `header` is the input header, of which only the geometry fields are used.
    """

    shape: tuple[int, int, int]
    affine: np.ndarray  # (4, 4) float64
    header: nib.Nifti1Header
    orientation: str | None = "RAS"

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size in mm along the network's axes (d, h, w)."""
        sizes = nib.affines.voxel_sizes(self.affine)
        x, y, z = sizes[np.argsort(self._to_network[:, 0])]
        return float(z), float(y), float(x)

    @property
    def _to_network(self) -> np.ndarray:
        stored = io_orientation(self.affine)
        if self.orientation is None:
            return np.stack([np.arange(3.0), np.ones(3)], axis=1)
        return ornt_transform(stored, axcodes2ornt(self.orientation))

    @property
    def _to_stored(self) -> np.ndarray:
        stored = io_orientation(self.affine)
        if self.orientation is None:
            return np.stack([np.arange(3.0), np.ones(3)], axis=1)
        return ornt_transform(axcodes2ornt(self.orientation), stored)

    def to_network(self, array: np.ndarray) -> np.ndarray:
        """(x, y, z) as stored -> (d, h, w) view."""
        return apply_orientation(array, self._to_network).transpose(2, 1, 0)

    def to_stored(self, array: np.ndarray) -> np.ndarray:
        """(d, h, w) -> (x, y, z) view as stored."""
        return apply_orientation(array.transpose(2, 1, 0), self._to_stored)


def read_scan(source: Source) -> nib.Nifti1Image:
    """Read a 3-D scan into memory as float32, with its own affine and header.

    source: a file (.nii, .nii.gz), read to the end of its stream and its checksum, an image of nibabel, or an array.
    Raises InputError if it is missing, not a NIfTI, damaged, 4-D, empty, constant, not finite, beyond
    `MAX_INTENSITY`, RGB or complex, too large for the free memory, or has no usable affine.
    """
    voxels = open_voxels(source)
    _usable_affine(voxels.affine, voxels.file)
    count = math.prod(voxels.shape)
    refuse_beyond_memory(4 * count, voxels.file, f"{' x '.join(map(str, voxels.shape))} voxels")
    flat = np.zeros(count, np.float32)  # takes memory as it is written to
    low, high, bad, first, at = math.inf, -math.inf, 0, 0, 0
    for piece in voxels.pieces():
        with np.errstate(over="ignore"):  # becomes infinite, and is reported as such
            piece = piece.astype(np.float32, copy=False)
        least, most = float(piece.min()), float(piece.max())
        if not (math.isfinite(least) and math.isfinite(most)):
            wrong = ~np.isfinite(piece)
            first = first if bad else at + int(np.argmax(wrong))
            bad += int(np.count_nonzero(wrong))
        low, high = min(low, least), max(high, most)
        if least or most:
            flat[at : at + piece.size] = piece
        at += piece.size
    if bad:
        raise InputError(
            "The scan has voxels that are not finite.",
            file=voxels.file,
            expected="finite intensities",
            found=f"{bad} NaN or infinite voxels, the first at {_position(first, voxels.shape)}",
            hint="set them to 0, for example with `fslmaths IN -nan OUT`",
        )
    if low == high:
        raise InputError(
            "The scan is constant.",
            file=voxels.file,
            expected="an image",
            found=f"{low:g} in every voxel",
            hint="export the scan again from its source",
        )
    if max(-low, high) > MAX_INTENSITY:
        count, first = int(np.count_nonzero(np.abs(flat) > MAX_INTENSITY)), int(np.argmax(np.abs(flat)))
        raise InputError(
            "The scan has intensities that no scanner writes; nothing else would be left of it.",
            file=voxels.file,
            expected=f"intensities up to {MAX_INTENSITY:g}",
            found=f"{count} voxels beyond, such as {flat[first]:g} at {_position(first, voxels.shape)}",
            hint="correct these voxels or the scl_slope of the header, or export the scan again",
        )
    return _image(voxels, flat)


def refuse_labels(values: Iterable[int], what: str = "A label") -> None:
    """Raise InputError for a value that no label map has besides the background."""
    for value in values:
        if not 0 < value <= MAX_LABEL:
            says = f"{what} is none that a label map can have besides the background."
            raise InputError(says, expected=f"1 to {MAX_LABEL}", found=value)


def read_labels(source: Source) -> nib.Nifti1Image:
    """Read a 3-D label map or mask into memory as int16, with its own affine and header.

    Raises InputError as `read_scan` does (a constant map is allowed), and if a value is not an integer from 0 to
    `MAX_LABEL`: negative ones are labels that did not fit into the type that they were stored as.
    """
    voxels = open_voxels(source)
    _usable_affine(voxels.affine, voxels.file)
    count = math.prod(voxels.shape)
    refuse_beyond_memory(2 * count, voxels.file, f"{' x '.join(map(str, voxels.shape))} voxels")
    flat = np.zeros(count, np.int16)
    low, high, negative, at = 0, 0, 0, 0
    broken, values = 0, np.empty(0)
    for piece in voxels.pieces():
        if piece.dtype.kind == "f":
            whole = np.rint(piece)
            with np.errstate(invalid="ignore"):
                wrong = ~(np.abs(piece - whole) < INTEGRAL_TOLERANCE)  # NaN and infinity are wrong too
            if wrong.any():
                broken += int(np.count_nonzero(wrong))
                values = np.unique(np.concatenate([values, piece[wrong]]))[:5]
                whole[wrong] = 0
            piece = whole
        least, most = int(piece.min()), int(piece.max())
        low, high = min(low, least), max(high, most)
        if least < 0:
            negative += int(np.count_nonzero(piece < 0))
        if (least or most) and low >= 0 and high <= MAX_LABEL:
            flat[at : at + piece.size] = piece
        at += piece.size
    if broken:
        raise InputError(
            "The label map has values that are not integers.",
            file=voxels.file,
            expected="integers",
            found=f"{broken} voxels such as {', '.join(f'{value:g}' for value in values)}",
            hint="threshold a probability map, and resample label maps with nearest neighbour only",
        )
    if low < 0:
        raise InputError(
            "The label map has negative values.",
            file=voxels.file,
            expected=f"labels from 0 to {MAX_LABEL}",
            found=f"{negative} voxels below 0, down to {low}",
            hint="255 stored as int8 is -1: write the labels again, as uint8 or int16",
        )
    if high > MAX_LABEL:
        raise InputError(
            "The label map has values beyond 16 bits.",
            file=voxels.file,
            expected=f"labels from 0 to {MAX_LABEL}",
            found=f"{low} to {high}",
            hint="number the labels 0, 1, 2, ...",
        )
    return _image(voxels, flat)


def to_volume(
    images: nib.Nifti1Image | Sequence[nib.Nifti1Image], orientation: str | None = "RAS"
) -> tuple[np.ndarray, tuple[float, float, float], Grid]:
    """Images of `read_scan` (one per channel) -> float32 (d, h, w, c), voxel size in mm (d, h, w), and the grid.

    `orientation` "RAS" turns the axes to right, anterior, superior by flips and swaps only; None keeps them as stored.
    Raises InputError if an image is not 3-D, has no usable affine, or the channels lie more than a voxel apart.
    """
    channels = [images] if isinstance(images, nib.spatialimages.SpatialImage) else list(images)
    grid = grid_of(channels[0], orientation)
    apart = channel_problems(channels)
    if any(problem.severity == "E" for problem in apart):
        raise InputError.of(apart)
    volume = np.empty((*grid.to_network(np.empty(grid.shape, bool)).shape, len(channels)), np.float32)
    for c, image in enumerate(channels):
        copy_slabs(volume[..., c], grid.to_network(np.asanyarray(image.dataobj)))
    return volume, grid.spacing, grid


def channel_problems(images: Sequence[nib.Nifti1Image]) -> list[Problem]:
    """What keeps the other channels of a scan from lying voxel by voxel on the first, as `grid_problems`."""
    first, *others = images
    return [
        problem
        for image in others
        for problem in grid_problems(image, first, "A channel", image.get_filename(), first.get_filename())
    ]


def grid_of(image: nib.Nifti1Image, orientation: str | None = "RAS") -> Grid:
    """The grid of an image; raises InputError if it is not 3-D or its affine is singular or not of a scan in mm."""
    affine = _usable_affine(image.affine, image.get_filename())
    if len(image.shape) != 3:
        raise not_3d(image.get_filename(), image.shape)
    x, y, z = (int(size) for size in image.shape)
    return Grid((x, y, z), affine, image.header, orientation)


def spacing_warnings(grid: Grid, spacing: Sequence[float] | None, file: object) -> list[Problem]:
    """A warning if a grid's voxels are far from those, `spacing` (d, h, w) in mm, that a model works on (None: any)."""
    if spacing is None or not is_far(grid.spacing, spacing):
        return []
    xyz, wanted = (in_mm(reversed(sizes)) for sizes in (grid.spacing, spacing))
    what, hint = "The voxel size is far from the model's.", "the scan is resampled; check some of the masks by eye"
    return [Problem(what, str(file), f"{wanted}, or up to {FAR_SPACING:g} times larger or smaller", xyz, hint, "W")]


def label_volume(image: nib.Nifti1Image, grid: Grid) -> np.ndarray:
    """A label map of `read_labels` on the grid of its scan -> int16 (d, h, w)."""
    return np.ascontiguousarray(grid.to_network(np.asanyarray(image.dataobj)))


def from_volume(array: np.ndarray, grid: Grid) -> np.ndarray:
    """(d, h, w) on the network's axes -> (x, y, z) on the input grid; the exact inverse of `to_volume`."""
    return np.asfortranarray(grid.to_stored(np.asarray(array)))  # the order of a file


def image_like(array: np.ndarray, like: Grid | nib.Nifti1Image, dtype: np.typing.DTypeLike) -> nib.Nifti1Image:
    """An image of `array` (x, y, z) stored as `dtype` without scaling, on the grid of `like`.

    Affine, sform and qform with their codes, and units are those of the input, bit for bit. Raises ValueError for
    values that an integer `dtype` does not hold: a cast would wrap them.
    """
    source, affine = (like.header, like.affine)
    kind = nib.Nifti2Image if isinstance(source, nib.Nifti2Header) else nib.Nifti1Image
    header = placed_like(source, kind.header_class)
    header.set_data_dtype(dtype)
    header.set_slope_inter(1, 0)
    if array.shape != tuple(like.shape[:3]):
        raise ValueError(f"array of shape {array.shape} for a grid of {tuple(like.shape[:3])}")
    if np.issubdtype(dtype, np.integer) and not np.can_cast(array.dtype, dtype) and array.size:
        low, high = array.min(), array.max()
        if not (low >= np.iinfo(dtype).min and high <= np.iinfo(dtype).max):
            raise ValueError(f"values from {low:g} to {high:g} do not fit into {np.dtype(dtype)}")
    return kind(np.asarray(array, dtype), affine, header)


def write_image(path: str | os.PathLike, image: nib.Nifti1Image) -> None:
    """Write an image (.nii, .nii.gz); the file appears whole or not at all."""
    with atomic_file(path) as temporary:
        if temporary.suffix != ".gz":
            image.to_filename(temporary)
            return
        # Ten times as fast as zlib, which takes longer for a probability map than a GPU for its scan. No name and no
        # time in the header: the same voxels are the same bytes.
        with open(temporary, "wb") as file, igzip.IGzipFile("", "wb", COMPRESSION_LEVEL, file, mtime=0) as stream:
            image.to_stream(stream)


def _usable_affine(affine: np.ndarray, file: object) -> np.ndarray:
    affine = np.asarray(affine, np.float64)
    with np.errstate(over="ignore"):
        sizes = nib.affines.voxel_sizes(affine) if np.isfinite(affine).all() else np.zeros(3)
    if not (np.all(sizes >= VOXEL_SIZE_RANGE[0]) and np.all(sizes <= VOXEL_SIZE_RANGE[1])):
        raise InputError(
            "The voxel size is not one of a scan in mm.",
            file=file,
            expected=f"{VOXEL_SIZE_RANGE[0]} to {VOXEL_SIZE_RANGE[1]} mm along each axis",
            found=f"{in_mm(sizes)}, affine {_in_words(affine)}",
            hint="correct the affine (its unit is mm), for example with nibabel",
        )
    if abs(np.linalg.det(affine[:3, :3] / sizes)) < 0.1:
        raise InputError(
            "The affine does not span space: two of its axes are nearly parallel.",
            file=file,
            expected="three independent axes",
            found=_in_words(affine),
            hint="export the scan again from its source",
        )
    return affine


def _image(voxels: Voxels, flat: np.ndarray) -> nib.Nifti1Image:
    return voxels.image(flat.reshape(voxels.shape, order="F"))


def _position(index: int, shape: tuple[int, int, int]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(index, shape, order="F"))


def _in_words(affine: np.ndarray) -> str:
    return np.array2string(np.asarray(affine)[:3], precision=3, suppress_small=True, separator=" ").replace("\n", "")
