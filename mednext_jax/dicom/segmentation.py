"""A mask as a DICOM segmentation on the series that it was found in."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from mednext_jax.dicom.object_file import (
    MAKER,
    PVS_CODE,
    MadeWith,
    not_made,
    read_headers,
    series_number,
    software,
    write_object,
)
from mednext_jax.dicom.series import Series, import_dicom
from mednext_jax.errors import InputError
from mednext_jax.io.geometry import in_mm
from mednext_jax.io.nifti import read_labels
from mednext_jax.version import __version__

_SAME_PLACE = 0.05  # voxels by which a rounded affine may be off


def write_segmentation(mask: Path, series: Series, target: Path, made_with: MadeWith | None = None) -> Any:
    """Write the voxels above 0 of `mask` (NIfTI) as one binary segment, frame by frame on the images of `series`.

    The segment is a perivascular space (a private code: DICOM has none) in the brain, found automatically. Of patient
    and study only what DICOM demands is copied. Returns the data set, of highdicom. Raises InputError if the mask does
    not lie voxel by voxel on the series, if a file is in the target's place, or if highdicom is not installed.
    """
    hd = import_dicom("highdicom", series.files[0].parent)
    from pydicom.sr.codedict import codes
    from pydicom.sr.coding import Code

    headers = read_headers(series)
    image = read_labels(mask)
    volume = _on_series(hd, image, headers, series, mask)
    parameters = (made_with or MadeWith()).parameters
    algorithm = hd.AlgorithmIdentificationSequence(
        name=MAKER, family=codes.DCM.ArtificialIntelligence, version=__version__, parameters=parameters or None
    )
    segment = hd.seg.SegmentDescription(
        segment_number=1,
        segment_label="Perivascular spaces",
        segmented_property_category=codes.SCT.AnatomicalStructure,
        segmented_property_type=Code(PVS_CODE[0], PVS_CODE[1], PVS_CODE[2]),
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm,
        anatomic_regions=[codes.SCT.Brain],
        tracking_uid=hd.UID(),
        tracking_id="Perivascular spaces",
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = hd.seg.Segmentation(
                source_images=headers,
                pixel_array=volume,
                segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
                segment_descriptions=[segment],
                series_instance_uid=hd.UID(),
                series_number=series_number(headers, 0),
                sop_instance_uid=hd.UID(),
                instance_number=1,
                content_label="PVS",
                content_description="Perivascular spaces",
                series_description="Perivascular spaces (segmentation)",
                **software(),
            )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise not_made("segmentation", series, error) from None
    write_object(made, target)
    return made


def _on_series(hd: Any, image: nib.Nifti1Image, headers: Sequence[Any], series: Series, mask: Path) -> Any:
    """The mask as a volume of highdicom whose frames are the images of the series, in their order in space."""
    geometry = _geometry(hd, headers, series)
    voxels = (np.asanyarray(image.dataobj) > 0).astype(np.uint8)
    volume = hd.Volume.from_nibabel(
        nib.Nifti1Image(voxels, image.affine), frame_of_reference_uid=geometry.frame_of_reference_uid
    )
    tolerance = _SAME_PLACE * min(geometry.spacing)
    other = sorted(volume.spatial_shape) != sorted(geometry.spatial_shape)
    try:
        if not other:
            matched = volume.match_geometry(geometry, tol=tolerance)
            apart = np.abs(matched.affine - geometry.affine)
            # `match_geometry` cuts and pads by whole voxels; the centre shows whether it did.
            moved = np.subtract(volume.center_position, geometry.center_position)
            other = max(apart[:3, :3].max() * max(geometry.spatial_shape), apart.max(), *abs(moved)) > 2 * tolerance
    except (RuntimeError, ValueError):  # of other voxels, or between them
        other = True
    if other:
        raise InputError(
            "The mask does not lie on the DICOM series.",
            file=mask,
            expected=f"{series}, voxels of {in_mm(geometry.spacing)}",
            found=f"{' x '.join(map(str, image.shape))} voxels of {in_mm(nib.affines.voxel_sizes(image.affine))}",
            hint="name the series that was segmented",
        )
    return geometry.with_array(matched.array)


def _geometry(hd: Any, headers: Sequence[Any], series: Series) -> Any:
    frames = [frame for header in headers for frame in _frames(header)]
    try:
        positions, orientations, spacings = (np.array(values, float) for values in zip(*frames, strict=True))
        if np.ptp(orientations, axis=0).max() > 1e-4 or np.ptp(spacings, axis=0).max() > 1e-4:
            raise ValueError("images that are not parallel or of several voxel sizes")
        distance, places = hd.spatial.get_volume_positions(positions.tolist(), orientations[0].tolist())
        if distance is None or places is None:
            raise ValueError("images at uneven distances, or several at one place")
        first = headers[0]
        return hd.VolumeGeometry.from_attributes(
            image_position=positions[places.index(0)].tolist(),
            image_orientation=orientations[0].tolist(),
            rows=int(first.Rows),
            columns=int(first.Columns),
            pixel_spacing=spacings[0].tolist(),
            spacing_between_slices=distance,
            number_of_frames=len(frames),
            coordinate_system="PATIENT",
            frame_of_reference_uid=str(first.FrameOfReferenceUID),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            "The series is no regular stack of images; no segmentation can be written on it.",
            file=series.files[0].parent,
            expected="parallel images at even distances in one frame of reference",
            found=str(error)[:300],
        ) from None


def _frames(header: Any) -> Iterator[tuple[Any, Any, Any]]:
    """Position, orientation and pixel spacing of each image of a data set, of one frame or many."""
    if "PerFrameFunctionalGroupsSequence" not in header:
        yield header.ImagePositionPatient, header.ImageOrientationPatient, header.PixelSpacing
        return
    shared = header.SharedFunctionalGroupsSequence[0]
    for frame in header.PerFrameFunctionalGroupsSequence:

        def group(name: str, frame: Any = frame) -> Any:
            return (frame if name in frame else shared)[name][0]

        yield (
            group("PlanePositionSequence").ImagePositionPatient,
            group("PlaneOrientationSequence").ImageOrientationPatient,
            group("PixelMeasuresSequence").PixelSpacing,
        )
