"""The device mesh of training and how its arrays lie on it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from mednext_jax.errors import InputError
from mednext_jax.settings import SWITCH, Range, integer, setting

AXES = ("data", "space", "height")


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """How the devices share the work."""

    data: int = setting(
        -1,
        Range("-1 or a number of devices", lambda v: v == -1 or v >= 1),
        "devices that share the samples of a batch; -1: all that the other two leave",
    )
    space: int = setting(1, integer(1), "devices that share the depth of one patch")
    height: int = setting(1, integer(1), "devices that share its height, besides")
    share_state: bool = setting(
        False, SWITCH, "split weights and optimiser state over `data` too, instead of a copy on each device"
    )


def make_mesh(data: int = -1, space: int = 1, height: int = 1, *, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh with the axes ("data", "space", "height"): samples, and of each sample slabs of depth and of height.

    `data=-1` takes every device that the others leave. Devices of one sample are neighbours in `devices`, so they
    are of one host where it has enough. Axis types are Auto: the compiler places what the shardings of the inputs
    leave open. Raises InputError when the devices cannot be laid out so.
    """
    devices = list(jax.devices() if devices is None else devices)
    volume = space * height
    if space < 1 or height < 1 or len(devices) % volume:
        raise InputError(
            "config.mesh.space * config.mesh.height does not divide the number of devices.",
            expected=f"a divisor of {len(devices)}",
            found=f"{space} * {height}",
        )
    if data == -1:
        data = len(devices) // volume
    if data < 1 or data * volume > len(devices):
        raise InputError(
            "config.mesh asks for more devices than there are.",
            expected=f"data * space * height <= {len(devices)} (data = -1 takes all)",
            found=f"{data} * {space} * {height}",
        )
    grid = np.asarray(devices[: data * volume]).reshape(data, space, height)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * 3)


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array: parameters, optimiser state, metrics."""
    return NamedSharding(mesh, PartitionSpec())


def over_samples(mesh: Mesh) -> NamedSharding:
    """The first axis of a batch is split over `data`."""
    return NamedSharding(mesh, PartitionSpec("data"))


def rows_of_process(mesh: Mesh, process: int) -> tuple[int, int]:
    """(k, n): `process` reads the k-th of n equal, contiguous parts of each batch, those that its devices hold.

    Processes whose devices share the samples of a batch read the same part. Raises InputError when the processes
    hold unequal parts, or this one none.
    """
    rows: dict[int, set[int]] = {p: set() for p in range(1 + max(device.process_index for device in mesh.devices.flat))}
    for row, devices in enumerate(mesh.devices):
        for device in devices.flat:
            rows[device.process_index].add(row)
    mine = sorted(rows.get(process, ()))
    parts = mesh.devices.shape[0] // max(len(mine), 1)
    equal = len({len(held) for held in rows.values()}) == 1 and mesh.devices.shape[0] % max(len(mine), 1) == 0
    if not mine or not equal or mine != list(range(mine[0], mine[0] + len(mine))) or mine[0] % len(mine):
        raise InputError(
            "config.mesh does not give every process the same share of a batch.",
            expected="space * height to be a multiple or a divisor of a process's devices, and no device left out",
            found=f"mesh {dict(mesh.shape)}; rows of each process: "
            + ", ".join(str(len(held)) for held in list(rows.values())[:8]),
            hint="set config.mesh.data = -1, and config.mesh.space to a power of two",
        )
    return mine[0] // len(mine), parts
