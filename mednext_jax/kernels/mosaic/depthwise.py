"""The depthwise convolutions of the blocks and their gradients on lines of lanes, through the TPU kernels.

The functions of `xla_depthwise`: the convolution with the norm's sums; the kernel's gradient, which goes through the
norm on its way, then the input's.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jax import Array

from mednext_jax.kernels.mosaic import tap_products
from mednext_jax.kernels.mosaic.instance_norm import ThroughNorm
from mednext_jax.kernels.mosaic.taps import Taps
from mednext_jax.kernels.mosaic.xla_depthwise import Volumes
from mednext_jax.ops.depthwise import up_halo


def forward(x: Array, kernel: Array, bias: Array, volumes: Volumes) -> tuple[Array, Array]:
    """(n, d, groups, c, lanes) -> the convolution's output, and (n, 2, c) sums of output - bias and of its square."""
    return tap_products.correlate(
        *_scattering(taps_of(kernel.shape[0], volumes), kernel), x, bias, front=_front(volumes)
    )


def gradients(
    x: Array,
    dt: Array,
    u: Array,
    through: ThroughNorm,
    kernel: Array,
    volumes: Volumes,
    beside: Array | None = None,
) -> tuple[Array, Array]:
    """The gradients by x (its shape), plus `beside`, and by the kernel (k, k, k, c), float32."""
    taps = taps_of(kernel.shape[0], volumes)
    scattering, _ = _scattering(taps, kernel)
    dkernel, du = tap_products.kernel_gradient(scattering, x, dt, (u, jnp.stack(through, 1)), _front(volumes))
    back, turned = _scattering(dataclasses.replace(taps, scatter=not taps.scatter), kernel)
    dx, _ = tap_products.correlate(back, turned, du, jnp.zeros(kernel.shape[-1]), beside)
    return dx, dkernel if scattering is taps else _turned(dkernel)


def taps_of(k: int, volumes: Volumes) -> Taps:
    """The taps of a convolution, from its input to its output."""
    p, before = k // 2, up_halo(k)[0]
    if volumes.step == "up":
        low = [1 - p - 2 * before * here for here in volumes.halo]
        return Taps(k, 2, (low[0], low[1], low[2]), coarse=volumes.before, fine=volumes.after, scatter=True)
    low = [0 if here else -p for here in volumes.halo]
    stride = 1 if volumes.step == "conv" else 2
    return Taps(k, stride, (low[0], low[1], low[2]), coarse=volumes.after, fine=volumes.before, scatter=False)


def _scattering(taps: Taps, kernel: Array) -> tuple[Taps, Array]:
    """Taps and kernel as they are, but those of stride 1 turned round where they would gather.

    At stride 1 either voxel may be called the coarse one, and the matrices of a scatter need no transposition.
    """
    if taps.scatter or taps.stride > 1:
        return taps, kernel
    low = tuple(1 - taps.k - low for low in taps.low)
    turned = Taps(taps.k, 1, (low[0], low[1], low[2]), coarse=taps.fine, fine=taps.coarse, scatter=True)
    return turned, _turned(kernel)


def _turned(kernel: Array) -> Array:
    return kernel[::-1, ::-1, ::-1]


def _front(volumes: Volumes) -> bool:
    return volumes.step == "up"
