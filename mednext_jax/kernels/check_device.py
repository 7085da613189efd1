"""The table of `mednext-jax check-device`: every kind of block beside XLA's float32, to be pasted into an issue."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator

import jax

from mednext_jax.errors import WorkError, shown
from mednext_jax.kernels.best_ops import SWITCH, refusal, xla_ops
from mednext_jax.kernels.self_check import GRADIENT_LIMIT, OUTPUT_LIMIT
from mednext_jax.ops.block_kind import BlockKind


def check_device(kinds: Iterable[BlockKind]) -> Iterator[str]:
    """Check every kind on JAX's first device, whatever was found before, and keep the verdicts; yields lines of text.

    The lines are Markdown. Where no kernel runs, they say why, and how XLA computes the blocks.
    Raises WorkError at the end if a kind of block runs as XLA operations because its kernels are wrong here.
    """
    from mednext_jax.kernels import verdicts

    device = jax.local_devices()[0]
    about = verdicts.about(device)
    yield ", ".join(f"{name} {shown(value)}" for name, value in about.items() if value)
    if SWITCH in os.environ:
        yield f"{SWITCH}={shown(os.environ[SWITCH])} is set: it overrides what is found here"
    reason = refusal(device)
    if reason:
        yield f"no fused {'TPU' if device.platform == 'tpu' else 'GPU'} kernels: {reason}"
        yield f"every block runs as {xla_ops(device).described}"
        return
    yield f"relative L2 from float32; at most {OUTPUT_LIMIT:.0e} for outputs, {GRADIENT_LIMIT:.0e} for gradients"
    yield ""
    yield "| block | output | gradients | |"
    yield "| --- | --- | --- | --- |"
    wrong = number = 0
    start = time.perf_counter()
    for kind in kinds:
        verdict = verdicts.check(kind, True, device)
        number, wrong = number + 1, wrong + (verdict.fault is not None)
        name, error = verdict.worst_gradient
        numbers = f"{verdict.output:.1e} | {error:.1e} {name}" if verdict.failure is None else " | "
        yield f"| {kind} | {numbers} | {'ok' if verdict.fault is None else f'runs as XLA: {verdict.fault}'} |"
    yield ""
    yield f"{number} kinds of blocks in {time.perf_counter() - start:.0f} s"
    if wrong:
        raise WorkError(
            f"{wrong} of {number} kinds of blocks run as XLA operations on this {shown(device.device_kind)}."
        )
