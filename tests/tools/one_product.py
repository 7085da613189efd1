"""A program for `tools.tpu_schedule`: the square of a matrix, three times over."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import SingleDeviceSharding


def lowered(device: Any) -> jax.stages.Lowered:
    x = jax.ShapeDtypeStruct((2048, 2048), jnp.bfloat16, sharding=SingleDeviceSharding(device))
    return jax.jit(lambda x: lax.scan(lambda x, _: (x @ x, None), x, length=3)[0]).lower(x)
