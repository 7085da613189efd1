"""1x1x1 convolutions, channels last: plain, at stride 2, and transposed at stride 2."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax


def precision_for(x: Array) -> lax.Precision | None:
    """The precision of products of operands like `x`: float32 on every device, not TF32 or bfloat16."""
    return lax.Precision.HIGHEST if x.dtype == jnp.float32 else None


def pointwise(x: Array, kernel: Array, bias: Array, *, dtype: jnp.dtype | None = None) -> Array:
    """`x` (..., c), `kernel` (c, e), `bias` (e,) -> (..., e) in `dtype` (x's), accumulated in float32."""
    y = lax.dot_general(
        x,
        kernel.astype(x.dtype),
        (((x.ndim - 1,), (0,)), ((), ())),
        precision=precision_for(x),
        preferred_element_type=jnp.promote_types(x.dtype, jnp.float32),
    )
    return (y + bias).astype(dtype or x.dtype)


def pointwise_down(x: Array, kernel: Array, bias: Array) -> Array:
    """`pointwise` of voxels 0, 2, 4, ..: (n, 2d, 2h, 2w, c) -> (n, d, h, w, e)."""
    return pointwise(x[:, ::2, ::2, ::2], kernel, bias)


def pointwise_up(x: Array, kernel: Array, bias: Array) -> Array:
    """`pointwise` to voxels 1, 3, 5, ..; the others hold the bias alone: (n, d, h, w, c) -> (n, 2d, 2h, 2w, e).

    PyTorch's ConvTranspose3d(1, stride=2) and its plane of padding in front (its zeros are left to the caller's mask).
    """
    y = pointwise(x, kernel, jnp.zeros_like(bias))
    y = lax.pad(y, jnp.zeros((), y.dtype), ((0, 0, 0), (1, 0, 1), (1, 0, 1), (1, 0, 1), (0, 0, 0)))
    return (y + bias).astype(x.dtype)
