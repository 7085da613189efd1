"""The batches are a function of the seed and the step, whoever reads them."""

import itertools

import jax
import numpy as np
import pytest

from mednext_jax.data.batches import PatchSampler, batches, to_devices
from mednext_jax.parallel.mesh import make_mesh, over_samples

pytestmark = pytest.mark.core


class Cases:
    """Three random scans in memory, read through the case store's interface."""

    def __init__(self):
        rng = np.random.default_rng(0)
        self.images = {name: rng.normal(size=(20, 22, 24, 1)).astype(np.float32) for name in "abc"}
        self.labels = {name: (rng.random((20, 22, 24)) > 0.99).astype(np.int16) for name in "abc"}

    def shape(self, case):
        return self.labels[case].shape

    def foreground(self, case):
        return {1: np.argwhere(self.labels[case] == 1)}

    def annotated(self, case):
        return None

    def crop(self, case, start, size):
        image = np.zeros((*size, 1), np.float32)
        label = np.full(size, -1, np.int16)
        shape = self.shape(case)
        source = tuple(slice(max(0, a), min(n, a + s)) for a, n, s in zip(start, shape, size, strict=True))
        target = tuple(slice(p.start - a, p.stop - a) for p, a in zip(source, start, strict=True))
        image[target], label[target] = self.images[case][source], self.labels[case][source]
        return image, label


@pytest.fixture(scope="module")
def sampler():
    return PatchSampler(Cases(), ("a", "b", "c"), 4, (16, 16, 16), (20, 20, 20), 0.33, seed=7)


def global_batches(sampler, first, last, processes, threads=3):
    """The batches that `processes` processes make together."""
    each = [batches(sampler, first, last, part=(p, processes), threads=threads) for p in range(processes)]
    parts = [list(itertools.islice(it, last - first)) for it in each]
    return [
        {name: np.concatenate([part[s][name] for part in parts]) for name in parts[0][s]} for s in range(last - first)
    ]


@pytest.mark.parametrize(("processes", "first"), [(1, 0), (2, 0), (4, 0), (1, 5), (2, 5), (4, 5)])
def test_same_global_batches_for_any_process_count_fresh_or_resumed(sampler, processes, first):
    reference = global_batches(sampler, 0, 8, 1)
    found = global_batches(sampler, first, 8, processes)
    assert len(found) == 8 - first
    for expected, batch in zip(reference[first:], found, strict=True):
        for name in expected:
            np.testing.assert_array_equal(batch[name], expected[name])


@pytest.mark.parametrize("threads", [1, 8])
def test_same_batches_for_any_number_of_threads(sampler, threads):
    reference = global_batches(sampler, 0, 5, 1)
    for expected, batch in zip(reference, global_batches(sampler, 0, 5, 1, threads), strict=True):
        np.testing.assert_array_equal(batch["image"], expected["image"])


def test_batches_differ_by_step_seed_and_stream(sampler):
    import dataclasses

    first = sampler(0, 0)["image"]
    for other in (
        sampler(1, 0),
        sampler(0, 1),
        dataclasses.replace(sampler, seed=8)(0, 0),
        dataclasses.replace(sampler, stream=1)(0, 0),
    ):
        assert not np.array_equal(other["image"], first)


def test_forced_rows_show_foreground(sampler):
    for step in range(20):
        assert (sampler(step, 3)["label"] == 1).any()


def test_probabilistic_rule_forces_every_row_with_the_same_chance(sampler):
    import dataclasses

    always = dataclasses.replace(sampler, probabilistic=True, foreground_fraction=1.0)
    assert all((always(step, row)["label"] == 1).any() for step in range(5) for row in range(4))


def test_to_devices_keeps_order_and_the_last_batch(sampler):
    sharding = over_samples(make_mesh(devices=jax.devices()[:1]))
    pairs = list(to_devices(batches(sampler, 0, 3), sharding))
    assert len(pairs) == 3
    for host, device in pairs:
        np.testing.assert_array_equal(device["image"], host["image"])
        assert set(device) == {"image", "label", "row"}
