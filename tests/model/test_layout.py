"""Nothing between two operations turns a large array round: no time goes into another order of axes."""

from __future__ import annotations

import math
import re

import jax
import jax.numpy as jnp
import pytest

from mednext_jax import MedNeXt, MedNeXtConfig

pytestmark = pytest.mark.core

CONFIG = MedNeXtConfig(base_channels=8, block_counts=(1,) * 9)
EXTENT = 32
# Half of the smallest activation that costs anything, of the second level.
LARGE = (EXTENT // 2) ** 3 * CONFIG.base_channels


def large_transposes(compiled: str) -> list[str]:
    """Shapes of the transposed arrays of at least LARGE elements in compiled HLO, as "1,32,32,32,8"."""
    shapes = re.findall(r"= \w+\[([\d,]+)\]\S* transpose\(", compiled)
    return [shape for shape in shapes if math.prod(map(int, shape.split(","))) >= LARGE]


def test_the_compiled_forward_transposes_nothing_but_the_phases_of_up_blocks():
    net = MedNeXt(CONFIG)
    x = jax.ShapeDtypeStruct((1, EXTENT, EXTENT, EXTENT, 1), jnp.float32)
    params = jax.eval_shape(net.init, jax.random.key(0), x)
    shapes = large_transposes(jax.jit(net.apply).lower(params, x).compile().as_text())
    # An up block's eight phases are woven into one volume: (n, d, 2, h, 2, w, 2, c), memory that is written anyway.
    assert shapes
    assert all(re.fullmatch(r"1,(\d+),2,\1,2,\1,2,\d+", shape) for shape in shapes)


def test_a_transposition_would_be_found():
    x = jax.ShapeDtypeStruct((1, EXTENT, EXTENT, EXTENT, 8), jnp.float32)
    turn = jax.jit(lambda x: jnp.moveaxis(jnp.sin(x), -1, 1) @ jnp.ones((EXTENT, EXTENT)))
    assert large_transposes(turn.lower(x).compile().as_text())
