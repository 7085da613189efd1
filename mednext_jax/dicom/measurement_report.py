"""Counts and volumes as a DICOM structured report (TID 1500) that refers to the segmentation."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mednext_jax.dicom.object_file import (
    COUNTED_CODE,
    MAKER,
    PVS_CODE,
    VOLUME_COUNTED_CODE,
    MadeWith,
    not_made,
    read_headers,
    series_number,
    write_object,
)
from mednext_jax.dicom.series import Series, import_dicom
from mednext_jax.version import __version__

BRAIN_MRI = ("24590-2", "LN", "MR Brain")


def write_measurement_report(
    whole: Mapping[str, Any],
    segmentation: Any,
    series: Series,
    target: Path,
    made_with: MadeWith | None = None,
) -> Any:
    """Write the measures of a segmentation of `write_segmentation` as a Comprehensive 3D SR; returns the data set.

    whole: the row "whole brain" of `quantify`. Quantity and Volume are those of all clusters, hence of the segment;
    count and volume of clusters of at least the smallest size have private codes. Raises InputError if a file is in
    the target's place, or if highdicom is not installed.
    """
    hd = import_dicom("highdicom", series.files[0].parent)
    from pydicom.sr.codedict import codes
    from pydicom.sr.coding import Code

    headers = read_headers(series)
    parameters = (made_with or MadeWith()).parameters | {
        name: f"{whole[name]:g}" for name in ("min_voxels", "min_mm3") if name in whole
    }
    algorithm = hd.sr.AlgorithmIdentification(
        name=MAKER, version=__version__, parameters=[f"{name}: {value}" for name, value in parameters.items()]
    )
    rows = (
        (codes.SCT.Quantity, "count_all", codes.UCUM.NoUnits),
        (codes.SCT.Volume, "volume_all_mm3", codes.UCUM.CubicMillimeter),
        (Code(*COUNTED_CODE), "count", codes.UCUM.NoUnits),
        (Code(*VOLUME_COUNTED_CODE), "volume_mm3", codes.UCUM.CubicMillimeter),
    )
    device = hd.sr.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=hd.sr.DeviceObserverIdentifyingAttributes(
            uid=hd.UID(), name=MAKER, manufacturer_name=MAKER, model_name=MAKER
        ),
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            group = hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
                tracking_identifier=hd.sr.TrackingIdentifier(
                    uid=segmentation.SegmentSequence[0].TrackingUID, identifier="Perivascular spaces"
                ),
                referenced_segment=hd.sr.ReferencedSegment(
                    sop_class_uid=segmentation.SOPClassUID,
                    sop_instance_uid=segmentation.SOPInstanceUID,
                    segment_number=1,
                    source_images=[hd.sr.SourceImageForSegmentation.from_source_image(header) for header in headers],
                ),
                finding_type=Code(*PVS_CODE),
                finding_category=codes.SCT.AnatomicalStructure,
                finding_sites=[hd.sr.FindingSite(codes.SCT.Brain)],
                algorithm_id=algorithm,
                measurements=[hd.sr.Measurement(name, float(whole[key]), unit) for name, key, unit in rows],
            )
            content = hd.sr.MeasurementReport(
                observation_context=hd.sr.ObservationContext(observer_device_context=device),
                procedure_reported=Code(*BRAIN_MRI),
                imaging_measurements=[group],
                title=codes.DCM.ImagingMeasurementReport,
                referenced_images=headers,
            )
            made = hd.sr.Comprehensive3DSR(
                evidence=[segmentation, *headers],
                content=content[0],
                series_instance_uid=hd.UID(),
                series_number=series_number(headers, 1),
                sop_instance_uid=hd.UID(),
                instance_number=1,
                manufacturer=MAKER,
                series_description="Perivascular spaces (measurements)",
            )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise not_made("structured report", series, error) from None
    write_object(made, target)
    return made
