"""Scans in formats other than NIfTI: FreeSurfer's MGZ, and NRRD and MHA through SimpleITK.

As for NIfTI, the header is judged before any voxel is given memory. A header that points to another file for its voxels
is refused: it could name any file of the machine.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.freesurfer.mghformat import DATA_OFFSET, MGHHeader

from mednext_jax.errors import InputError
from mednext_jax.io.absent import refuse_absent
from mednext_jax.io.nifti_header import (
    MAX_VOXELS,
    NIFTI_ENDINGS,
    PIECE,
    READ_ERRORS,
    damaged,
    drain,
    not_nifti,
    open_stream,
    refuse_type,
    shape_that_fits,
)

MGH_ENDINGS = (".mgz", ".mgh")
ITK_ENDINGS = (".nrrd", ".mha")
SCAN_ENDINGS = (*NIFTI_ENDINGS, *MGH_ENDINGS, *ITK_ENDINGS)
ITK_EXTRA = "pip install 'mednext-jax[formats]'"
HEADER_TEXT = 2**16  # bytes in which the text of a NRRD or MHA header must end
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])  # ITK's world axes to NIfTI's
# The axes x, y, z in RAS that FreeSurfer takes where a file has none (mghRead); nibabel has them transposed.
CORONAL = ((-1.0, 0.0, 0.0), (0.0, 0.0, -1.0), (0.0, 1.0, 0.0))
# SimpleITK's names of scalar voxel types.
_ITK_TYPES = {
    **{f"{8 * size}-bit unsigned integer": f"u{size}" for size in (1, 2, 4, 8)},
    **{f"{8 * size}-bit signed integer": f"i{size}" for size in (1, 2, 4, 8)},
    "32-bit float": "f4",
    "64-bit float": "f8",
}
# ITK's exceptions, and what becomes of a path that it cannot take.
_ITK_ERRORS = (RuntimeError, ValueError, TypeError, MemoryError)


@dataclasses.dataclass(frozen=True)
class StoredScan:
    """A scan of which the header has been read. `shape` (x, y, z, ...) without trailing ones; `affine` to RAS in mm.

    `header`: a NIfTI header with that affine. Where the file does not say where it lies, both are those of a NIfTI file
    that does not either. `pieces` gives all voxels, x running fastest.
    """

    shape: tuple[int, ...]
    affine: np.ndarray
    header: nib.Nifti1Header
    pieces: Callable[[], Iterator[np.ndarray]]


def read_stored(path: Path) -> StoredScan:
    """Read the header of a .mgz, .mgh, .nrrd or .mha file.

    Raises InputError for a missing file, another format, a damaged header, voxels that are no single real numbers,
    more than `MAX_VOXELS` of them, a file too short for them, or if SimpleITK is needed and not installed.
    """
    name = path.name.lower()
    refuse_absent(path, "scan", "a NIfTI file")
    if name.endswith(MGH_ENDINGS):
        return _read_mgh(path)
    if name.endswith(ITK_ENDINGS):
        return _read_itk(path)
    raise not_nifti(path, f"the ending {path.suffix!r}")


def _read_mgh(path: Path) -> StoredScan:
    size = MGHHeader._hdrdtype.itemsize
    try:
        with open_stream(path) as stream:
            start = stream.read(size)
        if len(start) < size:
            raise damaged(path, f"a header of {len(start)} bytes instead of {size}")
        header = MGHHeader(start)
        dtype = np.dtype(header.get_data_dtype()).newbyteorder(">")
        shape = tuple(int(n) for n in header["dims"])
        if not np.frombuffer(start, MGHHeader._hdrdtype)["goodRASFlag"][0]:
            header["Mdc"] = CORONAL
        affine = np.asarray(header.get_affine(), np.float64)
    except InputError:
        raise
    except READ_ERRORS as error:
        raise damaged(path, str(error) or type(error).__name__) from error
    shape = _require_size(path, shape, dtype, DATA_OFFSET, packed=path.name.lower().endswith(".mgz"))

    def pieces() -> Iterator[np.ndarray]:
        with open_stream(path) as stream:
            stream.read(DATA_OFFSET)
            left = math.prod(shape) * dtype.itemsize
            while left:
                piece = stream.read(min(PIECE, left))
                if len(piece) < min(PIECE, left):
                    raise damaged(path, f"{left - len(piece)} bytes of voxels are missing")
                left -= len(piece)
                yield np.frombuffer(piece, dtype)
            drain(stream)  # FreeSurfer's footer, and the checksum

    return StoredScan(shape, affine, _header(affine), pieces)


def _read_itk(path: Path) -> StoredScan:
    sitk = _simpleitk(path)
    packed = _is_packed(path)
    reader = sitk.ImageFileReader()
    try:
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
    except _ITK_ERRORS as error:
        raise damaged(path, _last_line(error)) from None
    kind = sitk.GetPixelIDValueAsString(reader.GetPixelID())
    if reader.GetNumberOfComponents() != 1 or kind not in _ITK_TYPES:
        raise InputError(
            "The voxels are not single real numbers.",
            file=path,
            expected="integers up to 64 bits, or float32 or float64",
            found=kind,
            hint="convert the scan to float32, one value per voxel",
        )
    dtype = np.dtype(_ITK_TYPES[kind])
    shape = _require_size(path, reader.GetSize(), dtype, 0, packed)
    spacing = reader.GetSpacing()
    if len(shape) != 3:
        affine, header = np.eye(4), nib.Nifti1Header()  # refused for its axes
    elif path.name.lower().endswith(".mha") or "NRRD_space" in reader.GetMetaDataKeys():
        affine = itk_affine(reader.GetDirection(), spacing, reader.GetOrigin())
        header = _header(affine)
    else:
        header = nib.Nifti1Header()
        header.set_data_shape(shape)
        header.set_zooms(spacing[:3])
        header.set_xyzt_units("mm")
        affine = header.get_best_affine()

    def pieces() -> Iterator[np.ndarray]:
        try:
            array = sitk.GetArrayFromImage(reader.Execute())
        except _ITK_ERRORS as error:
            raise damaged(path, _last_line(error)) from None
        for plane in array.reshape(shape[::-1]):
            yield plane.ravel()

    return StoredScan(shape, affine, header, pieces)


def itk_affine(direction: Sequence[float], spacing: Sequence[float], origin: Sequence[float]) -> np.ndarray:
    """The affine to RAS (4, 4) of an image of ITK, whose direction is row by row and whose world is LPS."""
    axes = len(spacing)
    matrix = np.asarray(direction, np.float64).reshape(axes, axes)[:3, :3] * np.asarray(spacing, np.float64)[:3]
    return LPS_TO_RAS @ nib.affines.from_matvec(matrix, np.asarray(origin, np.float64)[:3])


def _simpleitk(path: Path) -> Any:
    try:
        import SimpleITK
    except ImportError:
        raise InputError(
            "SimpleITK, which reads this format, is not installed.",
            file=path,
            expected=" or ".join(NIFTI_ENDINGS),
            found=f"the ending {path.suffix!r}",
            hint=f"{ITK_EXTRA}, or convert the file to NIfTI",
        ) from None
    return SimpleITK


def _is_packed(path: Path) -> bool:
    """Whether the voxels of a NRRD or MHA file may be compressed; raises InputError if they lie in another file."""
    with path.open("rb") as file:
        text = file.read(HEADER_TEXT)
    if path.name.lower().endswith(".nrrd"):
        text = re.split(rb"\r?\n\r?\n", text, maxsplit=1)[0]
        elsewhere = re.search(rb"(?im)^data ?file\s*:", text)
        packed = not re.search(rb"(?im)^encoding\s*:\s*raw\s*$", text)
    else:
        local = re.search(rb"(?im)^ElementDataFile\s*=\s*LOCAL\s*?$", text)
        elsewhere = re.search(rb"(?im)^ElementDataFile\s*=", text) if local is None else None
        packed = bool(re.search(rb"(?im)^CompressedData\s*=\s*True", text))
    if elsewhere:
        raise InputError(
            "The voxels lie in another file than the header.",
            file=path,
            expected="a header and its voxels in one file",
            found=elsewhere[0].decode("ascii", "replace"),
            hint="write them into one file, or convert the scan to NIfTI",
        )
    return packed


def _require_size(path: Path, sizes: Sequence[int], dtype: np.dtype, offset: int, packed: bool) -> tuple[int, ...]:
    """The shape without trailing ones; raises InputError if the file cannot hold it."""
    refuse_type(path, dtype)
    shape = tuple(int(n) for n in sizes)
    voxels = math.prod(shape)
    if any(n < 1 for n in shape) or voxels > MAX_VOXELS:
        raise InputError(
            "The scan has no voxels, or more than any brain scan has.",
            file=path,
            expected=f"1 to {MAX_VOXELS} voxels",
            found=" x ".join(map(str, shape)),
            hint="export the scan again from its source",
        )
    return shape_that_fits(path, shape, dtype.newbyteorder("="), offset, packed)


def _header(affine: np.ndarray) -> nib.Nifti1Header:
    header = nib.Nifti1Header()
    header.set_xyzt_units("mm")
    with np.errstate(all="ignore"):  # an affine that no scan has is told when it is used
        if np.isfinite(affine).all() and abs(np.linalg.det(affine[:3, :3])) > 0:
            header.set_qform(affine, 1)
            header.set_sform(affine, 1)
    return header


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
