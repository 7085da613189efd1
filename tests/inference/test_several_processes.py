"""Processes that are started together share a cohort: each predicts its part, and together it is what one predicts."""

from __future__ import annotations

import csv
import os
import socket
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mednext_jax.inference.predict import predict

pytestmark = pytest.mark.core

ROOT = Path(__file__).parents[2]


def predict_together(processes, *arguments):
    """`mednext-jax predict` in real processes; their exit statuses and what each printed."""
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
    environ = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    environ |= {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
        "PYTHONPATH": str(ROOT),
        "MEDNEXT_JAX_COORDINATOR": f"localhost:{port}",
        "MEDNEXT_JAX_PROCESSES": str(processes),
    }
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "mednext_jax.main", "predict", *map(str, arguments)],
            env=environ | {"MEDNEXT_JAX_PROCESS_ID": str(i)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in range(processes)
    ]
    try:
        outputs = [process.communicate(timeout=300)[0] for process in running]
    finally:
        for process in running:
            process.kill()
    return [process.returncode for process in running], outputs


def test_two_processes_predict_what_one_predicts(models, save_scan, tmp_path):
    scans = tmp_path / "scans"
    scans.mkdir()
    for i, shape in enumerate([(24, 22, 20), (20, 30, 17), (18, 19, 31)]):
        save_scan(scans / f"case{i}_0000.nii.gz", shape, seed=i)
    predict(scans, tmp_path / "alone", models[0], tta=False)
    statuses, outputs = predict_together(2, "-i", scans, "-o", tmp_path / "together", "-m", models[0], "--no-tta")
    assert statuses == [0, 0], "\n".join(outputs)
    assert "[2/2] case2" in outputs[0] and "[1/1] case1" in outputs[1]
    for path in sorted((tmp_path / "alone").glob("*.nii.gz")):
        ours, theirs = (nib.load(folder / path.name).get_fdata() for folder in (tmp_path / "together", path.parent))
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)  # compiled with other optimisation
    rows = [
        row["scan"]
        for k in (1, 2)
        for row in csv.DictReader((tmp_path / "together" / f"volumes_part-{k}-of-2.tsv").open(), delimiter="\t")
    ]
    assert rows == ["case0", "case2", "case1"]

    # The output of other settings is there now: every process refuses, one says so.
    statuses, outputs = predict_together(2, "-i", scans, "-o", tmp_path / "together", "-m", models[0])
    assert statuses == [2, 2]
    assert "prediction_part-1-of-2.json" in outputs[0] and "mirror_axes" in outputs[0]
    assert "mednext-jax predict" not in outputs[1]
