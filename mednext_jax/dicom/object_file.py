"""What the segmentation and the report have in common: who made them, of which series, and what is not copied."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mednext_jax.dicom.series import Series, import_dicom
from mednext_jax.errors import InputError
from mednext_jax.io.atomic import atomic_file
from mednext_jax.version import __version__

MAKER = "mednext-jax"
# DICOM's own code lists (Part 16) have no code for a perivascular space, so the scheme is ours.
SCHEME = "99MEDNEXTJAX"
PVS_CODE = ("PVS", SCHEME, "Perivascular space")
COUNTED_CODE = ("PVS-COUNT", SCHEME, "Number of perivascular spaces of at least the smallest size")
VOLUME_COUNTED_CODE = ("PVS-VOLUME", SCHEME, "Volume of perivascular spaces of at least the smallest size")
# Of patient and study, an object must carry these (types 1 and 2 of DICOM's modules Patient and General Study).
DEMANDED = frozenset(
    {
        *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
        *("StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName"),
    }
)
# Other attributes of a patient, a visit or a study, which an object need not have. Groups 0010 and 0012 whole.
_GROUPS = (0x0010, 0x0012, 0x0032, 0x0038)
_NOT_DEMANDED = (
    *("InstitutionName", "InstitutionAddress", "InstitutionalDepartmentName", "StationName", "OperatorsName"),
    *("StudyDescription", "PhysiciansOfRecord", "NameOfPhysiciansReadingStudy", "PerformingPhysicianName"),
)
SERIES_NUMBER = 9000  # added to the source's, so that objects sort behind the images


@dataclasses.dataclass(frozen=True)
class MadeWith:
    """How the mask was made. models: the sha256 of each; threshold: of the probability."""

    models: tuple[str, ...] = ()
    threshold: float | None = None

    @property
    def parameters(self) -> dict[str, str]:
        """The settings as texts by their names."""
        found = {f"model {number} sha256": value for number, value in enumerate(self.models, 1)}
        return found if self.threshold is None else found | {"threshold": f"{self.threshold:g}"}


def read_headers(series: Series) -> list[Any]:
    """The data sets of a series without their pixels."""
    pydicom = import_dicom("pydicom", series.files[0])
    return [pydicom.dcmread(path, stop_before_pixels=True) for path in series.files]


def series_number(headers: Sequence[Any], add: int) -> int:
    """A number for a new series beside that of `headers`."""
    return SERIES_NUMBER + add + int(headers[0].get("SeriesNumber") or 0)


def software() -> dict[str, Any]:
    """Keywords of highdicom's objects that say who made them."""
    return {
        "manufacturer": MAKER,
        "manufacturer_model_name": MAKER,
        "software_versions": __version__,
        "device_serial_number": "none",
    }


def write_object(made: Any, target: Path) -> None:
    """Write an object of highdicom, without what DICOM does not demand of patient, visit and study."""
    made.walk(_drop)
    with atomic_file(target, replace=False) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of texts of the source that break its own rules
        made.save_as(temporary, enforce_file_format=True)


def _drop(data: Any, element: Any) -> None:
    """Remove an element of patient, visit or study from its data set, at any depth, unless it is demanded."""
    of_patient = element.tag.group in _GROUPS or element.keyword in _NOT_DEMANDED
    if of_patient and element.keyword not in DEMANDED:
        del data[element.tag]


def not_made(what: str, series: Series, error: Exception) -> InputError:
    """The error for a series of which highdicom makes no object."""
    return InputError(f"highdicom makes no {what} of this series.", file=series.files[0].parent, found=str(error)[:300])
