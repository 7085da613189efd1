"""Settings of the whole suite: the CPU, one device, float32 matmuls as they are on a CPU."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import tempfile

import pytest

# Before any test imports JAX: a machine with a GPU runs the same suite, and what one test compiled, the processes that
# another starts need not compile again. The user's own cache is left alone.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="mednext-jax-tests-")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)


@pytest.fixture
def raw_dataset(tmp_path):
    """Writes a small nnU-Net raw data set of heads with bright labelled spots; returns its folder.

    Keywords: `cases` (names), `shape` (x, y, z), `channels`, `ending`, and keys of dataset.json to change.
    """
    import nibabel as nib
    import numpy as np

    def write(cases=("sub-00", "sub-01", "sub-02"), shape=(36, 40, 34), channels=1, ending=".nii.gz", **json_keys):
        root = tmp_path / "raw"
        for folder in ("imagesTr", "labelsTr"):
            (root / folder).mkdir(parents=True)
        affine = np.diag([-1.0, 1, 1, 1])
        for number, case in enumerate(cases):
            random = np.random.default_rng(number)
            head = np.zeros(shape, bool)
            head[6:-6, 5:-7, 4:-4] = True
            label = ((random.random(shape) > 0.98) & head).astype(np.uint8)
            for channel in range(channels):
                voxels = ((random.normal(100, 10, shape) + 80 * label) * head).astype(np.int16)
                nib.save(nib.Nifti1Image(voxels, affine), root / "imagesTr" / f"{case}_{channel:04d}{ending}")
            nib.save(nib.Nifti1Image(label, affine), root / "labelsTr" / f"{case}{ending}")
        content = {
            "channel_names": {str(channel): "T2w" for channel in range(channels)},
            "labels": {"background": 0, "pvs": 1},
            "numTraining": len(cases),
            "file_ending": ending,
        } | json_keys
        (root / "dataset.json").write_text(json.dumps(content))
        return root

    return write
