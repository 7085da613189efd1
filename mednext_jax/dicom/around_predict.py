"""What `predict` does with DICOM: series become a scan before it, objects on the series are written after it."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mednext_jax.dicom.measurement_report import write_measurement_report
from mednext_jax.dicom.object_file import MadeWith
from mednext_jax.dicom.segmentation import write_segmentation
from mednext_jax.dicom.series import Series, choose_series, import_dicom, is_dicom
from mednext_jax.dicom.to_nifti import write_nifti
from mednext_jax.errors import InputError, shown
from mednext_jax.io.atomic import refuse_existing
from mednext_jax.io.json_file import read_json
from mednext_jax.io.scan_list import RECORD, decided_by, records_in
from mednext_jax.quantify.quantify import quantify

# Where the converted scan lies; predict takes an output folder in which only such names are.
HIDDEN = ".predict-dicom"


@dataclasses.dataclass(frozen=True)
class DicomScan:
    """What `predict` is to segment: `path`, of a NIfTI file; `series`: on which the result is written, if any."""

    path: Path
    series: Series | None


@contextlib.contextmanager
def dicom_scan(
    source: str | Path,
    output: str | Path,
    wanted: Sequence[str] = (),
    write_on: str | Path | bool = False,
) -> Iterator[DicomScan]:
    """Convert the series of a DICOM `source` into a scan in `output`; a source that is not DICOM stays as it is.

    wanted: number or UID of the series, one for each of the model's channels; not needed where there is only one.
    write_on: True, or the folder of the series on which the result of a NIfTI file is to be written.
    Raises InputError if a series is not clear, if `wanted` or `write_on` does not fit the source, for packages that
    are missing, or for an output that is there already. Without a prediction nothing stays in `output`.
    """
    source, output = Path(source), Path(output)
    if write_on:
        import_dicom("highdicom", source)
    if not is_dicom(source):
        yield DicomScan(source, _series_of_nifti(source, wanted, write_on))
        return
    if write_on and write_on is not True:
        raise InputError(
            "The result of a DICOM series is written on that series.",
            found=f"--dicom-seg {write_on}",
            hint="leave the folder out: --dicom-seg",
        )
    chosen = [choose_series(source, one) for one in wanted] or [choose_series(source)]
    if output.exists() and not records_in(output) and any(p.name != HIDDEN for p in output.iterdir()):
        refuse_existing(output)
    digest = hashlib.sha256("\n".join(one.uid for one in chosen).encode()).hexdigest()[:16]
    name = _case(source)
    paths = [
        output / HIDDEN / digest / (f"{name}.nii" if len(chosen) == 1 else f"{name}_{channel:04d}.nii")
        for channel in range(len(chosen))
    ]
    made = not output.exists()
    try:
        for path, series in zip(paths, chosen, strict=True):
            if not _is_newer(path, series):
                print(f"{shown(source)}: {shown(series)} is converted", flush=True)
                write_nifti(series, path)
        yield DicomScan(paths[0], chosen[0] if write_on else None)
    finally:
        if not records_in(output):
            shutil.rmtree(output / HIDDEN, ignore_errors=True)
            with contextlib.suppress(OSError):
                if made:
                    output.rmdir()


def write_objects(case: str, output: Path, series: Series, counting: Mapping[str, Any], *, force: bool = False) -> None:
    """Write CASE_seg.dcm and CASE_report.dcm of a prediction in `output` on a series; those that are newer stay.

    counting: connectivity, min_voxels, min_mm3 and split of `quantify`. force: older ones give way.
    Raises InputError as `write_segmentation`.
    """
    mask = output / f"{case}_mask.nii.gz"
    segmentation, report = output / f"{case}_seg.dcm", output / f"{case}_report.dcm"
    if all(p.is_file() and p.stat().st_mtime_ns > mask.stat().st_mtime_ns for p in (segmentation, report)):
        print(f"{shown(segmentation)}: is there", flush=True)
        return
    for path in (segmentation, report):
        if force:
            path.unlink(missing_ok=True)
        refuse_existing(path)
    record = read_json(output / RECORD)
    models = tuple(str(m["sha256"]) for m in record["models"] if m["sha256"])
    made_with = MadeWith(models, decided_by(output, case, record))
    whole = quantify(mask, **{name: value for name, value in counting.items() if not name.startswith("region")})
    try:
        made = write_segmentation(mask, series, segmentation, made_with)
        write_measurement_report(whole.regions[0], made, series, report, made_with)  # type: ignore[union-attr]
    except BaseException:
        segmentation.unlink(missing_ok=True)
        raise
    print(f"{shown(segmentation)}, {shown(report.name)}: on {shown(series)}", flush=True)


def _series_of_nifti(source: Path, wanted: Sequence[str], write_on: str | Path | bool) -> Series | None:
    if not write_on:
        if wanted:
            raise InputError(
                "The input is not DICOM and has no series.", file=source, found=f"--series {', '.join(wanted)}"
            )
        return None
    if write_on is True or not source.is_file():
        raise InputError(
            "Which DICOM series the result belongs on is not clear.",
            file=source,
            expected="a DICOM folder as the input, or one NIfTI file and the folder of its series",
            hint="-i DICOM --dicom-seg, or -i SCAN --dicom-seg DICOM",
        )
    return choose_series(Path(write_on), wanted[0] if wanted else None)


def _case(source: Path) -> str:
    """The name of the scan: that of its folder or file, which names no more than the user did."""
    path = source.resolve()
    name = path.name if path.is_dir() else path.stem
    return name.lstrip(".") or "scan"


def _is_newer(path: Path, series: Series) -> bool:
    if not path.is_file():
        return False
    written = path.stat().st_mtime_ns
    return all(file.stat().st_mtime_ns < written for file in series.files)
