"""The depthwise convolutions of the three blocks and their gradients on channels-first arrays, through the kernels.

Forward results come with the partial moments (n, c, programs, 3) of `norms.fold`. Gradients of biases are left out:
the instance norm that follows makes them 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax.numpy as jnp
from jax import Array, ShapeDtypeStruct

from mednext_jax.kernels import bands, depthwise, strided
from mednext_jax.kernels.launch import launch
from mednext_jax.kernels.tile_sizes import depthwise_tiles
from mednext_jax.ops.split import Halo

_SLOTS = 16  # tiles of a program


def conv(x: Array, kernel: Array, bias: Array, halo: Halo) -> tuple[Array, Array]:
    """Convolution at stride 1 of x (n, c, d, h, w), with k // 2 more voxels on both sides along the axes of `halo`."""
    k = kernel.shape[0]
    low = [0 if here else -(k // 2) for here in halo]
    extents = [n - (k - 1) * here for n, here in zip(x.shape[2:], halo, strict=True)]
    return _correlate(x, kernel, bias, None, low, extents)


def conv_input_gradient(du: Array, kernel: Array, residual: Array | None, halo: Halo) -> Array:
    """Gradient of `conv`'s x, plus `residual`, the one (n, c, d, h, w) that reaches its inner voxels another way."""
    k = kernel.shape[0]
    low = [-(k - 1) if here else -(k // 2) for here in halo]
    extents = [n + (k - 1) * here for n, here in zip(du.shape[2:], halo, strict=True)]
    bias = jnp.zeros(kernel.shape[-1])
    return _correlate(du, kernel, bias, residual, low, extents, flip=True)[0]


def _correlate(
    x: Array,
    kernel: Array,
    bias: Array,
    extra: Array | None,
    low: Sequence[int],
    extents: Sequence[int],
    flip: bool = False,
) -> tuple[Array, Array]:
    n, c, *space = x.shape
    tiles = depthwise_tiles("correlate" if extra is None else "correlate_add", kernel.shape[0], extents)
    programs = _programs(extents, tiles)
    y, moments = launch(
        depthwise.correlate_kernel,
        (x, kernel, bias, x if extra is None else extra),
        (ShapeDtypeStruct((n, c, *extents), x.dtype), _floats(n, c, programs, 3)),
        (programs, c, n),
        C=c,
        K=kernel.shape[0],
        **_axes("{}I", space),
        **_axes("{}", extents),
        **_axes("L{}", low),
        BD=tiles["planes"],
        BH=tiles["rows"],
        ADD=int(extra is not None),
        FLIP=int(flip),
        STAGES=tiles["stages"],
    )
    return y, moments


def conv_kernel_gradient(x: Array, du: Array, k: int, halo: Halo) -> Array:
    """Gradient of `conv`'s kernel, (k, k, k, c) float32."""
    unused = jnp.zeros(x.shape[:2])
    return _kernel_gradient(x, du, du, (unused, unused, unused), k, halo, False)[0]


def conv_kernel_gradient_through_norm(
    x: Array, dt: Array, u: Array, affine: tuple[Array, Array, Array], k: int, halo: Halo
) -> tuple[Array, Array]:
    """Gradient of `conv`'s kernel from `dt`, the one at the norm's output: du = affine[0] dt + affine[1] u + affine[2].

    affine: (n, c) each. Returns the kernel's gradient and du (n, c, d, h, w).
    """
    return _kernel_gradient(x, dt, u, affine, k, halo, True)


def _kernel_gradient(
    x: Array, g: Array, u: Array, affine: tuple[Array, Array, Array], k: int, halo: Halo, through_norm: bool
) -> tuple[Array, Array]:
    n, c, *extents = g.shape
    low = [0 if here else -(k // 2) for here in halo]
    tiles = depthwise_tiles("kernel_gradient", k, extents)
    programs = min(tiles["programs"], n * _programs(extents, tiles))
    du, partial = launch(
        depthwise.kernel_gradient_kernel,
        (x, g, u, *affine),
        (ShapeDtypeStruct(g.shape if through_norm else (1,), g.dtype), _floats(programs, c, k, k, 16, 8)),
        (programs, c, -(-k // tiles["taps"])),
        N=n,
        C=c,
        K=k,
        **_axes("{}I", x.shape[2:]),
        **_axes("{}", extents),
        **_axes("L{}", low),
        BD=tiles["planes"],
        BH=tiles["rows"],
        ROWS=tiles["taps"],
        FOLD=int(through_norm),
    )
    return bands.fold(partial, low[2]), du


def down(x: Array, kernel: Array, bias: Array) -> tuple[Array, Array]:
    """Convolution at stride 2: (n, c, 2d, 2h, 2w) -> (n, c, d, h, w)."""
    return _gather("gather", x, kernel, bias, 0)


def down_input_gradient(du: Array, kernel: Array, residual: Array | None) -> Array:
    """Gradient of `down`'s x, plus `residual`, the one (n, c, d, h, w) that reaches its even voxels another way."""
    return _scatter("scatter_back", du, kernel, None, 0, residual)[0]


def down_kernel_gradient(x: Array, du: Array, k: int) -> Array:
    """Gradient of `down`'s kernel, (k, k, k, c) float32."""
    return _strided_gradient(x, du, k, 0)


def up(x: Array, kernel: Array, bias: Array) -> tuple[Array, Array]:
    """Transposed convolution at stride 2: (n, c, d, h, w) -> (n, c, 2d, 2h, 2w).

    The first plane of each axis is padding: 0, and left out of the moments.
    """
    return _scatter("scatter", x, kernel, bias, 1)


def up_input_gradient(du: Array, kernel: Array) -> Array:
    """Gradient of `up`'s x; `du` must be 0 on the front padding."""
    return _gather("gather_back", du, kernel, None, 1)[0]


def up_kernel_gradient(x: Array, du: Array, k: int) -> Array:
    """Gradient of `up`'s kernel, (k, k, k, c) float32; `du` must be 0 on the front padding."""
    return _strided_gradient(du, x, k, 1)


def _gather(name: str, fine: Array, kernel: Array, bias: Array | None, offset: int) -> tuple[Array, Array]:
    n, c, *space = fine.shape
    extents = [extent // 2 for extent in space]
    tiles = depthwise_tiles(name, kernel.shape[0], extents)
    programs = _programs(extents, tiles)
    coarse, moments = launch(
        strided.gather_kernel,
        (fine, kernel, jnp.zeros(c) if bias is None else bias),
        (ShapeDtypeStruct((n, c, *extents), fine.dtype), _floats(n, c, programs, 3)),
        (programs, c, n),
        **_strided_constants(c, kernel.shape[0], extents, offset, tiles),
        FORWARD=int(bias is not None),
    )
    return coarse, moments


def _scatter(
    name: str, coarse: Array, kernel: Array, bias: Array | None, offset: int, extra: Array | None = None
) -> tuple[Array, Array]:
    n, c, *extents = coarse.shape
    tiles = depthwise_tiles(name, kernel.shape[0], extents)
    programs = _programs(extents, tiles)
    space = [2 * extent for extent in extents]
    fine, moments = launch(
        strided.scatter_kernel,
        (coarse, kernel, jnp.zeros(c) if bias is None else bias, kernel if extra is None else extra),
        (ShapeDtypeStruct((n, c, *space), coarse.dtype), _floats(n, c, programs, 3)),
        (programs, c, n),
        **_strided_constants(c, kernel.shape[0], extents, offset, tiles),
        FORWARD=int(bias is not None),
        ADD=int(extra is not None),
    )
    return fine, moments


def _strided_gradient(fine: Array, coarse: Array, k: int, offset: int) -> Array:
    n, c, *extents = coarse.shape
    tiles = depthwise_tiles("strided_gradient", k, extents)
    programs = min(tiles["programs"], n * _programs(extents, tiles))
    (partial,) = launch(
        strided.gather_gradient_kernel,
        (fine, coarse),
        (_floats(programs, c, k, k, bands.FINE_WINDOW, bands.TILE),),
        (programs, c, k),
        N=n,
        **_strided_constants(c, k, extents, offset, tiles),
    )
    return bands.gather_fold(partial, offset)


def _strided_constants(c: int, k: int, extents: Sequence[int], offset: int, tiles: dict[str, int]) -> dict[str, int]:
    sizes = {"BD": tiles["planes"], "BH": tiles["rows"], "STAGES": tiles["stages"]}
    return {"C": c, "K": k, **_axes("{}", extents), "OFFSET": offset, **sizes}


def _programs(extents: Sequence[int], tiles: dict[str, int]) -> int:
    """Programs of 16 slots that one channel of one sample takes."""
    sizes = (tiles["planes"], tiles["rows"], bands.TILE)
    slots = math.prod(-(-extent // size) for extent, size in zip(extents, sizes, strict=True))
    return -(-slots // _SLOTS)


def _axes(name: str, values: Sequence[int]) -> dict[str, int]:
    return {name.format(axis): value for axis, value in zip("DHW", values, strict=True)}


def _floats(*shape: int) -> ShapeDtypeStruct:
    return ShapeDtypeStruct(shape, jnp.float32)
