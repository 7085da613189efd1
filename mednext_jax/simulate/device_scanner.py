"""The scanner on the device: blur, slices and gaps, k-space truncation, noise, ghosts, intensities; on 1 mm voxels."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.stats import norm

from mednext_jax.simulate.generator_config import GeneratorConfig
from mednext_jax.simulate.random_fields import Draws, along_axes


class Scanner(NamedTuple):
    """One drawn protocol. down, up: for each axis (n, n), the volume as acquired, and back on its own grid."""

    down: tuple[jax.Array, ...]
    up: tuple[jax.Array, ...]
    spacing: jax.Array  # (3,) mm acquired
    noise: jax.Array  # standard deviation in each channel
    ghost: jax.Array  # share of the image that is shifted
    ghost_axis: jax.Array
    ghost_shift: jax.Array  # voxels

    def expected(self, volume: jax.Array) -> jax.Array:
        """What is left of a volume (d, h, w) without noise and ghosts; linear. Of (d, h, w, c): (c, d, h, w)."""
        # Both ways as one matrix; summed, since XLA would join a product with the scan's and cut it out of that again.
        both = [jnp.sum(up[:, :, None] * down, 1) for up, down in zip(self.up, self.down, strict=True)]
        return along_axes(both, volume)

    def scan(self, draws: Draws, volume: jax.Array) -> jax.Array:
        """The magnitude image of a volume (d, h, w), with Rician noise as strong in every acquired voxel."""
        real = along_axes([self._with_ghost(axis) for axis in range(3)], volume)
        noise, other = draws.two_normals(volume.shape)
        return along_axes(self.up, jnp.hypot(real + self.noise * noise, self.noise * other))

    def _with_ghost(self, axis: int) -> jax.Array:
        """`down` of an axis, of the volume and its share that is shifted along it."""
        down = self.down[axis]
        share = jnp.where(self.ghost_axis == axis, self.ghost, 0)
        return down + share * (jnp.roll(down, -self.ghost_shift, 1) - down)


def draw_scanner(draws: Draws, config: GeneratorConfig, shape: tuple[int, ...]) -> Scanner:
    """A protocol: in-plane voxels, with some probability thick slices along a drawn axis, blur, noise, ghost."""
    thick_axis, is_thick = draws.index(3), draws.chance(config.thick_slices)
    in_plane, slices = draws.uniform(config.in_plane), draws.log_uniform(config.slice_spacing)
    gap, blur, phases = draws.uniform(config.slice_gap), draws.uniform(config.blur), draws.uniform((0, 1), (3,))
    ringing = draws.chance(config.truncation, (3,))
    down, up, spacings = [], [], []
    for axis, n in enumerate(shape):
        thick = is_thick & (thick_axis == axis)
        spacing = jnp.where(thick, jnp.maximum(slices, in_plane), in_plane)
        width = jnp.where(thick, spacing * (1 - gap), spacing)
        to, back = _sampling(n, spacing, width, blur, phases[axis], ringing[axis] & ~thick)
        down.append(to)
        up.append(back)
        spacings.append(spacing)
    ghost = jnp.where(draws.chance(config.ghosts), draws.uniform(config.ghost_strength), 0)
    return Scanner(
        tuple(down),
        tuple(up),
        jnp.stack(spacings),
        draws.log_uniform(config.noise),
        ghost,
        draws.index(3),
        draws.index(33) + 8,
    )


def _sampling(
    n: int, spacing: jax.Array, width: jax.Array, blur: jax.Array, phase: jax.Array, ringing: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """(n, n) each: n voxels of 1 mm -> samples `spacing` apart (further rows unused), and linearly back.

    A sample is the mean over `width` mm with a Gaussian of `blur` samples, or where `ringing` a sinc that k-space's
    end leaves, damped over four samples.
    """
    voxels = jnp.arange(n)
    shift = phase * (spacing - 1)  # no shift where the grids agree
    centres = shift + voxels * spacing
    away = voxels[None] - centres[:, None]
    # The voxels of the volume are already means over 1 mm.
    half, sigma = jnp.sqrt(jnp.maximum(width**2 - 0.96, 0.04)) / 2, blur * spacing
    box = norm.cdf((half + away) / sigma) + norm.cdf((half - away) / sigma) - 1
    sinc = jnp.sinc(away / (spacing * 1.1)) * jnp.exp(-0.5 * (away / (1.6 * spacing)) ** 2)
    kernel = jnp.where(ringing, sinc, box)
    there = (centres < n)[:, None]
    down = jnp.where(there, kernel / jnp.where(there, kernel.sum(1, keepdims=True), 1), 0)
    up = jnp.maximum(0, 1 - jnp.abs((voxels[:, None] - shift) / spacing - voxels[None])) * there[:, 0]
    return down, up / jnp.maximum(up.sum(1, keepdims=True), 1e-6)
