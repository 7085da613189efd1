"""Check, then time MedNeXt on a GPU side by side: PyTorch, plain XLA and the fused kernels.

    python -m tools.bench_gpu --variant L --kernel-size 5 --patch 128 --out bench.json
    python -m tools.bench_gpu --quick

--quick: the figures that a user meets, each beside its goal, in under six minutes on an H100 (`tools.gpu.quick`); with
--dry-run a tiny network on any device, to see that the command works. Otherwise:

Forward (batch 1), training step (batch 2, deep supervision), a whole scan through the sliding window, and every
distinct block with its kernels and floors (by bytes, and by FLOPs). PyTorch runs where it is installed with CUDA; of
the training step it computes a simpler loss and the gradients, without the optimiser. Prints a table, writes JSON.
Times are medians of the host's clock over rounds of queued calls, after a warm-up; in brackets the middle half of the
rounds. Rows "device" are the GPU's own clock: the sum of a block's kernels, and below it each of them.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import functools
import itertools
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mednext_jax.compilation_cache import use_compilation_cache
from mednext_jax.inference.predictor import products_in
from mednext_jax.kernels.best_ops import best_ops
from mednext_jax.kernels.channels_first import ChannelsFirstOps
from mednext_jax.kernels.self_check import draw, with_gradients
from mednext_jax.model.config import MedNeXtConfig
from mednext_jax.model.mednext import MedNeXt
from mednext_jax.ops.local import LocalOps
from mednext_jax.train.configuration import TrainConfig
from mednext_jax.weights.names import to_torch_names
from tools.gpu import quick
from tools.gpu.cases import Case, cases
from tools.gpu.quick import FORWARD, STEP
from tools.gpu.timing import Row, peak, queued, summary
from tools.gpu.trace import kernel_times
from tools.training_step import step_of_patches

PARTS = ("check", "blocks", "network", "scan")
FORMS = ("kernels", "xla", "torch")


def plain(case: Case, ops: LocalOps, x: jax.Array, *rest: Any) -> jax.Array:
    """The block as XLA operations, channels last."""
    if case.kind == "block":
        return ops.block(x, *rest, residual=True)
    return (ops.down_block if case.kind == "down" else ops.up_block)(x, *rest)


def check_blocks(config: MedNeXtConfig, extents: tuple[int, int, int], batch: int) -> Iterator[Row]:
    """Every kind of block at a small shape against XLA, and every block at full size against PyTorch, in float32."""
    yield from quick.check(config)
    try:
        from tools.gpu.torch_block import check
    except ImportError:
        yield Row("blocks at full size against float32", "kernels", note="not checked: PyTorch is not installed")
        return
    for case in cases(config, extents, batch):
        good, errors = check(case)
        yield Row(f"{case.name} against float32", "kernels", note=f"{'ok' if good else 'WRONG'} {errors}")


def bench_blocks(
    config: MedNeXtConfig, extents: tuple[int, int, int], batch: int, forms: Sequence[str]
) -> Iterator[Row]:
    for case in cases(config, extents, batch):
        g, *arguments = draw((case.output, *case.arguments()))
        xla = functools.partial(plain, case, LocalOps())
        for what, kernels, operations, first, passes in (
            ("forward", case.forward, xla, arguments, 1),
            ("forward + backward", case.forward_and_backward, with_gradients(xla), (g, *arguments), 2),
        ):
            last = jax.tree.map(lambda a: jnp.moveaxis(a, 1, -1) if a.ndim == 5 else a, first)
            name = f"{case.name} x{case.count} {what}"
            if "kernels" in forms:
                run = jax.jit(kernels)
                yield Row(name, "kernels", *queued(run, first))
                yield from device_rows(name, run, first, case.floors(passes))
            if "xla" in forms:
                yield Row(name, "xla", *queued(jax.jit(operations), last))


def device_rows(name: str, run: Callable[..., Any], arguments: tuple[Any, ...], note: str = "") -> Iterator[Row]:
    parts = kernel_times(run, arguments)
    total = sum(parts.values())
    yield Row(name, "device", total, note=note)
    for part, took in parts.items():
        if took > 0.002 * total:
            yield Row("    " + part, "device", took)


def training_step(config: MedNeXtConfig, ops: LocalOps, params: Any, x: jax.Array) -> tuple[Callable[..., Any], Any]:
    """The trainer's step (loss of all heads, gradients, AdamW) without augmentation, and its first state."""
    recipe = TrainConfig()
    net = MedNeXt(config, ops)

    def apply(params: Any, x: jax.Array) -> Any:
        return net.apply({"params": params}, x)

    step, state = step_of_patches(recipe, apply, jax.tree.map(jnp.copy, params))
    label = jax.random.bernoulli(jax.random.key(2), 0.1, x.shape[:4]).astype(jnp.int32)
    batch = {"image": x, "label": label, "row": jnp.arange(len(x))}
    return (lambda state: step(state, batch)), state


def check_network(config: MedNeXtConfig) -> Iterator[Row]:
    """The whole network at extents of 32, kernels in bfloat16 against XLA in float32 on the host's CPU."""
    x = jax.random.normal(jax.random.key(0), (1, 32, 32, 32, config.in_channels))
    params = MedNeXt(config).init(jax.random.key(1), x)["params"]
    found = jax.jit(MedNeXt(config, best_ops(dtype=config.dtype)).apply)({"params": params}, x)
    # A GPU's compiler takes minutes for these programs.
    on_host = jax.device_put((params, x), jax.devices("cpu")[0])
    exact, rounded = (
        jax.jit(MedNeXt(dataclasses.replace(config, dtype=dtype), LocalOps("cpu")).apply)(
            {"params": on_host[0]}, on_host[1]
        )
        for dtype in ("float32", "bfloat16")
    )
    # Bfloat16's own error grows through the blocks, so that XLA's is the measure.
    kernels, xla = (float(np.linalg.norm(np.asarray(y) - exact) / np.linalg.norm(exact)) for y in (found, rounded))
    note = f"{'ok' if kernels < 2 * xla else 'WRONG'} logits {kernels:.1e}, XLA's {xla:.1e}"
    yield Row("network at 32^3 against float32", "kernels", note=note)


def bench_network(
    config: MedNeXtConfig, extents: tuple[int, int, int], forms: Sequence[str], kernels_too: bool = True
) -> Iterator[Row]:
    """Forward and training step in each form; with `kernels_too` also the GPU's own clock, kernel by kernel."""
    x = jax.random.normal(jax.random.key(0), (2, *extents, config.in_channels))
    supervised = dataclasses.replace(config, deep_supervision=True)
    params = MedNeXt(supervised).init(jax.random.key(1), jax.ShapeDtypeStruct(x.shape, x.dtype))["params"]
    for form, ops in (("kernels", best_ops(dtype=config.dtype)), ("xla", LocalOps())):
        if form in forms:
            ready = jax.device_put(products_in(config.dtype, params))
            yield from _forward_rows(form, MedNeXt(config, ops), ready, x[:1], kernels_too)
            yield from _step_rows(form, *training_step(supervised, ops, params, x), kernels_too)
    if "torch" in forms:
        yield from bench_torch(supervised, params, x)


def _forward_rows(form: str, net: MedNeXt, params: Any, x: jax.Array, kernels_too: bool) -> Iterator[Row]:
    run = jax.jit(lambda params, x: net.apply({"params": params}, x))
    yield Row(FORWARD, form, *queued(run, (params, x)))
    if form == "kernels" and kernels_too:
        yield from device_rows(FORWARD, run, (params, x))


def _step_rows(form: str, step: Callable[..., Any], state: Any, kernels_too: bool) -> Iterator[Row]:
    same = jax.tree.map(jnp.copy, state)  # a step consumes its state
    ends = [step(state)[0], step(same)[0]]
    differ = jax.tree.map(lambda a, b: jnp.any(a != b), *ends)
    bit_equal = not any(bool(leaf) for leaf in jax.tree.leaves(differ))
    state = ends.pop()
    ends.clear()

    def run() -> Any:
        nonlocal state
        state, metrics = step(state)
        return metrics

    row = Row(STEP, form, *queued(run, ()))
    row.note = f"{peak()}, run twice {'bit-equal' if bit_equal else 'DIFFERENT'}"
    yield row
    if form == "kernels" and kernels_too:
        yield from device_rows(STEP, run, ())


def bench_torch(config: MedNeXtConfig, params: Any, x: jax.Array) -> Iterator[Row]:
    try:
        import torch

        from tools.torch_reference import TorchMedNeXt
    except ImportError:
        return
    if not torch.cuda.is_available():
        return
    reference = TorchMedNeXt(config)
    state = {name: torch.from_numpy(np.array(value)) for name, value in to_torch_names(config, params).items()}
    reference.load_state_dict(state)
    reference.cuda()
    image = torch.from_numpy(np.moveaxis(np.array(x), -1, 1).copy()).cuda()

    def forward() -> None:
        with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
            reference(image[:1])

    def train() -> None:
        reference.zero_grad()
        with torch.autocast("cuda", torch.bfloat16):
            heads = reference(image)
        sum(y.float().square().mean() for y in heads).backward()

    for what, run in ((FORWARD, forward), (STEP, train)):
        torch.cuda.reset_peak_memory_stats()
        summary = queued(run, (), lambda _: torch.cuda.synchronize())
        yield Row(what, "torch", *summary, f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")


def bench_scan(
    config: MedNeXtConfig, extents: tuple[int, int, int], scan: tuple[int, int, int], forms: Sequence[str]
) -> Iterator[Row]:
    """A synthetic scan of `scan` voxels through `Predictor`, host to host, no mirrors."""
    import nibabel

    from mednext_jax.inference.predictor import Predictor, network_of
    from mednext_jax.weights.directory import Model
    from mednext_jax.weights.recipe import Recipe

    params = MedNeXt(config).init(jax.random.key(1), jax.ShapeDtypeStruct((1, *extents, 1), jnp.float32))["params"]
    recipe = Recipe(channel_names=("T2w",), labels={"background": 0, "PVS": 1}, patch_size=extents, spacing=None)
    voxels = np.random.default_rng(0).normal(size=scan).astype(np.float32)
    image = nibabel.Nifti1Image(voxels.T, np.eye(4))  # in a file's order of axes
    for form, kernels in (("kernels", "triton"), ("xla", "xla")):
        if form not in forms:
            continue
        os.environ["MEDNEXT_JAX_KERNELS"] = kernels
        network_of.cache_clear()
        predictor = Predictor(Model(config, params, recipe, {}, None), tta=False)
        seconds = []
        for _ in range(6):  # the first compiles
            start = time.perf_counter()
            predictor(image)
            seconds.append(time.perf_counter() - start)
        yield Row(quick.SCAN, form, *summary([s * 1e3 for s in seconds[1:]]), f"{scan}, {peak()}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="L", choices=list("SBML"))
    parser.add_argument("--kernel-size", type=int, default=5)
    parser.add_argument("--patch", type=int, nargs="+", default=[128], help="extents: one, or d h w")
    parser.add_argument("--batch", type=int, default=2, help="of the blocks that are checked and timed")
    parser.add_argument("--scan", type=int, nargs=3, default=[208, 300, 320])
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS)
    parser.add_argument("--forms", nargs="+", default=FORMS, choices=FORMS)
    parser.add_argument("--quick", action="store_true", help="the figures that a user meets, beside their goals")
    parser.add_argument("--dry-run", action="store_true", help="of --quick: a tiny network, on any device")
    parser.add_argument("--out", type=Path, default=Path("bench_gpu.json"))
    options = parser.parse_args()
    if options.dry_run and not options.quick:
        parser.error("--dry-run goes with --quick")
    if options.quick:  # the commands that it starts need the GPU's memory, too
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        use_compilation_cache()
    if jax.default_backend() != "gpu" and not options.dry_run:
        print("no GPU: nothing to time", file=sys.stderr)
        return 2
    os.environ["MEDNEXT_JAX_KERNELS"] = "triton"
    extents, scan = tuple(options.patch * 3)[:3], tuple(options.scan)
    config = MedNeXtConfig.variant(options.variant, kernel_size=options.kernel_size, dtype="bfloat16")
    if options.dry_run:
        config, extents, scan = quick.TINY.config, quick.TINY.patch, quick.TINY.scan
    if not isinstance(best_ops(dtype="bfloat16"), ChannelsFirstOps):
        print("the fused kernels do not run here; the rows 'kernels' are XLA's", file=sys.stderr)
    parts = {
        "check": lambda: itertools.chain(check_blocks(config, extents, options.batch), check_network(config)),
        "blocks": lambda: bench_blocks(config, extents, options.batch, options.forms),
        "network": lambda: bench_network(config, extents, options.forms),
        "scan": lambda: bench_scan(config, extents, scan, options.forms),
    }
    timed = itertools.chain.from_iterable(parts[part]() for part in options.parts)
    if options.quick:
        last = {
            STEP: lambda: bench_network(config, extents, ("kernels",), kernels_too=False),
            quick.SCAN: lambda: bench_scan(config, extents, scan, ("kernels",)),
        }
        seconds = math.inf if options.dry_run else quick.SECONDS
        timed = quick.quick(quick.Sizes(config, extents, scan), last, seconds)
    rows: list[Row] = []
    for row in timed:
        of_kernels = [r.milliseconds for r in rows if (r.what, r.form) == (row.what, "kernels")]
        if row.form in ("xla", "torch") and of_kernels and row.milliseconds and of_kernels[0]:
            row.note = f"{row.milliseconds / of_kernels[0]:.2f} x the kernels'; {row.note}".rstrip("; ")
        rows.append(row)
        print(row, flush=True)
    about = {
        "date": datetime.date.today().isoformat(),
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "command": sys.argv,
    }
    options.out.write_text(json.dumps({**about, "rows": [dataclasses.asdict(row) for row in rows]}, indent=1))
    return 1 if any(word in row.note for row in rows for word in ("WRONG", "FAILED")) else 0


if __name__ == "__main__":
    sys.exit(main())
