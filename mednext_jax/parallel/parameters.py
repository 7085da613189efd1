"""Which part of parameters and optimiser state a device holds: everything, or a share (fully sharded data parallel).

With shares, the compiler gathers the weights for a step and hands each device its part of the summed gradient; what
a device keeps between steps is divided by the devices of the mesh's first axis.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

# Regular expression for a parameter's path -> the axis that is split, None for whole; the first that is found counts.
# Optimiser moments and averages have the path of their parameter at their end. (As big_vision's sharding rules.)
RULES: Sequence[tuple[str, int | None]] = (
    (r"conv1/kernel$", 3),  # depthwise (k, k, k, c): channels
    (r"conv2/kernel$", 1),  # expand (c, r): the larger one
    (r"conv3/kernel$", 0),  # compress (r, c)
    (r"res_conv/kernel$", 1),
    (r"", None),  # a few numbers each: biases, norms, stem, heads, counters
)


def state_like(init: Callable[[], Any], mesh: Mesh, *, shared: bool) -> Any:
    """Shapes and types of the arrays of `init()`, with shardings: by `RULES` over the mesh's first axis if `shared`.

    An axis that the devices do not divide is left whole.
    """
    name, parts = mesh.axis_names[0], mesh.axis_sizes[0]

    def with_sharding(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        text = "/".join(str(getattr(key, "key", getattr(key, "name", key))) for key in path)
        axis = next(axis for pattern, axis in RULES if re.search(pattern, text)) if shared else None
        spec = PartitionSpec()
        if axis is not None and leaf.shape[axis] % parts == 0:
            spec = PartitionSpec(*[None] * axis, name)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec))

    return jax.tree_util.tree_map_with_path(with_sharding, jax.eval_shape(init))


def shardings_of(tree: Any) -> Any:
    """The shardings of the leaves of `tree`."""
    return jax.tree.map(lambda leaf: leaf.sharding, tree)
