"""A head of the label maps, turned, scaled and bent on the device, on the voxels of a patch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mednext_jax.data.transforms import affine_matrix
from mednext_jax.simulate import anatomy as places
from mednext_jax.simulate import tissues
from mednext_jax.simulate.generator_config import GeneratorConfig
from mednext_jax.simulate.random_fields import Draws, along_axis

_ELASTIC_MM = 16
Anatomies = Mapping[str, jax.Array]  # the arrays of `anatomy.stacked`


class Head(NamedTuple):
    """The deformed head of a patch. tissue (d, h, w): the nearest one."""

    tissue: jax.Array
    corners: tuple[jax.Array, ...]  # tissues of the eight voxels around each place
    weights: tuple[jax.Array, ...]
    from_edge: jax.Array  # mm, > 0 in the brain
    anatomy: jax.Array  # its index
    matrix: jax.Array  # patch -> anatomy
    centre: jax.Array  # of the patch, in the anatomy
    displacement: jax.Array  # (d, h, w, 3)

    def signal(self, of_tissue: jax.Array) -> jax.Array:
        """(d, h, w): a value of each tissue, mixed at their borders."""
        mixed = jnp.zeros(self.tissue.shape)
        for weight, corner in zip(self.weights, self.corners, strict=True):
            mixed = mixed + weight * of_tissue[corner]
        return mixed

    def among(self, which: tuple[int, ...]) -> jax.Array:
        """(d, h, w) bool: where the tissue is one of these."""
        table = np.zeros(len(tissues.TISSUES), bool)
        table[list(which)] = True
        return jnp.asarray(table)[self.tissue]

    def in_patch(self, voxels: jax.Array) -> jax.Array:
        """Places (m, 3) of the anatomy in the patch's voxels."""
        middle = (jnp.array(self.tissue.shape) - 1) / 2
        back = jnp.linalg.inv(self.matrix)
        target = voxels - self.centre
        at = target @ back.T + middle
        for _ in range(2):  # the displacement is smooth and small
            index = jnp.clip(jnp.round(at).astype(jnp.int32), 0, jnp.array(self.tissue.shape) - 1)
            at = (target - self.displacement[tuple(index.T)]) @ back.T + middle
        return at


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
    displacement = draws.uniform(config.elastic) * draws.smooth(shape, _ELASTIC_MM, 3)

    grid = jnp.stack(jnp.meshgrid(*(jnp.arange(n) - (n - 1) / 2 for n in shape), indexing="ij"), -1)
    at = along_axis(matrix, grid, 3) + displacement + centre
    low = jnp.floor(at).astype(jnp.int32)
    part = at - low
    corners, weights = [], []
    for corner in np.ndindex(2, 2, 2):
        corners.append(_look_up(tissue, d, low + np.array(corner), tissues.AIR).astype(jnp.int32))
        weights.append(jnp.prod(jnp.where(np.array(corner) == 1, part, 1 - part), -1))
    near = jnp.round(at).astype(jnp.int32)
    edge = _look_up(anatomies["from_edge"], d, near, -127) / places.EDGE_UNITS
    nearest = _look_up(tissue, d, near, tissues.AIR).astype(jnp.int32)
    return Head(nearest, tuple(corners), tuple(weights), edge, d, matrix, centre, displacement)


def _look_up(maps: jax.Array, d: jax.Array, voxels: jax.Array, outside: int) -> jax.Array:
    shape = jnp.array(maps.shape[1:])
    inside = jnp.all((voxels >= 0) & (voxels < shape), -1)
    return jnp.where(inside, maps[d, voxels[..., 0], voxels[..., 1], voxels[..., 2]], outside)
