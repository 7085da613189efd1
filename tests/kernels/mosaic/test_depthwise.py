"""The depthwise convolutions through the TPU kernels, outputs and gradients, against XLA in float32; Pallas interprets.

In float32, too, except where words of two channels are what is tested: bfloat16's rounding would hide errors.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas as pl

from mednext_jax.kernels.mosaic import depthwise, xla_depthwise
from mednext_jax.kernels.mosaic.instance_norm import ThroughNorm
from mednext_jax.kernels.mosaic.layout import Lines, inside, to_lanes
from mednext_jax.kernels.mosaic.xla_depthwise import Volumes

pytestmark = pytest.mark.core
NORMAL = jax.random.normal
NO_HALO = (False, False, False)


def volumes_of(step: Any, k: int, extents: tuple[int, int, int], halo: Any) -> Volumes:
    """The volumes of an input that is the part `extents` of a volume, with its halo."""
    before, after = xla_depthwise_halo(step, k)
    d, h, w = (n + (before + after) * here for n, here in zip(extents, halo, strict=True))
    scale = {"conv": lambda m: m, "down": lambda m: m // 2, "up": lambda m: 2 * m}[step]
    return Volumes(step, Lines(d, h, w), Lines(*map(scale, extents)), halo)


def xla_depthwise_halo(step: Any, k: int) -> tuple[int, int]:
    from mednext_jax.ops.depthwise import conv_halo, down_halo, up_halo

    return {"conv": conv_halo, "down": down_halo, "up": up_halo}[step](k)


def arguments(k: int, volumes: Volumes, n: int, c: int, dtype: Any) -> tuple[Any, ...]:
    """Input, kernel, bias, what comes back, and the way through the norm; both hold `dtype`'s values."""
    keys = jax.random.split(jax.random.key(k), 9)

    def laid(key: jax.Array, lines: Lines) -> jax.Array:
        return to_lanes(NORMAL(key, (n, lines.d, lines.h, lines.w, c)).astype(dtype))

    kernel = (NORMAL(keys[0], (k, k, k, c)) * k**-1.5).astype(dtype).astype(jnp.float32)
    through = ThroughNorm(*(NORMAL(key, (n, c)) for key in keys[1:4]))
    x, beside = laid(keys[4], volumes.before), laid(keys[5], volumes.before)
    return x, kernel, NORMAL(keys[6], (c,)), laid(keys[7], volumes.after), beside, through


def run(
    form: Any, volumes: Volumes, x: Any, kernel: Any, bias: Any, dt: Any, beside: Any, through: Any
) -> dict[str, Any]:
    u, sums = form.forward(x, kernel, bias, volumes)
    # The gradients' u is another one, since the forward pass has been rounded otherwise.
    if form is depthwise:
        dx, dkernel = form.gradients(x, dt, jnp.flip(dt, 0), through, kernel, volumes, beside)
    else:
        dx, dkernel = form.gradients(x, dt, jnp.flip(dt, 0), through, kernel, volumes)
        dx = dx + beside
    if volumes.step == "up":  # partial sums on the front planes may stay
        u = jnp.where(xla_depthwise.kept(volumes), u, 0)
    return {"u": u, "sums": sums, "dx": dx, "dkernel": dkernel}


def check(
    step: Any,
    k: int,
    extents: tuple[int, int, int],
    n: int,
    c: int,
    dtype: Any = jnp.float32,
    halo: Any = NO_HALO,
    interpret: Any = True,
    monkeypatch: pytest.MonkeyPatch | None = None,
) -> None:
    volumes = volumes_of(step, k, extents, halo)
    given = arguments(k, volumes, n, c, dtype)
    wide = jax.tree.map(lambda a: a.astype(jnp.float32), given)
    expected = jax.jit(functools.partial(run, xla_depthwise, volumes))(*wide)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pl, "pallas_call", functools.partial(pl.pallas_call, interpret=interpret))
        found = jax.jit(functools.partial(run, depthwise, volumes))(*given)
    for name, want in expected.items():
        got = found[name].astype(jnp.float32)
        error = float(jnp.linalg.norm((got - want).ravel()) / jnp.linalg.norm(want.ravel()))
        assert error < (1e-6 if dtype == jnp.float32 else 4e-3), (name, error)
    for name, lines in (("u", volumes.after), ("dx", volumes.before)):
        outside = np.where(inside(lines)[:, None], 0, np.asarray(found[name], np.float32))
        assert not outside.any(), name  # and nothing that is not a number


# Rows that fill their lanes, and such that do not.
@pytest.mark.parametrize("step, extents", [("conv", (3, 5, 10)), ("down", (2, 6, 8)), ("up", (2, 3, 5))])
def test_convolution(step: Any, extents: tuple[int, int, int]) -> None:
    check(step, 3, extents, 2, 2)
