"""The header of a NIfTI file, read and judged before any of its voxels is given memory."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import nibabel as nib
import numpy as np
from isal import igzip, isal_zlib

from mednext_jax.errors import InputError
from mednext_jax.io.absent import refuse_absent

# 1024 x 1024 x 1024: above the finest whole-brain scans published (0.25 mm, 640 x 880 x 880).
MAX_VOXELS = 2**30
# Deflate cannot expand more than 1032 to 1, so a compressed file of n bytes holds at most 1032 n bytes.
MAX_DEFLATE_RATIO = 1032
# Header extensions (DICOM dumps, provenance) are kilobytes; nibabel reads all of them.
MAX_VOXEL_OFFSET = 2**24
NIFTI_ENDINGS = (".nii.gz", ".nii")
GZIP_MAGIC = b"\x1f\x8b"
HEADERS = (nib.Nifti1Header, nib.Nifti2Header)
PIECE = 2**20  # bytes read at a time
# Bytes behind the last voxel that a writer of whole blocks may leave; more are voxels that the header does not tell of.
PADDING = 4096
# Quaternions up to this much too long, and offsets this far from whole bytes, are rounded, not wrong.
LONGEST_QUATERNION = 1.01
OFFSET_TOLERANCE = 1e-3
# What nibabel, gzip and the system raise on a damaged file.
READ_ERRORS: tuple[type[Exception], ...] = (  # type: ignore[assignment]  # isal's stub has an instance for a class
    OSError,
    EOFError,
    zlib.error,
    isal_zlib.error,
    ValueError,
    OverflowError,
    KeyError,
    nib.filebasedimages.ImageFileError,
    nib.spatialimages.HeaderDataError,
    nib.wrapstruct.WrapStructError,
)


@dataclasses.dataclass(frozen=True)
class Declared:
    """What a header declares: `shape` in stored axis order without trailing ones, the voxel type, the first's byte."""

    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int


def read_declared(path: str | os.PathLike) -> Declared:
    """Read the NIfTI-1 or NIfTI-2 header of `path` (.nii, .nii.gz) and check that the file can hold what it declares.

    Raises InputError for a missing file, another format, a damaged header, RGB or complex voxels, an axis without
    voxels, a size above `MAX_VOXELS`, or a file too short for its declared size.
    """
    path = Path(path)
    refuse_absent(path, "scan", "a NIfTI file")
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
    start_byte = float(header["vox_offset"])
    if not header.sizeof_hdr <= start_byte <= MAX_VOXEL_OFFSET:
        raise damaged(path, f"voxels that start at byte {start_byte:g}")
    offset = int(start_byte)
    return Declared(shape_that_fits(path, shape, dtype, offset, compressed), dtype, offset)


def shape_that_fits(
    path: Path, shape: tuple[int, ...], dtype: np.dtype, offset: int, compressed: bool
) -> tuple[int, ...]:
    """The shape without trailing ones; raises InputError if the file cannot hold its voxels behind `offset` bytes."""
    size, needed = path.stat().st_size, offset + math.prod(shape) * dtype.itemsize
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
    return shape


@contextlib.contextmanager
def open_stream(path: Path) -> Iterator[BinaryIO]:
    """The bytes of a file, those of a `.gz` decompressed; reading to the end judges each member's CRC and length.

    Whatever the system or the stream raises becomes InputError.
    """
    try:
        with _opened(path) as stream:
            yield stream
    except InputError:
        raise
    except READ_ERRORS as error:
        raise damaged(path, str(error) or type(error).__name__) from error


def drain(stream: BinaryIO) -> int:
    """Read to the end, keeping nothing; how many bytes there were."""
    return sum(map(len, iter(lambda: stream.read(PIECE), b"")))


def as_meant(start: bytes) -> bytes:
    """The first bytes of a NIfTI file, with values of its header that are off by rounding set to what they mean.

    These are a quaternion a little longer than 1, a `qfac` (pixdim[0]) other than its sign, which alone counts, and an
    offset of the voxels a little off a whole byte. nibabel refuses the first, turns the second, cuts the third.
    """
    kind = next((kind for kind in HEADERS if is_header_of(kind, start)), None)
    if kind is None:
        return start
    size = kind.sizeof_hdr
    header = kind(start[:size], endianness=_order(kind, start), check=False)
    fields = ("quatern_b", "quatern_c", "quatern_d")
    with np.errstate(all="ignore"):
        length = math.hypot(*(float(header[name]) for name in fields))
        if 1 + kind.quaternion_threshold / 2 < length <= LONGEST_QUATERNION:
            for name in fields:
                header[name] = float(header[name]) / length
        qfac = float(header["pixdim"][0])
        if math.isfinite(qfac) and qfac:
            header["pixdim"][0] = math.copysign(1.0, qfac)
        offset = float(header["vox_offset"])
        if math.isfinite(offset) and abs(offset - round(offset)) < OFFSET_TOLERANCE:
            header["vox_offset"] = round(offset)
    return header.binaryblock + start[size:]


def not_nifti(
    path: object, found: str, hint: str = "convert it, for example with dcm2niix or mri_convert"
) -> InputError:
    """The error for a file of another format."""
    return InputError(
        "The file is not a NIfTI scan.",
        file=path,
        expected="a .nii or .nii.gz file (.mgz, .mgh, .nrrd and .mha scans are read too)",
        found=found,
        hint=hint,
    )


def damaged(path: object, found: str) -> InputError:
    """The error for a file that cannot be read to its end."""
    of_nifti = str(path).lower().endswith(NIFTI_ENDINGS) or path is None
    return InputError(
        f"The {'NIfTI ' if of_nifti else ''}file is damaged.",
        file=path,
        expected="a complete .nii or .nii.gz file" if of_nifti else "a complete file",
        found=found,
        hint="copy or download the file again" + ("; `gzip -t` checks a .nii.gz" if of_nifti else ""),
    )


def is_header_of(kind: type[nib.Nifti1Header], start: bytes) -> bool:
    """Whether a file that starts so has a header of `kind`."""
    sizes = [kind.sizeof_hdr.to_bytes(4, order) for order in ("little", "big")]
    return start[:4] in sizes and len(start) >= kind.sizeof_hdr


def _opened(path: Path) -> BinaryIO:
    return igzip.open(path, "rb") if path.name.lower().endswith((".gz", ".mgz")) else path.open("rb")


def _first_bytes(path: Path) -> tuple[bytes, bool]:
    """The first 540 bytes of the (decompressed) file, and whether it is compressed."""
    with path.open("rb") as file:
        packed = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
    named_gz = path.name.lower().endswith(".gz")
    if packed != named_gz:
        found = "data that is not gzip" if named_gz else "gzip data without the ending .gz"
        raise not_nifti(path, found, f"if it is a NIfTI file, rename it to end in {'.nii' if named_gz else '.nii.gz'}")
    with open_stream(path) as stream:
        return as_meant(stream.read(540)), named_gz


def _order(kind: type[nib.Nifti1Header], start: bytes) -> str:
    return "<" if start[:4] == kind.sizeof_hdr.to_bytes(4, "little") else ">"


def _parse(path: Path, start: bytes) -> nib.Nifti1Header:
    for kind in HEADERS:
        if is_header_of(kind, start):
            header = kind(start[: kind.sizeof_hdr], endianness=_order(kind, start), check=False)
            if bytes(header["magic"].tobytes()[:3]).rstrip(b"\0") in (b"n+1", b"n+2"):
                return header
            raise not_nifti(path, "a header without the single-file NIfTI mark n+1 or n+2 (Analyze, or half of a pair)")
    raise not_nifti(path, "a file that does not start with a NIfTI header")


def _voxel_type(path: Path, header: nib.Nifti1Header) -> np.dtype:
    try:
        dtype = header.get_data_dtype()
    except READ_ERRORS as error:
        raise damaged(path, f"the unknown voxel type code {int(header['datatype'])}") from error
    refuse_type(path, dtype)
    return dtype


def refuse_type(path: object, dtype: np.dtype) -> None:
    """Raise InputError unless voxels of `dtype` are single real numbers of at most 64 bits, or True and False."""
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        kind = "RGB" if dtype.names else "complex" if dtype.kind == "c" else str(dtype)
        raise InputError(
            "The voxels are not single real numbers.",
            file=path,
            expected="integers up to 64 bits, or float32 or float64",
            found=f"{kind} voxels",
            hint="convert the scan to float32, for example its magnitude",
        )
