"""A mask on its series as DICOM SEG: read back with highdicom, each voxel where it was; other series are refused."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from mednext_jax.dicom.object_file import DEMANDED, PVS_CODE, MadeWith
from mednext_jax.dicom.segmentation import write_segmentation
from mednext_jax.dicom.series import choose_series
from mednext_jax.dicom.to_nifti import write_nifti
from mednext_jax.errors import InputError

pytestmark = pytest.mark.core


def mask_of(made, folder, above=700):
    """A mask on the grid that dcm2niix makes of a series, and where it is set in DICOM's own order."""
    pytest.importorskip("dcm2niix")
    write_nifti(choose_series(made.folder, made.uid), folder / "scan.nii")
    image = nib.load(folder / "scan.nii")
    mask = (np.asarray(image.dataobj) > above).astype(np.uint8)
    nib.save(nib.Nifti1Image(mask, image.affine), folder / "mask.nii.gz")
    return folder / "mask.nii.gz", made.voxels > above


@pytest.mark.parametrize("multi_frame", [False, True], ids=["frames", "multi-frame"])
@pytest.mark.parametrize("plane", ["axial", "sagittal", "oblique"])
def test_read_back_each_voxel_is_on_its_image(make_series, tmp_path, plane, multi_frame):
    hd = pytest.importorskip("highdicom")
    made = make_series(plane=plane, multi_frame=multi_frame)
    mask, expected = mask_of(made, tmp_path)
    write_segmentation(mask, choose_series(made.folder), tmp_path / "seg.dcm", MadeWith(("abc",), 0.4))
    seg = hd.seg.segread(tmp_path / "seg.dcm")
    volume = seg.get_volume(combine_segments=False)
    found = volume.array[..., 0] if volume.array.ndim == 4 else volume.array
    # Where highdicom says that each voxel is, in the series' own indices; DICOM's world is LPS.
    onto = np.linalg.inv(made.affine) @ np.diag([-1.0, -1, 1, 1]) @ volume.affine
    places = np.rint(nib.affines.apply_affine(onto, np.argwhere(found))).astype(int)
    read = np.zeros_like(expected)
    read[tuple(places.T)] = True
    np.testing.assert_array_equal(read, expected)
    source = {str(item.ReferencedSOPInstanceUID) for item in seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence}
    assert len(source) == (1 if multi_frame else len(expected))
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == made.uid


def test_what_it_says_and_what_it_does_not_copy(make_series, tmp_path):
    hd = pytest.importorskip("highdicom")
    made = make_series()
    mask, _ = mask_of(made, tmp_path)
    write_segmentation(mask, choose_series(made.folder), tmp_path / "seg.dcm", MadeWith(("abc",), 0.4))
    seg = hd.seg.segread(tmp_path / "seg.dcm")
    (segment,) = seg.SegmentSequence
    kind = segment.SegmentedPropertyTypeCodeSequence[0]
    assert (kind.CodeValue, kind.CodingSchemeDesignator, kind.CodeMeaning) == PVS_CODE
    assert segment.AnatomicRegionSequence[0].CodeValue == "12738006"  # SNOMED CT: brain
    assert segment.SegmentAlgorithmType == "AUTOMATIC"
    parameters = segment.SegmentationAlgorithmIdentificationSequence[0].AlgorithmParameters
    assert "abc" in parameters and "0.4" in parameters
    assert (seg.PatientID, seg.AccessionNumber, str(seg.PatientName)) == ("id-7", "acc-9", "Doe^Jane")
    assert (seg.SeriesNumber, seg.Modality) == (9003, "SEG") and seg.SeriesInstanceUID != made.uid
    patient = {e.keyword for e in seg if e.tag.group in (0x0010, 0x0012, 0x0032, 0x0038)}
    assert patient <= DEMANDED
    assert not [line for line in str(seg).splitlines() if "secret" in line or "other-id" in line]


def test_an_empty_mask_is_a_segmentation_too(make_series, tmp_path):
    hd = pytest.importorskip("highdicom")
    made = make_series()
    mask, _ = mask_of(made, tmp_path, above=60_000)
    write_segmentation(mask, choose_series(made.folder), tmp_path / "seg.dcm")
    seg = hd.seg.segread(tmp_path / "seg.dcm")
    assert not seg.get_volume(combine_segments=False).array.any()


@pytest.mark.parametrize("other", [{"plane": "oblique"}, {"plane": "sagittal"}, {"shift": 0.4}, {"shift": 8.0}])
def test_another_series_is_refused(make_series, tmp_path, other):
    pytest.importorskip("highdicom")
    mask, _ = mask_of(make_series("a"), tmp_path)
    series = choose_series(make_series("b", number=5, **other).folder)
    with pytest.raises(InputError, match=r"does not lie on the DICOM series[\s\S]*series 5"):
        write_segmentation(mask, series, tmp_path / "seg.dcm")
    assert not (tmp_path / "seg.dcm").exists()


def test_uneven_images_and_a_file_in_the_way(make_series, tmp_path):
    pytest.importorskip("highdicom")
    made = make_series()
    mask, _ = mask_of(made, tmp_path)
    (tmp_path / "seg.dcm").write_text("mine")
    with pytest.raises(InputError, match="exists already"):
        write_segmentation(mask, choose_series(made.folder), tmp_path / "seg.dcm")
    assert (tmp_path / "seg.dcm").read_text() == "mine"
    sorted(made.folder.iterdir())[5].unlink()
    with pytest.raises(InputError, match=r"no regular stack[\s\S]*uneven"):
        write_segmentation(mask, choose_series(made.folder), tmp_path / "other.dcm")
