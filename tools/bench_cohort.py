"""The host's part of `predict` on a folder, beside a device that takes a given time for each scan.

    python -m tools.bench_cohort --seconds 2.6 --scans 16

Real files of 208 x 300 x 320 voxels are read, prepared, and their results fetched, compressed and written; in the
network's place the device waits. Prints what `predict` prints: scans an hour and the share of time in which the device
has no scan. 2.6 s is what an H100 computes for such a scan with L k5 and eight mirrors, 0.32 s without mirrors.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import nibabel as nib
import numpy as np
from scipy.ndimage import gaussian_filter

from mednext_jax.inference import predictor
from mednext_jax.inference.on_device import LoadedScan
from mednext_jax.inference.predict import predict
from mednext_jax.io.nifti import write_image
from mednext_jax.io.slabs import slabs_of
from mednext_jax.model.config import MedNeXtConfig
from mednext_jax.model.mednext import MedNeXt
from mednext_jax.weights.directory import save_model
from mednext_jax.weights.recipe import Recipe

SHAPE = (320, 300, 208)


def write_inputs(folder: Path, scans: int) -> None:
    """A model and `scans` names of one scan: an ellipsoid that fills the volume, of smooth noise as tissue has it."""
    config = MedNeXtConfig(base_channels=4, block_counts=(1,) * 9)
    params = MedNeXt(config).init(jax.random.key(0), jnp.zeros((1, 16, 16, 16, 1)))["params"]
    save_model(folder / "model", config, params, Recipe(channel_names=("T2w",)))
    away = sum((np.linspace(-1, 1, n) ** 2).reshape(-1, *(1,) * (2 - axis)) for axis, n in enumerate(SHAPE))
    noise = gaussian_filter(np.random.default_rng(0).normal(size=SHAPE).astype(np.float32), 0.7)
    voxels = np.where(away < 1, 500 + 200 * noise, 0).astype(np.int16)
    (folder / "scans").mkdir()
    first = folder / "scans/case000_0000.nii.gz"
    write_image(first, nib.Nifti1Image(voxels, np.diag([0.8, 0.8, 0.8, 1.0])))
    for i in range(1, scans):
        os.link(first, folder / f"scans/case{i:03d}_0000.nii.gz")


def device_of(seconds: float) -> Any:
    """`on_device.decide_box` of a device that takes so long and finds thin bright structures everywhere."""
    found: list[np.ndarray] = []

    def decide_box(scan: LoadedScan, *_: Any) -> list[tuple[jax.Array, jax.Array]]:
        if not found:
            smooth = gaussian_filter(np.random.default_rng(1).normal(size=scan.volume.shape[:3]), 2)
            logits = 2 * smooth / smooth.std() - 6
            found.append(np.where(scan.volume[..., 0] != 0, 1 / (1 + np.exp(-logits)), 0).astype(np.float32))
        (probability,) = found
        slabs = [probability[slab] for slab in slabs_of(len(probability), 8)]
        decided = [(jnp.asarray(slab > 0.5, jnp.uint8), jnp.asarray(slab)) for slab in slabs]
        time.sleep(seconds)
        return decided

    return decide_box


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, nargs="+", default=[2.6, 0.32], help="of the device for a scan")
    parser.add_argument("--scans", type=int, default=16)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_inputs(folder, options.scans)
        for seconds in options.seconds:
            print(f"{os.cpu_count()} processors; a device that takes {seconds} s for a scan")
            with (
                mock.patch.object(predictor, "compute_evidence", lambda *_: jnp.zeros(())),
                mock.patch.object(predictor, "decide_box", device_of(seconds)),
            ):
                predict(folder / "scans", folder / f"out{seconds}", folder / "model", tta=False)


if __name__ == "__main__":
    main()
