"""Batches of patches: global batch `step` depends on (seed, step) alone, whoever reads it and whenever."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import grain
import jax
import numpy as np
from jax.sharding import NamedSharding

from mednext_jax.data.sampling import crop_start, is_forced_foreground, pick_foreground

Batch = Mapping[str, np.ndarray]


class Cases(Protocol):
    """What the sampler needs of a `CaseStore`."""

    def shape(self, case: str) -> Sequence[int]: ...
    def foreground(self, case: str) -> Mapping[int, np.ndarray]: ...
    def annotated(self, case: str) -> np.ndarray | None: ...
    def crop(self, case: str, start: Sequence[int], size: Sequence[int]) -> tuple[np.ndarray, np.ndarray]: ...


class Sampler(Protocol):
    """Row `row` of global batch `step`."""

    @property
    def batch_size(self) -> int: ...
    def __call__(self, step: int, row: int) -> Batch: ...


@dataclasses.dataclass(frozen=True)
class PatchSampler:
    """`sampler(step, row)` is row `row` of global batch `step`, a pure function of `seed` and the two.

    Draws a case uniformly with replacement and a crop of `read_size` around it by nnU-Net's rules. `stream` keeps
    training and validation draws apart. With `probabilistic` every row is foreground with probability
    `foreground_fraction` instead of by its position in the batch.
    """

    cases: Cases
    ids: tuple[str, ...]
    batch_size: int
    patch_size: tuple[int, int, int]
    read_size: tuple[int, int, int]
    foreground_fraction: float
    seed: int
    stream: int = 0
    probabilistic: bool = False

    def __call__(self, step: int, row: int) -> Batch:
        rng = np.random.default_rng((self.seed, self.stream, step, row))
        index = int(rng.integers(len(self.ids)))
        case = self.ids[index]
        if self.probabilistic:
            forced = rng.random() < self.foreground_fraction
        else:
            forced = is_forced_foreground(row, self.batch_size, self.foreground_fraction)
        voxels = self.cases.foreground(case) if forced else _all_annotated(self.cases.annotated(case))
        voxel = pick_foreground(rng, voxels)
        start = crop_start(rng, self.cases.shape(case), self.read_size, self.patch_size, voxel)
        image, label = self.cases.crop(case, start, self.read_size)
        return {
            "image": image,  # (d, h, w, c) float32
            "label": label,  # (d, h, w) int16
            "case": np.asarray(index, np.int32),
            "row": np.asarray(row, np.int32),
        }


def _all_annotated(voxels: np.ndarray | None) -> Mapping[int, np.ndarray]:
    """Where unforced crops may lie: anywhere (empty), but around annotated voxels if some are to be ignored."""
    return {} if voxels is None else {0: voxels}


def batches(
    sampler: Sampler,
    first_step: int,
    last_step: int,
    *,
    part: tuple[int, int] = (0, 1),
    threads: int = 4,
) -> Iterator[Batch]:
    """Part k of n of the global batches `first_step` ... `last_step - 1`, with `part` = (k, n), read ahead by threads.

    It is the contiguous rows k*B/n ... (k+1)*B/n - 1, as the devices of the mesh hold them, so the global batch is
    the same for every n and the step is the whole state of the data: nothing else is checkpointed.
    """
    k, n = part
    local = sampler.batch_size // n

    def element(index: int) -> Batch:
        step, row = divmod(int(index), local)
        return sampler(step, k * local + row)

    data = grain.MapDataset.range(first_step * local, last_step * local).map(element).batch(local)
    read = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(2, threads))
    return iter(data.to_iter_dataset(read))


def to_devices(host_batches: Iterator[Batch], sharding: NamedSharding) -> Iterator[tuple[Batch, dict]]:
    """Yield (host batch, device batch), always with the next one already on its way to the devices."""
    ahead: tuple[Batch, dict[str, jax.Array]] | None = None
    for host in host_batches:
        device = {
            name: jax.make_array_from_process_local_data(sharding, value)
            for name, value in host.items()
            if name != "case"
        }
        if ahead is not None:
            yield ahead
        ahead = host, device
    if ahead is not None:
        yield ahead
