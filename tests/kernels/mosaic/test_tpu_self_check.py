"""The check that the TPU kernels must pass on a machine: right ones pass, and each fault put into one is found."""

from __future__ import annotations

import functools
import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import pallas as pl

from mednext_jax.kernels import self_check
from mednext_jax.kernels.mosaic import lane_blocks, lane_ops
from mednext_jax.kernels.self_check import measure
from mednext_jax.ops.block_kind import BlockKind

pytestmark = [pytest.mark.core, pytest.mark.usefixtures("quickly_compiled")]

BLOCK, UP = BlockKind("block", 2, 4, 2, 3), BlockKind("up", 2, 4, 4, 3)
FLOAT32 = 3e-4  # the kernels' GELU is a fit

Break = Callable[[str, str], None]


@pytest.fixture(autouse=True)
def interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pallas's interpreter, in float32, for so few channels and rows that leave lanes empty."""
    monkeypatch.setattr(lane_ops, "COMPUTE_TYPE", jnp.float32)
    monkeypatch.setattr(lane_ops, "_SUBLANES", 1)
    monkeypatch.setattr(pl, "pallas_call", functools.partial(pl.pallas_call, interpret=True))
    monkeypatch.setattr(self_check, "EXTENTS", {"block": (3, 3, 12), "down": (3, 1, 12), "up": (3, 1, 12)})


@pytest.fixture
def break_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Break]:
    """(right, wrong): run with that piece of the MLP's kernels changed."""

    def change(right: str, wrong: str) -> None:
        source = Path(sys.modules["mednext_jax.kernels.mosaic.mlp"].__file__ or "").read_text()
        assert right in source
        path = tmp_path / "broken_mlp.py"
        path.write_text(source.replace(right, wrong))
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None and spec.loader is not None
        module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        monkeypatch.setattr(lane_blocks, "mlp", module)

    jax.clear_caches()
    yield change
    jax.clear_caches()
    sys.modules.pop("broken_mlp", None)


@pytest.mark.slow
def test_right_kernels_pass_and_every_gradient_is_named() -> None:
    verdict = measure(UP, platform="tpu", dtype=jnp.float32)
    assert verdict.fault is None
    assert verdict.output < FLOAT32 and verdict.worst_gradient[1] < FLOAT32
    assert list(verdict.gradients) == [
        *("input", "depthwise kernel", "norm scale", "norm bias"),
        *("expansion", "expansion bias", "compression", "compression bias"),
        *("residual's kernel", "residual's bias", "skip connection"),
    ]


class Fault(NamedTuple):
    kind: BlockKind
    right: str
    wrong: str
    found: str  # words of what the check says


FAULTS = {
    "memory that nobody wrote": Fault(
        BLOCK, "y_ref[0, line] = ", "y_ref[0, jnp.maximum(line, 1)] = ", "output is off by nan"
    ),
    "a neighbour's line": Fault(BLOCK, "extra[0][0, line]", "extra[0][0, at[i - 1]]", "output"),
    "padding that counts": Fault(UP, "if lines.is_full and not front:", "if True:", "output"),
    "sums that begin anew": Fault(
        BLOCK, "@pl.when((pl.program_id(0) == 0) & (pl.program_id(1) == 0))", "@pl.when(True)", "gradient of the"
    ),
    "a sum that begins with what was there": Fault(
        BLOCK, "through_norm_ref[...] = jnp.zeros_like(through_norm_ref)", "pass", "gradient of the"
    ),
    "half a derivative": Fault(BLOCK, "1 + t + z * (", "1 + t + 0.5 * z * (", "gradient of the"),
}


QUICK = ("memory that nobody wrote",)


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in FAULTS]
)
def test_a_fault_in_a_kernel_is_found_and_named(name: str, break_it: Break) -> None:
    fault = FAULTS[name]
    break_it(fault.right, fault.wrong)
    found = measure(fault.kind, "output" not in fault.found, "tpu", jnp.float32).fault
    assert found is not None and fault.found in found, found
