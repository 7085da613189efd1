"""A DICOM series as a NIfTI scan, converted by dcm2niix."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

import nibabel as nib

from mednext_jax.dicom.series import Series, import_dicom
from mednext_jax.errors import InputError
from mednext_jax.io.atomic import atomic_file
from mednext_jax.io.nifti_names import few

# No side-car (-b n), no compression, no cropping, no lossless scaling of the intensities.
_OPTIONS = ("-b", "n", "-z", "n", "-x", "n", "-l", "o", "-f", "scan")
# Header fields into which dcm2niix writes texts of the series, which may name a person.
_TEXTS = ("descrip", "aux_file", "db_name", "intent_name")
_SAID = 300  # characters of dcm2niix's last words


def write_nifti(series: Series, target: Path) -> None:
    """Convert a series to `target` (.nii): voxels and affine are dcm2niix's; no text of the series is kept.

    Raises InputError if dcm2niix is not installed, makes nothing of it, or makes several images (echoes, phases,
    slices at uneven distances).
    """
    program = import_dicom("dcm2niix", series.files[0].parent).bin
    with tempfile.TemporaryDirectory(prefix="mednext-jax-dicom-") as folder:
        source, made = Path(folder, "in"), Path(folder, "out")
        source.mkdir()
        made.mkdir()
        for number, path in enumerate(series.files):
            (source / f"{number:06d}.dcm").symlink_to(path.resolve())
        done = subprocess.run(
            [program, *_OPTIONS, "-o", made, source], capture_output=True, text=True, errors="replace"
        )
        images = sorted(made.glob("*.nii"))
        if len(images) != 1:
            raise InputError(
                f"dcm2niix makes {'several images' if images else 'no image'} of the series.",
                file=series.files[0].parent,
                expected="one 3-D image",
                found=f"{series}: {few([path.name for path in images]) or done.stdout.strip()[-_SAID:]}",
                hint="convert it yourself with dcm2niix and give predict the NIfTI file that is meant",
            )
        image = nib.Nifti1Image.from_filename(images[0])
        for field in _TEXTS:
            image.header[field] = b""
        image.header.extensions.clear()
        with atomic_file(target) as temporary:
            image.to_filename(temporary)
