"""Kill `predict` at random moments and start it again; the outputs must be those of an undisturbed run.

    python -m tools.kill_predict --kills 50 --scans 12

Small random scans and a tiny network on the CPU. A run is killed (SIGKILL) at a moment drawn from the time that an
undisturbed one takes from its first word to its end, or every other time from its first scan to its end, and the same
command is started again; a run that has ended begins anew in another folder. In the end each folder is compared with
the undisturbed one, byte for byte but for times (seconds, times of change), and must hold no hidden file.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import nibabel as nib
import numpy as np

from mednext_jax.model.config import MedNeXtConfig
from mednext_jax.model.mednext import MedNeXt
from mednext_jax.weights.directory import save_model
from mednext_jax.weights.recipe import Recipe

ROOT = Path(__file__).parents[1]
BEGINNINGS = ("", "[")  # of a run's first line, and of its first scan's


@dataclasses.dataclass(frozen=True)
class Killed:
    """What came of it. moments: (seconds since the first word or scan, scans done at that time) of each kill."""

    moments: list[tuple[float, int]]
    folders: int
    differing: list[str]


def write_inputs(folder: Path, scans: int) -> list[str]:
    """Write a model and scans; returns the arguments of `predict`, but for its output."""
    config = MedNeXtConfig(base_channels=2, expansion_ratios=(1,) * 9, block_counts=(1,) * 9)
    shapes = jax.eval_shape(MedNeXt(config).init, jax.random.key(0), jnp.zeros((1, 16, 16, 16, 1)))["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.normal(0, 0.4, leaf.shape).astype(np.float32), shapes)
    save_model(folder / "model", config, params, Recipe(channel_names=("T2w",), patch_size=(16, 16, 16)))
    (folder / "scans").mkdir()
    for i in range(scans):
        voxels = rng.normal(300, 80, (40, 36, 32)).clip(1, 1000).astype(np.int16)
        nib.save(nib.Nifti1Image(voxels, np.eye(4)), folder / "scans" / f"case{i:02d}.nii.gz")
    return ["predict", "-i", str(folder / "scans"), "-m", str(folder / "model"), "--no-tta"]


def kill_and_continue(folder: Path, kills: int, scans: int, seed: int = 0) -> Killed:
    """Do it in the new folder `folder`."""
    arguments = write_inputs(folder, scans)
    whole = folder / "undisturbed"
    _run(arguments, whole)  # compiles
    spans = {since: _run(arguments, folder / f"timed{i}", since) for i, since in enumerate(BEGINNINGS)}
    rng, moments, differing, number = random.Random(seed), list[tuple[float, int]](), list[str](), 0
    while len(moments) < kills:
        number += 1
        out = folder / f"out{number}"
        while len(moments) < kills:
            since = BEGINNINGS[len(moments) % 2]
            after = rng.uniform(0, spans[since] or 0)
            if _run(arguments, out, since, after) is not None:
                break
            moments.append((round(after, 3), len(list(out.glob("records/*.json")))))
        else:
            _run(arguments, out)
        differing += [f"{out.name}/{name}" for name in differences(whole, out)]
    return Killed(moments, number, differing)


def differences(one: Path, other: Path) -> list[str]:
    """Names of files that differ or that only one has, but for times and the log; and hidden ones of `other`."""
    names = {path.relative_to(folder) for folder in (one, other) for path in folder.rglob("*") if path.is_file()}
    wrong = [name for name in names if name.suffix != ".log" and _content(one / name) != _content(other / name)]
    hidden = [path.relative_to(other) for path in other.rglob(".*") if path.name != ".bidsignore"]
    return sorted(map(str, {*wrong, *hidden}))


def _content(path: Path) -> object:
    if not path.is_file():
        return None
    if path.name.startswith("volumes"):
        rows = [line.split("\t") for line in path.read_text().splitlines()]
        return [row[:3] + row[4:] for row in rows]
    if path.parent.name == "records":
        record = json.loads(path.read_text())
        del record["row"]["seconds"]
        for state in record["outputs"].values():
            del state["mtime_ns"]
        return record
    if path.name == "prediction.json":
        return {name: value for name, value in json.loads(path.read_text()).items() if name != "run"}
    return path.read_bytes()


def _run(arguments: list[str], out: Path, since: str = "", after: float | None = None) -> float | None:
    """Seconds from the first line that begins with `since` to the end; None if it was killed `after` so many."""
    process = subprocess.Popen(
        [sys.executable, "-m", "mednext_jax", *arguments, "-o", str(out)],
        env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if line.startswith(since):
            break
    start = time.perf_counter()
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        process.kill()
    rest, _ = process.communicate()
    if process.returncode == -signal.SIGKILL:
        return None
    if process.returncode:
        raise RuntimeError(said + rest)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--scans", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        killed = kill_and_continue(Path(name), options.kills, options.scans, options.seed)
    print("moments of the kills (seconds, scans done):", *(f"{at:.2f}:{done}" for at, done in killed.moments))
    print(f"{len(killed.moments)} kills, {killed.folders} runs that ended, {len(killed.differing)} files differ")
    print(*killed.differing, sep="\n")
    sys.exit(bool(killed.differing))


if __name__ == "__main__":
    main()
