"""The figures that a user meets, each beside its goal, in one run under six minutes on an H100: `bench_gpu --quick`.

The commands come first, in processes of their own, as they are a user's: this one then has not taken the GPU's memory.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import nibabel
import numpy as np

from mednext_jax.kernels.best_ops import best_ops
from mednext_jax.kernels.channels_first import ChannelsFirstOps
from mednext_jax.kernels.self_check import measure, said
from mednext_jax.model.config import MedNeXtConfig
from mednext_jax.model.mednext import MedNeXt
from mednext_jax.weights.directory import save_model
from mednext_jax.weights.recipe import Recipe
from tools.gpu.timing import Row

# L k5 on an H100: patches of 128^3, scans of 208 x 300 x 320; milliseconds, of the folder the GPU's share without work.
FORWARD, STEP = "network forward, batch 1", "network training step, batch 2"
WARM, FOLDER, SCAN = (
    "a later start of predict, one scan",
    "predict on six scans, without a scan",
    "a scan, host to host",
)
CHECK = "the check of all blocks, from the caches"
GOALS = {FORWARD: 8.0, STEP: 85.0, SCAN: 500.0, WARM: 10_000.0, CHECK: 20_000.0}
IDLE_GOAL = 5  # per cent
SCANS = 6
SECONDS = 330.0  # after which no further part begins


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What is timed: the network, its patches, and the scans (d, h, w)."""

    config: MedNeXtConfig
    patch: tuple[int, int, int]
    scan: tuple[int, int, int]


TINY = Sizes(
    MedNeXtConfig(base_channels=2, expansion_ratios=(1,) * 9, block_counts=(1,) * 9, dtype="bfloat16"),
    (16, 16, 16),
    (20, 18, 24),
)


def quick(sizes: Sizes, parts: dict[str, Callable[[], Iterator[Row]]], seconds: float = SECONDS) -> Iterator[Row]:
    """The rows of the commands and the check, then those of `parts` in their order, each beside its goal.

    What would begin after `seconds` is left out, with a row that says so; a part that fails has a row that says why.
    """
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        commands = Commands(sizes, Path(folder))
        checks = functools.partial(check, sizes.config, again=True)
        everything = {WARM: commands.warm_start, FOLDER: commands.six_scans, CHECK: checks}
        for name, part in (everything | parts).items():
            if time.monotonic() - start > seconds:
                yield Row(name, "kernels", note="left out: the time is up")
                continue
            try:
                yield from map(beside_its_goal, part())
            except Exception as error:  # a GPU may be lent for minutes: the other figures are still wanted
                yield Row(name, "kernels", note=f"FAILED {said(error)}")


def beside_its_goal(row: Row) -> Row:
    """The row with its goal, and whether it was met, in the note."""
    goal = GOALS.get(row.what)
    if goal is None or row.milliseconds is None or row.form == "device":
        return row
    verdict = "met" if row.milliseconds <= goal else "MISSED"
    return dataclasses.replace(row, note=f"goal {goal:g} ms, {verdict}; {row.note}".rstrip("; "))


class Commands:
    """`mednext-jax predict` with random weights on noisy ellipsoids, in a folder of their own."""

    def __init__(self, sizes: Sizes, folder: Path) -> None:
        self.folder = folder
        self.model, self.scans = folder / "model", folder / "scans"
        shape = jax.ShapeDtypeStruct((1, *sizes.patch, 1), jnp.float32)
        with jax.default_device(jax.local_devices(backend="cpu")[0]):
            params = MedNeXt(sizes.config).init(jax.random.key(1), shape)["params"]
        recipe = Recipe(
            channel_names=("T2w",), labels={"background": 0, "PVS": 1}, patch_size=sizes.patch, spacing=None
        )
        save_model(self.model, sizes.config, params, recipe)
        self.scans.mkdir()
        for number in range(SCANS):
            image = nibabel.Nifti1Image(ellipsoid(sizes.scan, number).T, np.eye(4))
            nibabel.save(image, self.scans / f"sub-{number}_T2w.nii.gz")

    def warm_start(self) -> Iterator[Row]:
        """One scan from the command to the prompt, when all programs are on disk."""
        one = next(iter(sorted(self.scans.iterdir())))
        first, _ = self._predict(one, "first")
        took, _ = self._predict(one, "second")
        yield Row(WARM, "kernels", took * 1e3, note=f"the start before it {first:.1f} s")

    def six_scans(self) -> Iterator[Row]:
        """The folder, and how long the device had no scan, as the command tells."""
        took, told = self._predict(self.scans, "folder")
        found = re.search(r"([\d.]+) s: (\d+) scans an hour, device idle (\d+)%", told)
        if found is None:
            raise RuntimeError(f"predict did not tell how long the device was idle: {told[-500:]}")
        idle = int(found[3])
        goal = f"idle {idle} %, goal {IDLE_GOAL} %, {'met' if idle <= IDLE_GOAL else 'MISSED'}"
        yield Row(FOLDER, "kernels", took * 1e3, note=f"{goal}; {found[1]} s from read to write, {found[2]} an hour")

    def _predict(self, scans: Path, name: str) -> tuple[float, str]:
        arguments = ("-i", scans, "-o", self.folder / name, "-m", self.model)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        environment.pop("MEDNEXT_JAX_KERNELS", None)  # as a user starts it: checked, then taken
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "mednext_jax", "predict", *map(str, arguments)],
            capture_output=True,
            text=True,
            env=environment,
        )
        if done.returncode:
            raise RuntimeError(f"predict ended with {done.returncode}: {done.stderr[-500:]}")
        return time.perf_counter() - start, done.stdout


def ellipsoid(extents: tuple[int, int, int], seed: int) -> np.ndarray:
    """A noisy ellipsoid (d, h, w) in front of nothing, as a head stands in a scan; float32."""
    axes = np.ogrid[tuple(slice(-1, 1, complex(0, n)) for n in extents)]
    inside = sum(axis**2 for axis in axes) < 0.8
    noise = np.random.default_rng(seed).normal(100, 10, extents)
    return np.where(inside, noise, 0).astype(np.float32)


def check(config: MedNeXtConfig, again: bool = False) -> Iterator[Row]:
    """Each kind of the network's blocks against XLA's float32 at the check's small shape, forward and gradients.

    again: all of it a second time, as another process would with everything on disk, for the clock.
    """
    if not isinstance(best_ops(dtype=config.dtype), ChannelsFirstOps):
        yield Row("blocks at a small shape against float32", "kernels", note="not checked: no kernels run here")
        return
    kinds = dict.fromkeys(kind for kind, _, _ in config.blocks())
    for kind in kinds:
        verdict = measure(kind)
        name, error = verdict.worst_gradient
        told = f"output {verdict.output:.1e} gradients {error:.1e} ({name})"
        yield Row(f"{kind} against float32", "kernels", note=f"{'WRONG' if verdict.fault else 'ok'} {told}")
    if again:
        jax.clear_caches()
        start = time.perf_counter()
        for kind in kinds:
            measure(kind)
        yield Row(CHECK, "kernels", (time.perf_counter() - start) * 1e3)
