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
from jax.experimental.pallas import tpu as pltpu

from mednext_jax.kernels.mosaic import depthwise, words, xla_depthwise
from mednext_jax.kernels.mosaic.instance_norm import ThroughNorm
from mednext_jax.kernels.mosaic.layout import Lines, inside, to_lanes
from mednext_jax.kernels.mosaic.xla_depthwise import Volumes
from mednext_jax.ops.depthwise import conv_halo, down_halo, up_halo

pytestmark = [pytest.mark.core, pytest.mark.usefixtures("quickly_compiled")]
NORMAL = jax.random.normal
NO_HALO = (False, False, False)


def volumes_of(step: Any, k: int, extents: tuple[int, int, int], halo: Any) -> Volumes:
    """The volumes of an input that is the part `extents` of a volume, with its halo."""
    before, after = {"conv": conv_halo, "down": down_halo, "up": up_halo}[step](k)
    d, h, w = (n + (before + after) * here for n, here in zip(extents, halo, strict=True))
    scale = {"conv": lambda m: m, "down": lambda m: m // 2, "up": lambda m: 2 * m}[step]
    return Volumes(step, Lines(d, h, w), Lines(*map(scale, extents)), halo)


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
) -> None:
    volumes = volumes_of(step, k, extents, halo)
    given = arguments(k, volumes, n, c, dtype)
    wide = jax.tree.map(lambda a: a.astype(jnp.float32), given)
    expected = jax.jit(functools.partial(run, xla_depthwise, volumes))(*wide)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(words, "_UNROLLED", 1)  # the interpreter's time is its compiler's
        patch.setattr(pl, "pallas_call", functools.partial(pl.pallas_call, interpret=interpret))
        found = jax.jit(functools.partial(run, depthwise, volumes))(*given)
    for name, want in expected.items():
        got = found[name].astype(jnp.float32)
        error = float(jnp.linalg.norm((got - want).ravel()) / jnp.linalg.norm(want.ravel()))
        assert error < (1e-6 if dtype == jnp.float32 else 4e-3), (name, error)
    for name, lines in (("u", volumes.after), ("dx", volumes.before)):
        outside = np.where(inside(lines)[:, None], 0, np.asarray(found[name], np.float32))
        assert not outside.any(), name  # and nothing that is not a number


# Rows that do not fill their lanes. Of 96, 128 and 160 voxels they are in `test_convolutions`.
@pytest.mark.parametrize("step, extents, n", [("conv", (2, 3, 10), 3), ("down", (2, 6, 8), 1), ("up", (1, 3, 5), 2)])
def test_convolution(step: Any, extents: tuple[int, int, int], n: int) -> None:
    check(step, 3, extents, n, 1)


@pytest.mark.slow
@pytest.mark.parametrize("k", [3, 5])
@pytest.mark.parametrize(
    "step, extents, n",
    [
        *[
            ("conv", extents, n)
            for n, extents in ((1, (3, 9, 65)), (2, (9, 40, 30)), (3, (5, 16, 8)), (1, (2, 17, 128)))
        ],
        *[("down", extents, n) for n, extents in ((1, (4, 6, 100)), (2, (6, 40, 16)), (3, (2, 8, 34)))],
        *[("up", extents, n) for n, extents in ((1, (2, 3, 50)), (2, (3, 20, 8)), (3, (1, 5, 17)))],
    ],
)
def test_convolutions(step: Any, k: int, extents: tuple[int, int, int], n: int) -> None:
    """More lines of a plane than one product takes, several products of planes, lines of one row and of many."""
    check(step, k, extents, n, 2)


@pytest.mark.slow
@pytest.mark.parametrize("step, extents", [("conv", (3, 3, 40)), ("down", (4, 4, 32)), ("up", (2, 3, 16))])
def test_words_of_two_channels(step: Any, extents: tuple[int, int, int]) -> None:
    check(step, 3, extents, 1, 4, jnp.bfloat16)


@pytest.mark.slow
@pytest.mark.parametrize("halo", [(True, False, False), (False, True, False), (True, True, False)])
@pytest.mark.parametrize("step, extents", [("conv", (4, 6, 20)), ("down", (4, 8, 16)), ("up", (2, 4, 8))])
def test_part_with_its_halo(step: Any, extents: tuple[int, int, int], halo: Any) -> None:
    """Along an axis whose neighbours are there the convolution is 'valid', and gradients reach the halo."""
    check(step, 5, extents, 1, 1, halo=halo)


@pytest.mark.slow
@pytest.mark.parametrize("step, extents", [("conv", (3, 3, 40)), ("down", (2, 4, 16)), ("up", (2, 2, 8))])
def test_memory_as_a_tpu_has_it(step: Any, extents: tuple[int, int, int]) -> None:
    """What nobody wrote is not a number, copies happen when they are waited for, races are found."""
    tpu = pltpu.InterpretParams(detect_races=True, uninitialized_memory="nan")
    check(step, 3, extents, 2, 2, jnp.bfloat16, interpret=tpu)
