"""A head of the label maps, turned, scaled and bent on the device, on the voxels of a patch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mednext_jax.data.transforms import affine_matrix
from mednext_jax.simulate import anatomy as places
from mednext_jax.simulate import tissues
from mednext_jax.simulate.flat_index import flat_index
from mednext_jax.simulate.generator_config import GeneratorConfig
from mednext_jax.simulate.random_fields import Draws, splined, splined_at

_ELASTIC_MM = 16
Anatomies = Mapping[str, jax.Array]  # the arrays of `anatomy.stacked`


class Head(NamedTuple):
    """The deformed head of a patch. tissue (d, h, w): the nearest one."""

    tissue: jax.Array
    from_edge: jax.Array  # mm, > 0 in the brain
    anatomy: jax.Array  # its index
    map: jax.Array  # its tissues
    at: tuple[jax.Array, ...]  # place of each voxel (d, h, w) in the map, by axis
    back: jax.Array  # anatomy -> patch
    centre: jax.Array  # of the patch, in the anatomy
    elastic: jax.Array  # nodes of the displacement (..., 3)

    def signal(self, of_tissue: jax.Array) -> jax.Array:
        """(d, h, w): a value of each tissue, mixed at their borders."""
        low = [jnp.floor(at) for at in self.at]
        part = [at - below for at, below in zip(self.at, low, strict=True)]
        first = [below.astype(jnp.int32) for below in low]

        def mixed(corner: list[jax.Array]) -> jax.Array:
            axis = len(corner)
            if axis == 3:
                return of_tissue[_look_up(self.map, corner, tissues.AIR)]
            below, above = mixed([*corner, first[axis]]), mixed([*corner, first[axis] + 1])
            return below + part[axis] * (above - below)

        # Kept: XLA would rather write the eight corners, and mix them where the signal is used.
        return jax.lax.optimization_barrier(mixed([]))

    def among(self, which: tuple[int, ...]) -> jax.Array:
        """(d, h, w) bool: where the tissue is one of these."""
        return (np.uint32(sum(1 << tissue for tissue in which)) >> self.tissue.astype(jnp.uint32)) & 1 > 0

    def in_patch(self, voxels: jax.Array) -> jax.Array:
        """Places (m, 3) of the anatomy in the patch's voxels."""
        shape = self.tissue.shape
        middle = (jnp.array(shape) - 1) / 2
        target = voxels - self.centre
        at = _turned(self.back, target) + middle
        for _ in range(2):  # the displacement is smooth and small
            index = jnp.clip(jnp.round(at).astype(jnp.int32), 0, jnp.array(shape) - 1)
            at = _turned(self.back, target - splined_at(self.elastic, shape, _ELASTIC_MM, index)) + middle
        return at

    def turned(self, directions: jax.Array) -> jax.Array:
        """Directions (m, 3) of the anatomy in the patch."""
        return _turned(self.back, directions)


def draw_head(
    draws: Draws,
    anatomies: Anatomies,
    config: GeneratorConfig,
    shape: tuple[int, ...],
    index: jax.Array | int | None,
    whole: bool,
) -> Head:
    """The head of a patch of `shape`: anatomy `index` (None draws one), about a drawn place, or the `whole` of it."""
    tissue = anatomies["tissue"]
    d = draws.index(len(tissue)) if index is None else jnp.asarray(index)
    kind = draws.weighted(config.centres)
    region = draws.weighted((0.55, 0.35, 0.05, 0.05))
    source = jnp.select([kind == 0, kind == 1], [region, places.IN_TISSUE], places.IN_HEAD)
    centre = anatomies["places"][d, source, draws.index(places.PLACES)]
    centre = centre + draws.uniform((-10, 10), (3,))
    if whole:
        centre = (jnp.array(tissue.shape[1:]) - 1) / 2
    scales = 1 + draws.uniform((-config.scaling, config.scaling), (3,))
    angles = jnp.deg2rad(draws.uniform((-config.rotation, config.rotation), (3,)))
    shears = draws.uniform((-config.shear, config.shear), (3,))
    sheared = jnp.eye(3).at[[0, 0, 1], [1, 2, 2]].set(shears)
    flip = jnp.where(draws.chance(config.flip), jnp.array([1.0, 1, -1]), jnp.ones(3))
    with jax.default_matmul_precision("highest"):
        matrix = affine_matrix(angles, jnp.ones(3)) @ sheared @ jnp.diag(flip / scales)
    elastic = draws.uniform(config.elastic) * draws.nodes(shape, _ELASTIC_MM, 3)
    displacement = splined(elastic, shape, _ELASTIC_MM)
    steps = jnp.meshgrid(*(jnp.arange(n) - (n - 1) / 2 for n in shape), indexing="ij", sparse=True)
    at = tuple(
        sum(matrix[axis, j] * steps[j] for j in range(3)) + displacement[axis] + centre[axis] for axis in range(3)
    )
    near = [jnp.round(place).astype(jnp.int32) for place in at]
    maps = [jax.lax.dynamic_index_in_dim(anatomies[name], d, keepdims=False) for name in ("tissue", "from_edge")]
    nearest, edge = _look_up(maps[0], near, tissues.AIR), _look_up(maps[1], near, -127) / places.EDGE_UNITS
    return Head(nearest, edge, d, maps[0], at, _inverse(matrix), centre, elastic)


def _look_up(values: jax.Array, voxels: Sequence[jax.Array], outside: int) -> jax.Array:
    """`values` (d, h, w) at voxels, by axis."""
    inside, flat = flat_index(voxels, values.shape)
    found = values.ravel().at[flat].get(mode="promise_in_bounds", wrap_negative_indices=False)
    return jnp.where(inside, found, jnp.asarray(outside, values.dtype))


def _turned(matrix: jax.Array, vectors: jax.Array) -> jax.Array:
    """A matrix times vectors (m, 3), by sums: a product of matrices would be a kernel of its own on a GPU."""
    return jnp.sum(matrix * vectors[:, None], -1)


def _inverse(matrix: jax.Array) -> jax.Array:
    """The inverse of a matrix (3, 3), in closed form: a solver is a dozen launches on a GPU."""
    first, second, third = matrix
    across = jnp.stack([jnp.cross(second, third), jnp.cross(third, first), jnp.cross(first, second)], -1)
    return across / jnp.sum(first * across[:, 0])
