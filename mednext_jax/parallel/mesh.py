"""The device mesh of training and how its arrays lie on it."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from mednext_jax.errors import InputError

AXES = ("data", "space")


def make_mesh(data: int = -1, space: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh with the axes ("data", "space"): samples over `data`, slabs of depth over `space`.

    `data=-1` takes every device that `space` leaves. Axis types are Auto: the compiler places what the
    shardings of the inputs leave open. Raises InputError when the devices cannot be laid out so.
    """
    devices = list(jax.devices() if devices is None else devices)
    if space < 1 or len(devices) % space:
        raise InputError(
            "config.mesh.space does not divide the number of devices.",
            expected=f"a divisor of {len(devices)}",
            found=space,
        )
    if data == -1:
        data = len(devices) // space
    if data < 1 or data * space > len(devices):
        raise InputError(
            "config.mesh asks for more devices than there are.",
            expected=f"data * space <= {len(devices)} (data = -1 takes all)",
            found=f"{data} * {space}",
        )
    grid = np.asarray(devices[: data * space]).reshape(data, space)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * 2)


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array: parameters, optimiser state, metrics."""
    return NamedSharding(mesh, PartitionSpec())


def over_samples(mesh: Mesh) -> NamedSharding:
    """The first axis of a batch is split over `data`."""
    return NamedSharding(mesh, PartitionSpec("data"))
