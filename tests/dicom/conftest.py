"""MR series made by pydicom: single frames and one multi-frame file, oblique, with a known place of each voxel."""

from __future__ import annotations

import dataclasses

import nibabel as nib
import numpy as np
import pytest

SHAPE = (22, 20, 26)  # images, rows, columns
SPACING = (1.5, 0.9, 0.8)  # between images, rows, columns
TURN = nib.eulerangles.euler2mat(0.3, -0.2, 0.15)
# Directions in LPS of the columns' index, the rows' index, the images' index.
PLANES = {
    "axial": ((1, 0, 0), (0, 1, 0)),
    "sagittal": ((0, 1, 0), (0, 0, -1)),
    "coronal": ((1, 0, 0), (0, 0, -1)),
    "oblique": (tuple(TURN[:, 0]), tuple(TURN[:, 1])),
}


@dataclasses.dataclass(frozen=True)
class Made:
    """A series in a folder. voxels (images, rows, columns); affine: of these indices to RAS in mm."""

    folder: object
    voxels: np.ndarray
    affine: np.ndarray
    uid: str


@pytest.fixture
def make_series(tmp_path):
    """A function that writes a series and says what it wrote."""
    pydicom = pytest.importorskip("pydicom")
    study, frame_of_reference = pydicom.uid.generate_uid(), pydicom.uid.generate_uid()

    def base(number, uid, sop_class, description):
        data = pydicom.Dataset()
        data.file_meta = pydicom.dataset.FileMetaDataset()
        data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        data.SOPClassUID, data.SOPInstanceUID = sop_class, pydicom.uid.generate_uid()
        data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
        data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
        data.StudyInstanceUID, data.SeriesInstanceUID = study, uid
        data.FrameOfReferenceUID, data.PositionReferenceIndicator = frame_of_reference, ""
        data.Modality, data.SeriesNumber, data.SeriesDescription = "MR", number, description
        data.PatientName, data.PatientID = "Doe^Jane", "id-7"
        data.PatientBirthDate, data.PatientSex = "19500102", "F"
        data.StudyDate = data.SeriesDate = data.AcquisitionDate = data.ContentDate = "20200304"
        data.StudyTime = data.SeriesTime = data.AcquisitionTime = data.ContentTime = "101112"
        data.StudyID, data.AccessionNumber, data.ReferringPhysicianName = "1", "acc-9", "Who^Doctor"
        # Nothing of these is demanded of a segmentation.
        data.PatientAge, data.PatientWeight, data.PatientComments = "070Y", 71.5, "secret comment"
        data.OtherPatientIDs, data.PatientAddress, data.EthnicGroup = "other-id", "secret street", "secret group"
        data.InstitutionName, data.OperatorsName = "secret hospital", "secret operator"
        data.StudyDescription, data.ImageComments, data.ProtocolName = "secret study", "secret image", "t2"
        data.Manufacturer, data.ManufacturerModelName = "SIEMENS", "Prisma"
        data.Rows, data.Columns = SHAPE[1:]
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated = data.BitsStored = 16
        data.HighBit, data.PixelRepresentation = 15, 0
        data.BodyPartExamined, data.PatientPosition = "BRAIN", "HFS"
        return data

    def write(name="dicom", plane="axial", number=3, description="t2_space", multi_frame=False, shift=0.0, seed=0):
        folder, uid = tmp_path / name, pydicom.uid.generate_uid()
        folder.mkdir(exist_ok=True)
        voxels = np.random.default_rng(seed).integers(50, 900, SHAPE).astype(np.uint16)
        columns, rows = (np.array(axis, float) for axis in PLANES[plane])
        normal, origin = np.cross(columns, rows), np.array([-40.5 + shift, -61.25, 12.75])
        places = [origin + index * SPACING[0] * normal for index in range(SHAPE[0])]
        orientation = [float(f"{x:.12g}") for x in (*columns, *rows)]
        if multi_frame:
            data = base(number, uid, pydicom.uid.EnhancedMRImageStorage, description)
            data.ImageType, data.InstanceNumber = ["ORIGINAL", "PRIMARY", "M", "NONE"], 1
            data.NumberOfFrames, data.PixelData = SHAPE[0], voxels.tobytes()
            data.file_meta.ImplementationVersionName = "TEST"
            shared, measures, turn = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
            measures.PixelSpacing, measures.SliceThickness = list(SPACING[1:]), SPACING[0]
            measures.SpacingBetweenSlices, turn.ImageOrientationPatient = SPACING[0], orientation
            shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [turn]
            data.SharedFunctionalGroupsSequence = [shared]
            organisation = pydicom.Dataset()
            organisation.DimensionOrganizationUID = pydicom.uid.generate_uid()
            data.DimensionOrganizationSequence = [organisation]
            stack, place_in_stack = pydicom.Dataset(), pydicom.Dataset()
            for item, tag in ((stack, 0x00209056), (place_in_stack, 0x00209057)):
                item.DimensionIndexPointer, item.FunctionalGroupPointer = tag, 0x00209111
                item.DimensionOrganizationUID = organisation.DimensionOrganizationUID
            data.DimensionIndexSequence = [stack, place_in_stack]
            data.PerFrameFunctionalGroupsSequence = []
            for index, place in enumerate(places):
                frame, content, position = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
                content.StackID, content.InStackPositionNumber = "1", index + 1
                content.DimensionIndexValues = [1, index + 1]
                position.ImagePositionPatient = [float(f"{x:.12g}") for x in place]
                frame.FrameContentSequence, frame.PlanePositionSequence = [content], [position]
                data.PerFrameFunctionalGroupsSequence.append(frame)
            data.save_as(folder / f"{number}.dcm", enforce_file_format=True)
        else:
            for index, place in enumerate(places):
                data = base(number, uid, pydicom.uid.MRImageStorage, description)
                data.ImageType, data.InstanceNumber = ["ORIGINAL", "PRIMARY", "M"], index + 1
                data.ImagePositionPatient = [float(f"{x:.12g}") for x in place]
                data.ImageOrientationPatient, data.PixelSpacing = orientation, list(SPACING[1:])
                data.SliceThickness = data.SpacingBetweenSlices = SPACING[0]
                data.EchoTime, data.RepetitionTime = 100, 3000
                data.PixelData = voxels[index].tobytes()
                # File names do not tell the order.
                data.save_as(folder / f"{number}_{(7 * index) % SHAPE[0]:03d}", enforce_file_format=True)
        matrix = np.stack([SPACING[0] * normal, SPACING[1] * rows, SPACING[2] * columns], axis=1)
        to_ras = np.diag([-1.0, -1, 1, 1]) @ nib.affines.from_matvec(matrix, origin)
        return Made(folder, voxels, to_ras, uid)

    return write
