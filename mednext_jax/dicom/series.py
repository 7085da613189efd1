"""The series of a folder of DICOM files, by their headers, and which of them is meant."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mednext_jax.errors import InputError
from mednext_jax.io.bids import is_bids
from mednext_jax.io.nifti_names import few, files_below, files_in, is_scan_name, walk

LOOKED_AT = 1000  # files in which a DICOM file is looked for
DICOM_EXTRA = "pip install 'mednext-jax[dicom]'"
# Objects that lie beside images and are none.
_NO_IMAGES = ("SEG", "SR", "PR", "KO", "RTSTRUCT", "REG", "DOC")
_READ = ("SOPClassUID", "Modality", "SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "Rows", "Columns")


@dataclasses.dataclass(frozen=True)
class Series:
    """The files of one series of images, with what tells it apart from others."""

    uid: str
    number: str
    description: str
    size: str  # rows x columns x images
    files: tuple[Path, ...]

    def __str__(self) -> str:
        return f"series {self.number or 'without number'} ({self.description or 'no description'}, {self.size})"


def is_dicom(source: str | Path) -> bool:
    """Whether a file, or a folder without scans of other formats, is DICOM: bytes 128 to 131 of a file are DICM."""
    source = Path(source)
    if source.is_file():
        return not is_scan_name(source) and _is_dicom_file(source)
    if not source.is_dir() or is_bids(source) or any(map(is_scan_name, files_in(source))):
        return False
    return any(map(_is_dicom_file, itertools.islice(walk(source), LOOKED_AT)))


def find_series(source: str | Path) -> list[Series]:
    """The series of images of a DICOM file, or of a folder and all below it, by their numbers.

    Raises InputError if there is none, if a file is damaged, or if pydicom is not installed.
    """
    pydicom = import_dicom("pydicom", source)
    source = Path(source)
    found: dict[str, list[tuple[Path, Any]]] = {}
    for path in files_below(source) if source.is_dir() else [source]:
        if not _is_dicom_file(path):
            continue
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=[*_READ, "NumberOfFrames"])
        except Exception as error:  # whatever pydicom makes of a damaged file
            raise InputError("A DICOM file is damaged.", file=path, found=str(error)[:200]) from None
        if "Rows" in header and header.get("Modality") not in _NO_IMAGES:
            found.setdefault(str(header.get("SeriesInstanceUID", "")), []).append((path, header))
    if not found:
        raise InputError("There is no series of images.", file=source, expected="DICOM files of MR images")
    series = [_series(uid, files) for uid, files in found.items()]
    return sorted(series, key=lambda one: (int(one.number) if one.number.isdigit() else -1, one.uid))


def choose_series(source: str | Path, wanted: str | None = None) -> Series:
    """The one series of `source`, or that whose number or UID is `wanted`; raises InputError that lists them."""
    there = find_series(source)
    chosen = there if wanted is None else [one for one in there if wanted in (one.number, one.uid)]
    if len(chosen) == 1:
        return chosen[0]
    twice = len(chosen) > 1 and wanted is not None
    raise InputError(
        "The folder has several DICOM series." if len(chosen) > 1 else "The folder has no such DICOM series.",
        file=source,
        expected="one series" if wanted is None else f"series {wanted}",
        found=_listed(there, with_uid=twice),
        hint="choose one: --series NUMBER" if not twice else "choose one by its UID: --series UID",
    )


def import_dicom(module: str, source: object) -> Any:
    """A module of the extra `dicom`; raises InputError if it is not installed."""
    try:
        return __import__(module)
    except ImportError:
        raise InputError(
            f"{module}, which DICOM needs, is not installed.", file=source, hint=f"{DICOM_EXTRA}, or give NIfTI files"
        ) from None


def _is_dicom_file(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM" and path.name.upper() != "DICOMDIR"
    except OSError:
        return False


def _series(uid: str, files: Sequence[tuple[Path, Any]]) -> Series:
    header = files[0][1]
    images = sum(int(one.get("NumberOfFrames", 1) or 1) for _, one in files)
    return Series(
        uid,
        str(header.get("SeriesNumber", "") or ""),
        str(header.get("SeriesDescription", "") or ""),
        f"{header.get('Rows')} x {header.get('Columns')} x {images}",
        tuple(path for path, _ in files),
    )


def _listed(series: Sequence[Series], *, with_uid: bool) -> str:
    return few([f"{one}{f' {one.uid}' if with_uid else ''}" for one in series])
