"""The exact GELU, x Phi(x), as PyTorch's default `nn.GELU()`."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import Array, lax


@jax.custom_jvp
def gelu(x: Array) -> Array:
    """x/2 (1 + erf(x / sqrt 2)), elementwise, in x's type.

    The derivative is written out because differentiating `lax.erf` under `shard_map` fails in jax 0.12.
    """
    return x * _cdf(x)


@gelu.defjvp
def _gelu_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (dx,) = primals, tangents
    cdf = _cdf(x)
    density = jnp.exp(-0.5 * x * x) * (1 / math.sqrt(2 * math.pi))
    return x * cdf, (cdf + x * density) * dx


def _cdf(x: Array) -> Array:
    return 0.5 * (1 + lax.erf(x * math.sqrt(0.5)))
