"""Placeholder until dataset_files is merged."""

from mednext_jax.simulate.simulate import _write_json as write_json  # noqa
from mednext_jax.simulate.simulate import _write_table as write_table  # noqa
import nibabel as nib
from mednext_jax.io.nifti import write_image


def write_nifti(path, array, affine):
    image = nib.Nifti1Image(array, affine)
    image.set_qform(affine, code="scanner")
    image.set_sform(affine, code="scanner")
    image.header.set_xyzt_units("mm", "sec")
    write_image(path, image)
