"""A prediction that is stopped: it answers at once, its table tells what is there, and the same call does the rest."""

from __future__ import annotations

import csv
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mednext_jax.errors import InputError
from mednext_jax.inference.predict import predict
from tools.kill_predict import differences

pytestmark = pytest.mark.core

ROOT = Path(__file__).parents[2]
# The command line, with a device that never comes back from scan number N (from 0), as in a long compilation.
STUCK = """
import itertools, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
from mednext_jax.inference.predictor import Predictor
from mednext_jax.main import main
from mednext_jax.inference.outputs import Outputs
infer, numbers, stuck, close = Predictor.infer, itertools.count(), int(sys.argv[1]), Outputs.close
def slowly(self):
    print("closing", flush=True)
    time.sleep(2)
    close(self)
Outputs.close = slowly
def slow(self, loaded, tiles=None):
    if next(numbers) == stuck:
        print("stuck", flush=True)
        time.sleep(600)
    return infer(self, loaded)
Predictor.infer = slow
sys.exit(main(sys.argv[2:]))
"""


# What a scan leaves, and what all of them do.
KINDS = ("mask.nii.gz", "probability.nii.gz", "clusters.nii.gz", "clusters.tsv", "regions.tsv")
COHORT = (
    *("prediction.json", "scans.json", "volumes.tsv", "pvs.tsv", "pvs.json", "clusters.json"),
    *("predict.log", "records"),
)


@pytest.fixture(scope="module")
def scans(save_scan, tmp_path_factory):
    folder = tmp_path_factory.mktemp("scans")
    for i in range(4):
        save_scan(folder / f"case{i}.nii.gz", seed=i)
    return folder


def stopped(number, by, scans, out, model, said_before):
    """Run until scan `number` is on the device and `said_before` is printed, send the signal; exit status and lines."""
    command = [sys.executable, "-c", STUCK, str(number), "predict", "-i", scans, "-o", out, "-m", model, "--no-tta"]
    process = subprocess.Popen(
        list(map(str, command)),
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        lines = []
        while not all(any(words in line for line in lines) for words in ("stuck", *said_before)):
            lines.append(process.stdout.readline())
            assert lines[-1], "".join(lines)
        process.send_signal(by)
        if by != signal.SIGKILL:  # and people press Ctrl-C again
            while "closing" not in lines[-1]:
                lines.append(process.stdout.readline())
                assert lines[-1], "".join(lines)
            process.send_signal(signal.SIGINT)
            process.send_signal(signal.SIGTERM)
        rest, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode, "".join(lines) + rest


def table(path):
    return [row["scan"] for row in csv.DictReader(path.open(), delimiter="\t")]


def files(out):
    return sorted(path.name for path in out.iterdir())


def test_ctrl_c_leaves_what_the_table_tells_and_the_same_call_does_the_rest(models, scans, tmp_path, capsys):
    out = tmp_path / "out"
    status, said = stopped(2, signal.SIGINT, scans, out, models[0], ["[1/4] case0", "[2/4] case1"])
    assert status == 130 and "predict: stopped" in said and "Traceback" not in said
    done = [f"case{i}_{kind}" for i in range(2) for kind in KINDS]
    assert files(out) == sorted([*done, *COHORT])
    assert table(out / "volumes.tsv") == table(out / "pvs.tsv") == ["case0", "case1"]

    before = {name: (out / name).stat().st_mtime_ns for name in done}
    with pytest.raises(InputError, match=r"other settings \(threshold\)"):
        predict(scans, out, models[0], tta=False, threshold=0.6)
    with pytest.raises(InputError, match=r"other settings \(models\)"):
        predict(scans, out, models[1], tta=False)
    next(scans.glob("case1*")).touch()
    rows = predict(scans, out, models[0], tta=False)
    assert [row["scan"] for row in rows] == table(out / "volumes.tsv") == [f"case{i}" for i in range(4)]
    assert before == {name: (out / name).stat().st_mtime_ns for name in done}
    assert "2 done before" in (printed := capsys.readouterr().out) and "[3/4] case2" in printed
    predict(scans, tmp_path / "whole", models[0], tta=False)
    for name in files(tmp_path / "whole"):
        if name.endswith(".nii.gz"):
            ours, theirs = (np.asarray(nib.load(folder / name).dataobj) for folder in (out, tmp_path / "whole"))
            np.testing.assert_array_equal(ours, theirs)

    shutil.copytree(scans, tmp_path / "scans")
    changed = tmp_path / "changed"
    predict(tmp_path / "scans", changed, models[0], tta=False)
    shutil.copy(scans / "case0.nii.gz", tmp_path / "scans" / "case1.nii.gz")
    capsys.readouterr()
    predict(tmp_path / "scans", changed, models[0], tta=False)
    printed = capsys.readouterr().out
    assert re.search("changed since it was segmented.*\n.*case1", printed) and "[4/4] case1" in printed
    assert (changed / "case0_mask.nii.gz").read_bytes() == (changed / "case1_mask.nii.gz").read_bytes()


def test_sigterm_during_the_first_scan_leaves_nothing(models, scans, tmp_path):
    status, said = stopped(0, signal.SIGTERM, scans, tmp_path / "new" / "out", models[0], [])
    assert status == 143 and "predict: stopped" in said and "Traceback" not in said
    assert not list(tmp_path.iterdir())


def test_a_killed_run_continues_and_its_remains_go(models, scans, tmp_path):
    out = tmp_path / "out"
    status, _ = stopped(1, signal.SIGKILL, scans, out, models[0], ["[1/4] case0"])
    assert status == -signal.SIGKILL
    assert [name for name in files(out) if name.startswith(".")]  # its lock and its hidden folder
    (out / "case0_probability.nii.gz").unlink()  # a row whose files are not whole is done again
    shutil.copy(out / "case0_mask.nii.gz", out / "case2_mask.nii.gz")  # and so is a file without a row
    predict(scans, out, models[0], tta=False)
    assert table(out / "volumes.tsv") == [f"case{i}" for i in range(4)]
    assert files(out) == sorted([*(f"case{i}_{kind}" for i in range(4) for kind in KINDS), *COHORT])
    first, third = ((out / f"case{i}_mask.nii.gz").read_bytes() for i in (0, 2))
    assert first != third
    predict(scans, tmp_path / "whole", models[0], tta=False)
    assert differences(tmp_path / "whole", out) == []
