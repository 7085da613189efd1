"""What a generated patch costs beside a training step: `python -m tools.bench_generator [--patch 48] [--h100]`.

Both for one sample, in one process on the device at hand: MedNeXt-S k3 at 128^3, and the small network of
`configs/without_labels.py` at 48^3. Without an option: times, and their ratio. With --count nothing runs: both programs
are compiled and what their kernels read and write is added up from XLA's text, loops in full, in bytes and in passes
over a float32 volume of the patch; the largest kernels of the generator are listed. XLA fuses for each kind of device
in its own way: a CPU's bytes are a poor estimate of a GPU's. With --h100 the generator is counted as XLA compiles it
for an H100, which need not be there, and reckoned in milliseconds: the bytes at the speed of its memory, and a time for
each launch. The step of S k3 that it stands beside is reckoned, too: three times the forward pass that was measured.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from mednext_jax.compilation_cache import use_compilation_cache
from mednext_jax.kernels.best_ops import best_ops
from mednext_jax.model.config import MedNeXtConfig
from mednext_jax.simulate.anatomy import stacked
from mednext_jax.simulate.generator import make_generate
from mednext_jax.simulate.generator_config import GeneratorConfig
from mednext_jax.simulate.heads import anatomies_of
from mednext_jax.train.state import TrainState
from tools.gpu.cases import BYTES_PER_SECOND
from tools.gpu.count_launches import compiled_text, h100
from tools.hlo import Instruction, bytes_moved, instructions, kernels, launches
from tools.training_step import Step, seconds_of_a_step, step_of_network

SMALL = MedNeXtConfig(base_channels=8, expansion_ratios=(2,) * 9, block_counts=(1,) * 9, deep_supervision=True)
NETWORKS = {128: MedNeXtConfig.variant("S", kernel_size=3, deep_supervision=True), 48: SMALL}
LARGEST = 12  # kernels that are listed
LAUNCH_MS = 2e-3  # from one small kernel of a GPU to the next, about
S_K3_STEP_MS = 3 * 3.10  # on an H100, reckoned: docs/performance.md has the forward pass; L k5's step takes 4.7 of them


def generator(patch: int, anatomies: Any) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """The generator of one patch of `patch` voxels, jitted, and its arguments."""
    made = jax.jit(make_generate(GeneratorConfig(), (patch,) * 3))
    return made, (jax.random.key(0), jnp.zeros(1, jnp.int32), anatomies)


def training_step(network: MedNeXtConfig, patch: int) -> tuple[Step, TrainState, dict[str, jax.Array]]:
    """The step of one sample that is there already, its first state, and its batch."""
    return step_of_network(network, best_ops(dtype=network.dtype), patch, 1)


def times(network: MedNeXtConfig, patch: int, anatomies: Any, repeats: int) -> tuple[float, float]:
    """Seconds of a generated patch, over many draws, and of a step."""
    made, (key, rows, arrays) = generator(patch, anatomies)
    jax.block_until_ready(made(key, rows, arrays))
    start = time.perf_counter()
    for seed in range(repeats):
        jax.block_until_ready(made(jax.random.key(seed), rows, arrays))
    patch_seconds = (time.perf_counter() - start) / repeats
    return patch_seconds, seconds_of_a_step(*training_step(network, patch), repeats)


def report_times(network: MedNeXtConfig, patch: int, anatomies: Any, repeats: int) -> None:
    """Print both times and their ratio."""
    made, step = times(network, patch, anatomies, repeats)
    print(f"{patch}^3: patch {1e3 * made:.1f} ms, step {1e3 * step:.1f} ms, ratio {made / step:.1%}", flush=True)


def report_bytes(network: MedNeXtConfig, patch: int, anatomies: Any) -> None:
    """Print what both programs read and write, their ratio, and the generator's largest kernels."""
    volume = 4 * patch**3
    made, arguments = generator(patch, anatomies)
    program = instructions(made.lower(*arguments).compile().as_text())
    step, state, batch = training_step(network, patch)
    training = instructions(step.lower(state, batch).compile().as_text())
    here, there = bytes_moved(program), bytes_moved(training)
    print(
        f"{patch}^3: patch {here / 1e6:.0f} MB = {here / volume:.0f} passes in {launches(program)} kernels, "
        f"step {there / 1e6:.0f} MB = {there / volume:.0f} passes in {launches(training)} kernels, "
        f"ratio {here / there:.1%}",
        flush=True,
    )
    list_largest(program, volume)


def report_h100(patch: int, anatomies: Any) -> None:
    """Print what the generator reads and writes on an H100, what time that reckons to, and its largest kernels."""
    volume = 4 * patch**3
    made = make_generate(GeneratorConfig(), (patch,) * 3)
    here = jax.random.key_data(jax.random.key(0)), jnp.zeros(1, jnp.int32), anatomies
    text = compiled_text(lambda key, *others: made(jax.random.wrap_key_data(key), *others), here, h100())
    program = instructions(text)
    moved, started = bytes_moved(program), launches(program)
    milliseconds = 1e3 * moved / BYTES_PER_SECOND + LAUNCH_MS * started
    print(
        f"H100, {patch}^3: patch {moved / 1e6:.0f} MB = {moved / volume:.0f} passes in {started} kernels, "
        f"about {milliseconds:.2f} ms"
        + (f", {milliseconds / S_K3_STEP_MS:.1%} of S k3's step (about {S_K3_STEP_MS:.1f} ms)" if patch == 128 else ""),
        flush=True,
    )
    list_largest(program, volume)


def list_largest(program: list[Instruction], volume: int) -> None:
    """Print the kernels that move most."""
    largest = sorted(kernels(program), key=lambda one: -one[0].times * one[1])[:LARGEST]
    for kernel, moved in largest:
        passes = kernel.times * moved / volume
        print(f"  {passes:6.1f} passes in {kernel.times} x {kernel.name}: {kernel.operation} {kernel.result[:60]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--patch", type=int, choices=sorted(NETWORKS), action="append", help="default: both")
    parser.add_argument("--anatomy", default="", help="folder of label maps (default: the template)")
    parser.add_argument("--repeats", type=int, default=5, help="of each time (default: 5)")
    parser.add_argument("--count", action="store_true", help="bytes of the compiled programs in place of times")
    parser.add_argument(
        "--h100", action="store_true", help="bytes as compiled for an H100 (needs jax-cuda12-plugin, jax-cuda12-pjrt)"
    )
    options = parser.parse_args()
    if not options.h100:  # what is compiled for a GPU that is not there cannot be read back
        use_compilation_cache()
    arrays = stacked(anatomies_of(GeneratorConfig(anatomy=options.anatomy, held_out=0)))
    anatomies = {name: jnp.asarray(array) for name, array in arrays.items()}
    print(f"{jax.devices()[0].device_kind}, heads of {math.prod(arrays['tissue'].shape[1:]) / 1e6:.1f} Mvoxels")
    for patch in options.patch or sorted(NETWORKS):
        if options.h100:
            report_h100(patch, anatomies)
        elif options.count:
            report_bytes(NETWORKS[patch], patch, anatomies)
        else:
            report_times(NETWORKS[patch], patch, anatomies, options.repeats)


if __name__ == "__main__":
    main()
