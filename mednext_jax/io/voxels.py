"""The voxels of an image, a piece at a time in the order of the file: no more memory than its reader asks for.

The stream of a compressed file is read to its end, so that its checksum and length are judged.
"""

from __future__ import annotations

import dataclasses
import io
import math
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.volumeutils import apply_read_scaling

from mednext_jax.errors import InputError
from mednext_jax.io.nifti_header import (
    HEADERS,
    MAX_VOXELS,
    NIFTI_ENDINGS,
    PADDING,
    PIECE,
    READ_ERRORS,
    Declared,
    as_meant,
    damaged,
    drain,
    is_header_of,
    open_stream,
    read_declared,
    refuse_type,
)
from mednext_jax.io.scan_formats import read_stored

# The header fields that place the voxel grid in space.
GEOMETRY_FIELDS = (
    *("pixdim", "qform_code", "sform_code", "xyzt_units"),
    *("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("srow_x", "srow_y", "srow_z"),
)


@dataclasses.dataclass(frozen=True)
class Voxels:
    """An image of which only the header has been read.

    `pieces` gives all voxels, scaled, flat in the order of the file (x runs fastest), and may be called once;
    `file` is its path if it has one.
    """

    shape: tuple[int, int, int]
    affine: np.ndarray
    header: nib.Nifti1Header
    file: str | None
    pieces: Callable[[], Iterator[np.ndarray]]

    def image(self, array: np.ndarray) -> nib.Nifti1Image:
        """The image with the voxels `array` (x, y, z), stored without scaling."""
        kind = nib.Nifti2Image if isinstance(self.header, nib.Nifti2Header) else nib.Nifti1Image
        header = self.header.copy()
        header.set_data_dtype(array.dtype)
        header.set_slope_inter(1, 0)
        file_map = None if self.file is None else kind.make_file_map({"image": self.file})
        return kind(array, self.affine, header, file_map=file_map)


# A file, or what is in memory already. An array (x, y, z) has no grid: see `open_voxels`.
Source = str | os.PathLike | nib.spatialimages.SpatialImage | np.ndarray


def open_voxels(source: Source) -> Voxels:
    """A file (NIfTI, MGZ, NRRD, MHA), an image of nibabel of any kind, or an array, with its header checked.

    An array is taken as (x, y, z) to the right, anterior and superior, with voxels of 1 mm, and a warning says so.
    Raises InputError if it is none of these, not three-dimensional, without affine, or not of single real numbers.
    """
    if isinstance(source, str | os.PathLike):
        return _of_file(Path(source))
    if isinstance(source, nib.spatialimages.SpatialImage):
        return _of_image(source)
    if is_array(source):
        warnings.warn(
            "an array does not say where it lies: taken as (x, y, z) to the right, anterior and superior, 1 mm voxels",
            stacklevel=3,
        )
        array = np.asarray(source)
        refuse_type(None, array.dtype)
        return _of_image(nib.spatialimages.SpatialImage(array, np.eye(4)))
    raise InputError(
        "The scan is neither a file nor an image of nibabel.",
        expected="the path of a NIfTI file, or an image with voxels and an affine",
        found=f"an object of type {type(source).__name__}",
        hint="for an array: nibabel.Nifti1Image(array, affine)",
    )


def is_array(source: object) -> bool:
    """Whether this is an array of NumPy, JAX or PyTorch."""
    return hasattr(source, "__array__") and hasattr(source, "ndim")


def not_3d(path: object, shape: Sequence[int]) -> InputError:
    """The error for an image with more or fewer axes."""
    return InputError(
        "The scan is not one 3-D volume.",
        file=path,
        expected="three axes",
        found=f"{len(shape)} axes: {' x '.join(map(str, shape))}",
        hint="split a 4-D file into volumes, for example with `fslsplit` or `mrconvert -coord 3 N`"
        if len(shape) > 3
        else "stack the slices of one scan into a 3-D file",
    )


def placed_like(header: Any, kind: type[nib.Nifti1Header]) -> nib.Nifti1Header:
    """A new header of `kind` that lies where `header` does, bit for bit if that is one of NIfTI."""
    new = kind()
    for field in GEOMETRY_FIELDS if isinstance(header, nib.Nifti1Header) else ():
        new[field] = header[field]
    return new


def _of_file(path: Path) -> Voxels:
    if not path.name.lower().endswith(NIFTI_ENDINGS):
        stored = read_stored(path)
        return Voxels(_three(path, stored.shape), stored.affine, stored.header, str(path), stored.pieces)
    declared = read_declared(path)
    shape = _three(path, declared.shape)
    try:
        with np.errstate(all="ignore"), open_stream(path) as stream:  # what a damaged header makes is judged later
            start = as_meant(stream.read(declared.offset))
            kind = nib.Nifti2Image if is_header_of(nib.Nifti2Header, start) else nib.Nifti1Image
            image = kind.from_stream(io.BytesIO(start))
            scaled: Any = image.dataobj  # the image's own header has forgotten the scale
            slope, inter = scaled.slope, scaled.inter
    except InputError:
        raise
    except READ_ERRORS as error:
        raise damaged(path, str(error) or type(error).__name__) from error

    def pieces() -> Iterator[np.ndarray]:
        return _pieces_of_file(path, declared, slope, inter)

    return Voxels(shape, image.affine, image.header, str(path), pieces)


def _pieces_of_file(path: Path, declared: Declared, slope: float, inter: float) -> Iterator[np.ndarray]:
    left = math.prod(declared.shape) * declared.dtype.itemsize
    with open_stream(path) as stream:
        stream.read(declared.offset)
        while left:
            piece = stream.read(min(PIECE, left))
            if len(piece) < min(PIECE, left):
                raise damaged(path, f"{left - len(piece)} bytes of voxels are missing")
            left -= len(piece)
            with np.errstate(all="ignore"):
                yield apply_read_scaling(np.frombuffer(piece, declared.dtype), np.float64(slope), np.float64(inter))
        if (behind := drain(stream)) > PADDING:
            raise damaged(path, f"{behind} bytes more than the header declares ({_in_words(declared)})")


def _in_words(declared: Declared) -> str:
    return f"{' x '.join(map(str, declared.shape))} voxels of {declared.dtype.name}"


def _of_image(image: nib.spatialimages.SpatialImage) -> Voxels:
    file = image.get_filename()
    if image.affine is None:
        raise InputError(
            "The image has no affine; where its voxels lie is not known.",
            file=file,
            expected="a 4 x 4 affine in mm",
            found="none",
            hint="give nibabel.Nifti1Image the affine of the scan",
        )
    refuse_type(file, np.dtype(image.dataobj.dtype))  # type: ignore[attr-defined]  # nibabel's type knows less
    shape = tuple(int(size) for size in image.shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    three = _three(file, shape)
    if not 1 <= math.prod(shape) <= MAX_VOXELS:
        raise InputError(
            "The image has no voxels, or more than any brain scan has.",
            file=file,
            expected=f"1 to {MAX_VOXELS} voxels",
            found=" x ".join(map(str, shape)),
        )
    header: Any = image.header
    if type(header) not in HEADERS:
        header = placed_like(header, nib.Nifti2Header if isinstance(header, nib.Nifti2Header) else nib.Nifti1Header)
    return Voxels(three, np.asarray(image.affine, np.float64), header, file, lambda: _pieces_of_image(image, three))


def _pieces_of_image(image: nib.spatialimages.SpatialImage, shape: tuple[int, int, int]) -> Iterator[np.ndarray]:
    file = image.get_filename()
    if nib.is_proxy(image.dataobj) and file is not None and file.lower().endswith(".gz"):
        with open_stream(Path(file)) as stream:  # nibabel does not read as far as the checksum
            drain(stream)
    try:
        with np.errstate(all="ignore"):
            array = np.asanyarray(image.dataobj).reshape(shape, order="F")
    except READ_ERRORS as error:
        raise damaged(file, str(error) or type(error).__name__) from error
    for z in range(shape[2]):
        yield array[:, :, z].ravel(order="F")


def _three(path: object, shape: Sequence[int]) -> tuple[int, int, int]:
    if len(shape) != 3:
        raise not_3d(path, shape)
    x, y, z = shape
    return x, y, z
