"""Kinds of blocks through the TPU kernels in bfloat16, as a chip has to prove them, in Pallas's interpreters."""

from __future__ import annotations

import functools

import jax
import pytest
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from mednext_jax.kernels import self_check
from mednext_jax.kernels.self_check import measure
from mednext_jax.model.config import published_kinds
from mednext_jax.ops.block_kind import BlockKind

pytestmark = [pytest.mark.slow, pytest.mark.core, pytest.mark.usefixtures("quickly_compiled")]


@pytest.mark.parametrize("kind", published_kinds(), ids=str)
def test_a_published_kind_proves_itself(kind: BlockKind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pl, "pallas_call", functools.partial(pl.pallas_call, interpret=True))
    verdict = measure(kind, True, "tpu")
    assert verdict.fault is None, verdict
    assert verdict.output > 0 and len(verdict.gradients) >= 8


# Rows that fill a line by themselves, four side by side, and such that leave lanes empty.
@pytest.mark.parametrize("extents", [(2, 3, 128), (2, 8, 32), (2, 9, 12)], ids=str)
@pytest.mark.parametrize("block", ["block", "down", "up"])
def test_memory_as_a_tpu_has_it(block: str, extents: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody wrote is not a number, copies come when they are waited for, and two that meet are found."""
    from jax._src.pallas.mosaic.interpret import interpret_pallas_call

    coarse = extents[0] // 2, extents[1] // 2, extents[2] // 2
    monkeypatch.setattr(self_check, "EXTENTS", {block: extents if block == "block" else coarse})
    kind = BlockKind(block, 16, 32, 16 if block == "block" else 32, 3)
    jax.clear_caches()
    with pltpu.force_tpu_interpret_mode(pltpu.InterpretParams(detect_races=True)):
        verdict = measure(kind, True, "tpu")
    assert verdict.fault is None, verdict
    assert interpret_pallas_call.races is not None and not interpret_pallas_call.races.races_found
