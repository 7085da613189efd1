"""The compiled sliding window against the same tiling written plainly in NumPy."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mednext_jax.inference import sliding_window as sw
from mednext_jax.inference import tiles
from tests.oracles import gaussian_weights, sliding_window

pytestmark = pytest.mark.core
PATCH = (16, 16, 16)
RNG = np.random.default_rng(0)
MODELS = [
    {"kernel": RNG.normal(size=(3, 3, 3, 2, classes)).astype(np.float32), "ramp": np.float32(ramp)}
    for classes, ramp in [(2, 0.3), (2, -0.2), (3, 0.3)]
]
BINARY, THREE = MODELS[:2], MODELS[2:]


def network(params, x):
    """Not translation-invariant (the ramp) and not mirror-symmetric, so that every tile and mirror matters."""
    y = jax.lax.conv_general_dilated(
        x, params["kernel"], (1, 1, 1), "SAME", dimension_numbers=("NDHWC", "DHWIO", "NDHWC")
    )
    ramp = params["ramp"] * jnp.arange(16) / 16
    return y + ramp[:, None, None, None] * jnp.arange(y.shape[-1])


def plain(models, volume, patch, step, mirror_axes, average):
    """nnU-Net's tiling: pad, cut, mirror, average, weigh, add, divide; one tile at a time."""
    pads = tiles.pad_to_patch(volume.shape[:3], patch)
    padded = np.pad(volume, [*pads, (0, 0)])
    gaussian = gaussian_weights(patch)[..., None]
    total, weight = 0.0, np.zeros((*padded.shape[:3], 1))
    apply = jax.jit(network)
    for start in tiles.tile_starts(padded.shape[:3], patch, step):
        here = tuple(slice(s, s + p) for s, p in zip(start, patch, strict=True))
        outputs = []
        for params in models:
            for n in range(len(mirror_axes) + 1):
                for axes in itertools.combinations(mirror_axes, n):
                    y = np.asarray(apply(params, np.flip(padded[here], axes)[None])[0], np.float64)
                    if average == "softmax":
                        y = np.exp(y) / np.exp(y).sum(-1, keepdims=True)
                    outputs.append(np.flip(y, axes))
        if weight.sum() == 0:
            total = np.zeros((*padded.shape[:3], outputs[0].shape[-1]))
        total[here] += np.mean(outputs, 0) * gaussian
        weight[here] += gaussian
    y = (total / weight)[tuple(slice(b, b + s) for (b, _), s in zip(pads, volume.shape[:3], strict=True))]
    if average == "logits":
        y = np.exp(y - y.max(-1, keepdims=True))
    return y / y.sum(-1, keepdims=True)


def scan(shape, seed=0):
    return np.random.default_rng(seed).normal(size=(*shape, 2)).astype(np.float32)


def networks(models, apply=network):
    return [sw.Network(apply, params) for params in models]


def compiled(window, models, volume, **kwargs):
    evidence = sliding_window(window, networks(models), volume, **kwargs)
    return np.asarray(sw.foreground_probabilities(evidence, window.average))


@pytest.mark.parametrize("average", ["logits", "softmax"])
@pytest.mark.parametrize("models", [BINARY[:1], BINARY, THREE], ids=["one", "two", "three classes"])
def test_equals_the_plain_tiling(average, models):
    window = sw.Window(PATCH, average=average, tile_batch=5)
    volume = scan((30, 24, 19))
    ours = compiled(window, models, volume)
    # 1e-5: float32 sums against float64 ones
    np.testing.assert_allclose(ours, plain(models, volume, PATCH, 0.5, (0, 1, 2), average)[..., 1:], atol=1e-5)


@pytest.mark.parametrize(
    "shape, mirror_axes, step, tile_batch",
    [
        ((9, 40, 13), (), 0.5, 1),
        ((16, 16, 16), (0, 2), 0.5, 4),
        ((33, 20, 17), (1,), 0.25, 3),
        ((31, 32, 33), (), 1.0, 2),
    ],
)
def test_shapes_steps_mirrors_and_batches(shape, mirror_axes, step, tile_batch):
    window = sw.Window(PATCH, step, mirror_axes, tile_batch=tile_batch)
    volume = scan(shape)
    expected = plain(BINARY[:1], volume, PATCH, step, mirror_axes, "logits")[..., 1:]
    np.testing.assert_allclose(compiled(window, BINARY[:1], volume), expected, atol=1e-5)


def test_three_shapes_one_compile():
    traces = []

    def counted(params, x):
        traces.append(x.shape)
        return network(params, x)

    window = sw.Window(PATCH, mirror_axes=(), tile_batch=2, bucket=32)
    before = sw._add_tiles._cache_size()
    sliding_window(window, networks(BINARY, counted), scan((30, 24, 19)))
    first = len(traces)
    results = [sliding_window(window, networks(BINARY, counted), scan(s)) for s in [(25, 32, 17), (18, 20, 32)]]
    assert [r.shape for r in results] == [(25, 32, 17, 1), (18, 20, 32, 1)]
    assert len(traces) == first  # the network was not even traced again
    assert sw._add_tiles._cache_size() == before + 1
    sliding_window(window, networks(BINARY, counted), scan((33, 20, 17)))  # another bucket
    assert sw._add_tiles._cache_size() == before + 2


def test_skipping_tiles_leaves_the_rest_as_it_is():
    window = sw.Window(PATCH, mirror_axes=())
    volume = scan((48, 16, 16))
    keep = np.zeros(volume.shape[:3], bool)
    keep[40:] = True
    full = sliding_window(window, networks(BINARY[:1]), volume)
    part = sliding_window(window, networks(BINARY[:1]), volume, keep=keep)
    np.testing.assert_array_equal(part[:24], sw.BACKGROUND_LOGIT)  # tiles start at 0, 8, .. 32: the last two stay
    np.testing.assert_allclose(part[40:], full[40:], rtol=1e-5, atol=1e-5)
    nothing = sliding_window(window, networks(BINARY[:1]), volume, keep=np.zeros_like(keep))
    np.testing.assert_array_equal(nothing, sw.BACKGROUND_LOGIT)


def test_only_the_first_head_of_deep_supervision_counts():
    def heads(params, x):
        y = network(params, x)
        return y, y[:, ::2] + 1e6

    volume, window = scan((20, 16, 16)), sw.Window(PATCH, mirror_axes=())
    one, first = (sliding_window(window, networks(BINARY[:1], f), volume) for f in (network, heads))
    np.testing.assert_array_equal(first, one)
