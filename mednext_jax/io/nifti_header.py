"""The header of a NIfTI file, read and judged before any of its voxels is given memory."""

from __future__ import annotations

import dataclasses
import gzip
import math
import os
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np

from mednext_jax.errors import InputError

# 1024 x 1024 x 1024: above the finest whole-brain scans published (0.25 mm, 640 x 880 x 880).
MAX_VOXELS = 2**30
# Deflate cannot expand more than 1032 to 1, so a compressed file of n bytes holds at most 1032 n bytes.
MAX_DEFLATE_RATIO = 1032
# Header extensions (DICOM dumps, provenance) are kilobytes; nibabel reads all of them.
MAX_VOXEL_OFFSET = 2**24
NIFTI_ENDINGS = (".nii.gz", ".nii")
GZIP_MAGIC = b"\x1f\x8b"
# What nibabel, gzip and the system raise on a damaged file.
READ_ERRORS = (
    OSError,
    EOFError,
    zlib.error,
    ValueError,
    OverflowError,
    KeyError,
    nib.filebasedimages.ImageFileError,
    nib.spatialimages.HeaderDataError,
    nib.wrapstruct.WrapStructError,
)


@dataclasses.dataclass(frozen=True)
class Declared:
    """What a header declares: `shape` in stored axis order without trailing ones, and the voxel type."""

    shape: tuple[int, ...]
    dtype: np.dtype


def read_declared(path: str | os.PathLike) -> Declared:
    """Read the NIfTI-1 or NIfTI-2 header of `path` (.nii, .nii.gz) and check that the file can hold what it declares.

    Raises InputError for a missing file, another format, a damaged header, RGB or complex voxels, an axis without
    voxels, a size above `MAX_VOXELS`, or a file too short for its declared size.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(
            "A scan is missing.",
            file=path,
            expected="a NIfTI file",
            found="a folder" if path.is_dir() else "nothing",
            hint="check the path",
        )
    if not path.name.lower().endswith(NIFTI_ENDINGS):
        raise not_nifti(path, f"the ending {path.suffix!r}")
    start, compressed = _first_bytes(path)
    header = _parse(path, start)

    dimensions = [int(size) for size in header["dim"]]
    count = dimensions[0]
    shape = tuple(dimensions[1 : count + 1])
    if not 1 <= count <= 7 or any(size < 1 for size in shape):
        raise InputError(
            "The scan has an axis without voxels.",
            file=path,
            expected="three axes with at least one voxel each",
            found=f"dim {dimensions}",
            hint="export the scan again from its source",
        )
    voxels = math.prod(shape)
    if voxels > MAX_VOXELS:
        raise InputError(
            "The scan declares more voxels than any brain scan has; it is not read.",
            file=path,
            expected=f"at most {MAX_VOXELS} voxels",
            found=f"{' x '.join(map(str, shape))} = {voxels}",
            hint="export the scan again from its source, or crop it",
        )
    dtype = _voxel_type(path, header)
    offset = float(header["vox_offset"])
    if not header.sizeof_hdr <= offset <= MAX_VOXEL_OFFSET:
        raise damaged(path, f"voxels that start at byte {offset:g}")
    size = path.stat().st_size
    needed = int(offset) + voxels * dtype.itemsize
    if size * (MAX_DEFLATE_RATIO if compressed else 1) < needed:
        raise InputError(
            "The file is too short for the scan its header declares.",
            file=path,
            expected=f"{needed} bytes of data for {' x '.join(map(str, shape))} voxels of {dtype}",
            found=f"{size} bytes" + (" compressed" if compressed else ""),
            hint="copy or download the file again",
        )
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    return Declared(shape, dtype)


def not_nifti(path: Path, found: str) -> InputError:
    """The error for a file of another format."""
    return InputError(
        "The file is not a NIfTI scan.",
        file=path,
        expected="a .nii or .nii.gz file",
        found=found,
        hint="convert it, for example with dcm2niix or mri_convert",
    )


def damaged(path: Path, found: str) -> InputError:
    """The error for a NIfTI file that cannot be read to its end."""
    return InputError(
        "The NIfTI file is damaged.",
        file=path,
        expected="a complete .nii or .nii.gz file",
        found=found,
        hint="copy or download the file again; `gzip -t` checks a .nii.gz",
    )


def _first_bytes(path: Path) -> tuple[bytes, bool]:
    """The first 540 bytes of the (decompressed) file, and whether it is compressed."""
    try:
        with open(path, "rb") as file:
            start = file.read(540)
        if not start:
            raise damaged(path, "an empty file")
        named_gz = path.name.lower().endswith(".gz")
        if start.startswith(GZIP_MAGIC) != named_gz:
            raise not_nifti(path, "data that is not gzip" if named_gz else "gzip data without the ending .gz")
        if named_gz:
            with gzip.open(path, "rb") as stream:
                start = stream.read(540)
    except READ_ERRORS as error:
        raise damaged(path, str(error)) from error
    return start, named_gz


def _parse(path: Path, start: bytes) -> nib.Nifti1Header:
    for kind in (nib.Nifti1Header, nib.Nifti2Header):
        size = kind.sizeof_hdr
        order = "<" if start[:4] == size.to_bytes(4, "little") else ">"
        if start[:4] == size.to_bytes(4, "big" if order == ">" else "little") and len(start) >= size:
            header = kind(start[:size], endianness=order, check=False)
            if bytes(header["magic"].tobytes()[:3]).rstrip(b"\0") in (b"n+1", b"n+2"):
                return header
            raise not_nifti(path, "a header without the single-file NIfTI mark n+1 or n+2 (Analyze, or half of a pair)")
    raise not_nifti(path, "a file that does not start with a NIfTI header")


def _voxel_type(path: Path, header: nib.Nifti1Header) -> np.dtype:
    try:
        dtype = header.get_data_dtype()
    except READ_ERRORS as error:
        raise damaged(path, f"the unknown voxel type code {int(header['datatype'])}") from error
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        kind = "RGB" if dtype.names else "complex" if dtype.kind == "c" else str(dtype)
        raise InputError(
            "The voxels are not single real numbers.",
            file=path,
            expected="integers up to 64 bits, or float32 or float64",
            found=f"{kind} voxels",
            hint="convert the scan to float32, for example its magnitude",
        )
    return dtype
