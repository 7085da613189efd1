"""The check that the kernels must pass on a machine: right ones pass, and each fault that is put into one is found."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import pytest

pytest.importorskip("triton")

from mednext_jax.kernels import convolve, fused_blocks, norm_mlp, self_check
from mednext_jax.kernels.channels_first import ChannelsFirstOps
from mednext_jax.kernels.self_check import distance, draw, measure, shapes
from mednext_jax.kernels.tuned_tiles import TILES
from mednext_jax.ops.block_kind import BlockKind
from mednext_jax.ops.local import LocalOps
from tests.kernels.another_process import run_python

pytestmark = pytest.mark.usefixtures("interpreter", "tiles", "quickly_compiled")

BLOCK = BlockKind("block", 2, 4, 2, 3)
DOWN, UP = BlockKind("down", 2, 4, 4, 3), BlockKind("up", 2, 4, 4, 3)
FLOAT32 = 3e-4  # the kernels' GELU is a fit

Break = Callable[[str, str, str], None]


@pytest.fixture
def tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles for the fused MLP at these few channels: two chunks of the hidden layer, and voxels that leave a tail."""
    sizes = {"voxels": 32, "hidden": 2, "warps": 4, "stages": 1}
    for e in (2, 4):
        monkeypatch.setitem(TILES, ("mlp", 2, e), sizes)
        monkeypatch.setitem(TILES, ("mlp_input", 2, e), sizes)
        monkeypatch.setitem(TILES, ("mlp_weights", 2, e), {**sizes, "programs": 2})
    # Small grids, which leave every kind of tail: an interpreted program takes milliseconds.
    monkeypatch.setattr(self_check, "EXTENTS", {"block": (3, 3, 12), "down": (3, 1, 12), "up": (3, 1, 12)})


@pytest.fixture
def break_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Break]:
    """(file, right, wrong): run with that line of a kernel's file changed."""
    users = {"depthwise": convolve, "strided": convolve, "mlp": norm_mlp}
    names = []

    def change(file: str, right: str, wrong: str) -> None:
        source = Path(sys.modules[f"mednext_jax.kernels.{file}"].__file__ or "").read_text()
        assert right in source
        path = tmp_path / f"broken_{file}.py"
        path.write_text(source.replace(right, wrong))
        module = load(path)
        if file == "mlp":
            from tests.kernels.interpreter import tanh

            monkeypatch.setattr(module, "tanh", tanh)
        monkeypatch.setattr(users[file], file, module)

    def load(path: Path) -> ModuleType:
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None and spec.loader is not None
        module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
        names.append(path.stem)
        spec.loader.exec_module(module)
        return module

    jax.clear_caches()
    yield change
    jax.clear_caches()
    for name in names:
        sys.modules.pop(name, None)


@pytest.mark.parametrize("kind", [BLOCK, DOWN, UP], ids=str)
def test_right_kernels_pass_and_every_gradient_is_named(kind: BlockKind) -> None:
    verdict = measure(kind, dtype=jnp.float32)
    assert verdict.fault is None
    assert verdict.output < FLOAT32 and verdict.worst_gradient[1] < FLOAT32
    beside = [] if kind == BLOCK else ["residual's kernel", "residual's bias"]
    assert list(verdict.gradients) == [
        *("input", "depthwise kernel", "norm scale", "norm bias"),
        *("expansion", "expansion bias", "compression", "compression bias"),
        *(beside + ["skip connection"] if kind == UP else beside),
    ]


def test_without_residual_and_without_gradients() -> None:
    plain = BlockKind("block", 2, 4, 2, 3, residual=False)
    verdict = measure(plain, gradients=False, dtype=jnp.float32)
    assert verdict.fault is None and 0 < verdict.output < FLOAT32 and verdict.gradients == {}
    assert measure(BlockKind("up", 2, 4, 4, 3, residual=False), dtype=jnp.float32).fault is None


class Fault(NamedTuple):
    kind: BlockKind
    file: str
    right: str
    wrong: str
    found: str  # words of what the check says


# What a missing barrier or an early read leaves is stale: the chunk, the plane, the row of the step before.
FAULTS = {
    "a wrong tap": Fault(BLOCK, "depthwise", "at = row * K + tap", "at = row * K + K - 1 - tap", "output"),
    "a swapped channel": Fault(
        BLOCK,
        "depthwise",
        "beside = extra + (n * C + c)",
        "window = x + (n * C + (c ^ 1)) * (DI * HI * WI) + wi\n    beside = extra + (n * C + c)",
        "output",
    ),
    "a swapped channel of the weights": Fault(BLOCK, "mlp", "tl.load(b2 + co)", "tl.load(b2 + (co ^ 1))", "output"),
    "a stale chunk of weights": Fault(
        BLOCK,
        "mlp",
        "z = tl.dot(t, tl.load(w1 + ci[:, None] * R + k[None, :]))",
        "z = tl.dot(t, tl.load(w1 + ci[:, None] * R + (k % BK)[None, :]))",
        "output",
    ),
    "stale planes": Fault(
        BLOCK, "depthwise", "kept = kept + (held[k + BH],)", "kept = kept + (held[k],)", "of the depthwise kernel"
    ),
    "stale planes of a strided gradient": Fault(
        DOWN, "strided", "kept = kept + (held[k + BH],)", "kept = kept + (held[k],)", "of the depthwise kernel"
    ),
    "a stale row of a transposed convolution": Fault(
        UP, "strided", "h = h0 + j - AHEAD", "h = h0 + tl.maximum(j - 1, 0) - AHEAD", "output"
    ),
    "a residual of odd voxels": Fault(
        DOWN, "mlp", "(d * 2 * H + h) * 2 * W + w)", "(d * 2 * H + h + 1) * 2 * W + w)", "output"
    ),
    "a swapped channel of the residual": Fault(
        DOWN, "mlp", "k[None, :] * (8 * V)", "(k ^ 1)[None, :] * (8 * V)", "output"
    ),
    "a residual's gradient on odd voxels": Fault(
        DOWN, "strided", "(i[None, :] % 2 == 0)", "(i[None, :] % 2 == 1)", "of the input"
    ),
    "a tail that counts": Fault(BLOCK, "depthwise", "apart = tl.where(ok, apart, 0.0)", "apart = apart", "output"),
    "memory that nobody wrote": Fault(
        UP,
        "mlp",
        "    store_voxels(out + at, acc, v, V, BV)",
        "    if tl.program_id(0) > 0:\n        store_voxels(out + at, acc, v, V, BV)",
        "output is off by nan",
    ),
    "a gradient of half the voxels": Fault(
        BLOCK,
        "mlp",
        "for tile in range(program, (V + BV - 1) // BV, tl.num_programs(1)):",
        "for tile in range(program, (V + BV - 1) // BV, 2 * tl.num_programs(1)):",
        "gradient of the",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_in_a_kernel_is_found_and_named(name: str, break_it: Break) -> None:
    fault = FAULTS[name]
    break_it(fault.file, fault.right, fault.wrong)
    found = measure(fault.kind, gradients="output" not in fault.found, dtype=jnp.float32).fault
    assert found is not None and fault.found in found, found


def test_a_kind_that_failed_runs_as_xla_operations_and_the_others_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    used = []
    for name in ("block", "down_block"):
        kernels = getattr(fused_blocks, name)
        monkeypatch.setattr(fused_blocks, name, lambda *a, n=name, k=kernels: used.append(n) or k(*a))
    ops = ChannelsFirstOps(refused=frozenset({BLOCK}))
    for kind in (BLOCK, DOWN):
        _, x, conv1, weights, *rest = draw(shapes(kind, jnp.float32))
        last = jnp.moveaxis(x, 1, -1)
        if kind == BLOCK:
            y, expected = (o.block(o.enter(last), conv1, weights, residual=True) for o in (ops, LocalOps()))
        else:
            y, expected = (o.down_block(o.enter(last), conv1, weights, *rest) for o in (ops, LocalOps()))
        assert distance(ops.leave(y), expected) < FLOAT32
    assert used == ["down_block"]


# A kernel's PTX, with the instruction gone that makes the others see what one warp wrote, or that waits for a copy.
MISSING = """
import functools, re, sys
from types import SimpleNamespace
from mednext_jax.kernels import launch, verdicts
from mednext_jax.ops.block_kind import BlockKind
from tools.gpu import ptx_check
from tools.gpu.kernel_report import use_tiles_of

use_tiles_of(90)
launch._jax_triton = lambda: SimpleNamespace(triton_call=functools.partial(ptx_check.triton_call, capability=90))
run = ptx_check.ptx.run
def changed(text, *rest):
    broken = re.sub(sys.argv[1], sys.argv[2], text)
    print("changed", broken != text)
    run(broken, *rest)
ptx_check.ptx.run = changed
gpu = SimpleNamespace(device_kind="NVIDIA H100", compute_capability="9.0", platform="gpu")
print("fault:", verdicts.check(BlockKind("block", 32, 64, 32, 3), False, gpu).fault)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "right, wrong, said",
    [
        ("nothing", "", "fault: None"),
        (r"\tbar\.sync[^\n]*\n", "", "no barrier between"),
        (r"cp\.async\.wait_group\s+\S+;", "", "nan"),
    ],
    ids=["nothing", "barriers", "waits"],
)
def test_what_a_missing_instruction_leaves_is_found_in_the_compiled_kernel(
    right: str, wrong: str, said: str, tmp_path: Path
) -> None:
    done = run_python("-c", MISSING, right, wrong, JAX_COMPILATION_CACHE_DIR=str(tmp_path))
    assert done.returncode == 0, done.stderr[-3000:]
    assert said in done.stdout + done.stderr, done.stdout
    assert ("fault: None" in done.stdout) == (right == "nothing")
    assert ("changed True" in done.stdout) == (right != "nothing")
