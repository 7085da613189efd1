"""STAPLE against its published equations, the majority by hand."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from mednext_jax.errors import InputError
from mednext_jax.evaluate.raters.consensus import majority, staple

pytestmark = pytest.mark.core


def raters(seed=0, count=3):
    rng = np.random.default_rng(seed)
    truth = rng.random((14, 15, 16)) < 0.05
    return [(truth & (rng.random(truth.shape) < 0.8)) | (rng.random(truth.shape) < 0.01) for _ in range(count)]


def expectation_maximisation(masks):
    """Warfield, Zou and Wells 2004 over the table of votes, with the mean vote as the prior: PVS probability."""
    votes = np.stack(masks).reshape(len(masks), -1)
    weight = votes.mean(0)
    prior = weight.mean()
    for _ in range(500):
        p = (votes * weight).sum(1) / weight.sum()
        q = ((~votes) * (1 - weight)).sum(1) / (1 - weight).sum()
        yes = prior * np.where(votes, p[:, None], 1 - p[:, None]).prod(0)
        no = (1 - prior) * np.where(votes, 1 - q[:, None], q[:, None]).prod(0)
        weight = yes / (yes + no)
    return weight.reshape(masks[0].shape)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_staple_is_its_equations_in_the_box_of_all(count):
    pytest.importorskip("SimpleITK")
    masks = raters(count=count)
    for mask in masks:
        mask[0] = mask[-1] = mask[:, :2] = False
    wide = np.any(masks, axis=0)
    box = tuple(slice(max(0, i.min() - 1), i.max() + 2) for i in np.nonzero(wide))
    expected = np.zeros(wide.shape, bool)
    probability = expectation_maximisation([mask[box] for mask in masks])
    assert np.abs(probability - 0.5).min() > 1e-6
    expected[box] = probability >= 0.5
    assert np.array_equal(staple(masks), expected) and expected.any()


def test_majority_is_more_than_half():
    a, b, c = (np.array(list(map(bool, row))).reshape(1, 1, 4) for row in ([1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0]))
    assert majority([a, b, c]).ravel().tolist() == [True, True, False, False]
    assert majority([a, b]).ravel().tolist() == [True, True, False, False]
    assert majority([a, b, c, c]).ravel().tolist() == [True, False, False, False]


def test_raters_who_marked_nothing():
    pytest.importorskip("SimpleITK")
    masks = raters()
    nothing = np.zeros_like(masks[0])
    assert np.array_equal(staple([*masks[:2], nothing]), masks[0] & masks[1])
    assert not staple([nothing, nothing]).any()
    assert np.array_equal(staple([masks[0], masks[0]]), masks[0])


def test_without_simple_itk_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    with pytest.raises(InputError, match=r"mednext-jax\[evaluate\]"):
        staple(raters())
