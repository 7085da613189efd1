"""Check, then time MedNeXt on a GPU side by side: PyTorch, plain XLA and the fused kernels.

    python -m tools.bench_gpu --variant L --kernel-size 5 --patch 128 --out bench.json

Forward (batch 1), training step (batch 2, deep supervision), a whole scan through the sliding window, and every
distinct block with its memory floor. PyTorch runs where it is installed with CUDA. Prints a table, writes JSON.
Times are medians of the host's clock over `--repeats` rounds of 10 queued calls, after a warm-up; in brackets the
middle half of the rounds. The scan is one call.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mednext_jax.model.config import MedNeXtConfig
from mednext_jax.model.mednext import MedNeXt
from mednext_jax.model.names import to_torch_names
from mednext_jax.ops import blocks as composed
from mednext_jax.ops.local import LocalOps
from mednext_jax.ops.triton import best_ops
from mednext_jax.ops.triton.channels_first import ChannelsFirstOps
from tools.gpu_cases import Case, cases, draw, with_gradients

BYTES_PER_SECOND = 3.0e12  # what an H100's memory sustains
FORMS = {"kernels": "triton", "xla": "xla"}  # what MEDNEXT_JAX_KERNELS says for each
OUTPUT_TOLERANCE, GRADIENT_TOLERANCE = 5e-3, 1e-2  # relative L2 of bfloat16 against float32


@dataclasses.dataclass
class Row:
    what: str
    form: str
    milliseconds: float
    spread: tuple[float, float]
    note: str = ""


def timed(function: Callable[..., Any], arguments: tuple[Any, ...], repeats: int) -> tuple[float, tuple[float, float]]:
    """Median and middle half in ms of a jitted function: calls queue up, so that gaps of the host do not count."""
    run = jax.jit(function)
    jax.block_until_ready(run(*arguments))
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        for _ in range(_CALLS):
            result = run(*arguments)
        jax.block_until_ready(result)
        times.append((time.perf_counter() - start) * 1e3 / _CALLS)
    return _summary(times)


_CALLS = 10


def _summary(times: list[float]) -> tuple[float, tuple[float, float]]:
    low, middle, high = statistics.quantiles(times, n=4)
    return middle, (low, high)


def relative(found: Any, expected: Any) -> float:
    """The largest relative L2 distance over the leaves; leaves that are 0 but for rounding do not count."""
    worst = 0.0
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        size = np.linalg.norm(b)
        if np.any(a) and size > 1e-6 * b.size**0.5:
            worst = max(worst, float(np.linalg.norm(a - b) / size))
    return worst


def plain(case: Case, x: jax.Array, *weights: Any) -> jax.Array:
    """The block as XLA operations, channels last."""
    function = {"block": composed.block, "down": composed.down_block, "up": composed.up_block}[case.kind]
    options = {"residual": True} if case.kind == "block" else {}
    return function(LocalOps(), x, *weights, norm="group", **options)


def check_block(case: Case) -> str:
    """The fused block in bfloat16 against XLA's in float32, at extents of at most 32."""
    small = dataclasses.replace(case, extents=tuple(min(n, 32) for n in case.extents))
    x, *weights = draw(small.arguments())
    found, found_gradients = jax.jit(small.forward_and_backward)(x, *weights)

    def reference(x: jax.Array, *weights: Any) -> jax.Array:
        return jnp.moveaxis(plain(case, jnp.moveaxis(x.astype(jnp.float32), 1, -1), *weights), -1, 1)

    with jax.default_matmul_precision("highest"):
        expected, pull = jax.jit(lambda *a: jax.vjp(reference, *a))(x, *weights)
        gradients = pull(found.astype(jnp.float32))
    output, gradient = relative(found, expected), relative(found_gradients, gradients)
    good = output < OUTPUT_TOLERANCE and gradient < GRADIENT_TOLERANCE
    return f"{'ok' if good else 'WRONG'} output {output:.1e} gradients {gradient:.1e}"


def bench_blocks(config: MedNeXtConfig, extents: tuple[int, int, int], repeats: int) -> list[Row]:
    rows = []
    for case in cases(config, extents, batch=2):
        note = check_block(case)
        x, *weights = draw(case.arguments())
        floors = [nbytes / BYTES_PER_SECOND * 1e3 for nbytes in case.floor_bytes]
        for what, function, floor in (
            ("forward", case.forward, floors[0]),
            ("forward + backward", case.forward_and_backward, sum(floors)),
        ):
            name = f"{case.name} x{case.count} {what}"
            rows.append(Row(name, "kernels", *timed(function, (x, *weights), repeats), f"floor {floor:.3f} ms; {note}"))
        last = jnp.moveaxis(x, 1, -1)

        def run(x: jax.Array, *weights: Any, case: Case = case) -> jax.Array:
            return plain(case, x, *weights)

        rows.append(Row(f"{case.name} x{case.count} forward", "xla", *timed(run, (last, *weights), repeats)))
        both = with_gradients(run)
        rows.append(
            Row(f"{case.name} x{case.count} forward + backward", "xla", *timed(both, (last, *weights), repeats))
        )
    return rows


def network_steps(config: MedNeXtConfig, ops: LocalOps) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """forward(params, x), and train(params, x): a mean-square loss over all heads, its gradients, and an SGD step."""
    heads = MedNeXt(dataclasses.replace(config, deep_supervision=True), ops)
    single = MedNeXt(dataclasses.replace(config, deep_supervision=False), ops)

    def forward(params: Any, x: jax.Array) -> jax.Array:
        return single.apply({"params": params}, x)

    def train(params: Any, x: jax.Array) -> Any:
        def loss(params: Any) -> jax.Array:
            return sum(jnp.square(y).mean() for y in heads.apply({"params": params}, x))

        value, gradients = jax.value_and_grad(loss)(params)
        return value, jax.tree.map(lambda p, g: p - 1e-6 * g, params, gradients)

    return forward, train


def check_network(config: MedNeXtConfig) -> Row:
    """The whole network's first head, kernels and XLA in bfloat16, each against XLA in float32, at extents of 32."""
    x = jax.random.normal(jax.random.key(0), (1, 32, 32, 32, config.in_channels))
    params = MedNeXt(config).init(jax.random.key(1), x)["params"]
    exact = dataclasses.replace(config, dtype="float32")
    with jax.default_matmul_precision("highest"):
        expected = jax.jit(MedNeXt(exact).apply)({"params": params}, x)
    far = {
        form: relative(jax.jit(MedNeXt(config, ops).apply)({"params": params}, x), expected)
        for form, ops in (("kernels", best_ops(dtype=config.dtype)), ("xla", LocalOps()))
    }
    # Bfloat16's own error grows through the blocks, so that XLA's is the measure.
    good = far["kernels"] < 2 * far["xla"]
    note = f"{'ok' if good else 'WRONG'} logits {far['kernels']:.1e}, XLA's {far['xla']:.1e}"
    return Row("network at 32^3 against float32", "kernels", 0.0, (0.0, 0.0), note)


def bench_network(config: MedNeXtConfig, extents: tuple[int, int, int], repeats: int) -> list[Row]:
    rows = [check_network(config)]
    x = jax.random.normal(jax.random.key(0), (2, *extents, config.in_channels))
    supervised = dataclasses.replace(config, deep_supervision=True)
    params = MedNeXt(supervised).init(jax.random.key(1), jax.ShapeDtypeStruct(x.shape, x.dtype))["params"]
    for form, ops in (("kernels", best_ops(dtype=config.dtype)), ("xla", LocalOps())):
        forward, train = network_steps(config, ops)
        rows.append(Row("network forward, batch 1", form, *timed(forward, (params, x[:1]), repeats)))
        rows.append(Row("network training step, batch 2", form, *timed(train, (params, x), repeats)))
    return rows + bench_torch(supervised, params, x, repeats)


def bench_torch(config: MedNeXtConfig, params: Any, x: jax.Array, repeats: int) -> list[Row]:
    try:
        import torch

        from tools.torch_reference import TorchMedNeXt
    except ImportError:
        return []
    if not torch.cuda.is_available():
        return []
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

    rows = []
    for what, run in (("network forward, batch 1", forward), ("network training step, batch 2", train)):
        times = []
        for i in range(repeats + 2):
            start = time.perf_counter()
            for _ in range(_CALLS):
                run()
            torch.cuda.synchronize()
            if i >= 2:
                times.append((time.perf_counter() - start) * 1e3 / _CALLS)
        rows.append(Row(what, "torch", *_summary(times)))
    return rows


def bench_scan(config: MedNeXtConfig, extents: tuple[int, int, int], scan: tuple[int, int, int]) -> list[Row]:
    """A synthetic scan of `scan` voxels through `Predictor`, host to host, no mirrors, the second of two calls."""
    import nibabel

    from mednext_jax.inference.predictor import Predictor, network_of
    from mednext_jax.model.directory import Model
    from mednext_jax.model.recipe import Recipe

    params = MedNeXt(config).init(jax.random.key(1), jax.ShapeDtypeStruct((1, *extents, 1), jnp.float32))["params"]
    recipe = Recipe(channel_names=("T2w",), labels={"background": 0, "PVS": 1}, patch_size=extents, spacing=None)
    image = nibabel.Nifti1Image(np.random.default_rng(0).normal(size=scan[::-1]).astype(np.float32), np.eye(4))
    rows = []
    for form, kernels in FORMS.items():
        os.environ["MEDNEXT_JAX_KERNELS"] = kernels
        network_of.cache_clear()
        predictor = Predictor(Model(config, params, recipe, {}, None), tta=False)
        predictor(image)
        start = time.perf_counter()
        predictor(image)
        rows.append(Row(f"scan {scan}, host to host", form, (time.perf_counter() - start) * 1e3, (0.0, 0.0)))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="L", choices=list("SBML"))
    parser.add_argument("--kernel-size", type=int, default=5)
    parser.add_argument("--patch", type=int, nargs="+", default=[128], help="extents: one, or d h w")
    parser.add_argument("--scan", type=int, nargs=3, default=[208, 300, 320])
    parser.add_argument("--parts", nargs="+", default=["blocks", "network", "scan"])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("bench_gpu.json"))
    options = parser.parse_args()
    if jax.default_backend() != "gpu":
        print("no GPU: nothing to time", file=sys.stderr)
        return 2
    os.environ["MEDNEXT_JAX_KERNELS"] = FORMS["kernels"]
    extents = tuple(options.patch * 3)[:3]
    config = MedNeXtConfig.variant(options.variant, kernel_size=options.kernel_size, dtype="bfloat16")
    if not isinstance(best_ops(dtype="bfloat16"), ChannelsFirstOps):
        print("the fused kernels do not run here; the rows 'kernels' are XLA's", file=sys.stderr)
    rows: list[Row] = []
    for part in options.parts:
        if part == "blocks":
            rows += bench_blocks(config, extents, options.repeats)
        elif part == "network":
            rows += bench_network(config, extents, options.repeats)
        else:
            rows += bench_scan(config, extents, tuple(options.scan))
    width = max(len(row.what) for row in rows)
    for row in rows:
        low, high = row.spread
        print(f"{row.what:{width}s}  {row.form:8s} {row.milliseconds:9.3f} ms  [{low:.3f}, {high:.3f}]  {row.note}")
    about = {
        "date": datetime.date.today().isoformat(),
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "command": sys.argv,
    }
    options.out.write_text(json.dumps({**about, "rows": [dataclasses.asdict(row) for row in rows]}, indent=1))
    return 1 if any("WRONG" in row.note for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
