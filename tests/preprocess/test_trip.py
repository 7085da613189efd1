"""One scan through crop, normalisation and resampling, and back."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from mednext_jax.errors import InputError
from mednext_jax.preprocess.crop import find_region
from mednext_jax.preprocess.normalise import find_scaling, normalise, scheme_of
from mednext_jax.preprocess.preprocessing import Preprocessing
from mednext_jax.preprocess.trip import Properties, preprocess_scan
from tests.oracles import restore

pytestmark = pytest.mark.core

BOX = (slice(3, 17), slice(5, 21), slice(2, 14))
SPACING = (1.0, 1.0, 1.2)


@pytest.fixture
def scan():
    """A head with zeros around it and a hole inside, two channels; and a label that reaches out of the head."""
    random = np.random.default_rng(0)
    volume = np.zeros((20, 24, 18, 2), np.float32)
    volume[BOX] = random.normal(100, 20, (14, 16, 12, 2))
    volume[8:10, 8:10, 8:10] = 0
    label = np.zeros((20, 24, 18), np.int64)
    label[6:9, 10:13, 5:8] = 1
    label[0, 0, 0] = 2
    return volume, label


def run(volume, label=None, **changes):
    how = {"normalisation": ("zscore", "zscore"), "use_mask_for_norm": True} | changes
    return preprocess_scan(volume, SPACING, Preprocessing(**how), label)


def test_the_box_is_tight_and_the_mask_has_no_holes(scan):
    volume, _ = scan
    volume[4, 6, 3, 0] = 0  # zero in one channel only
    region = find_region(volume, fill=True)
    assert region.box == BOX and region.mask.all()


def test_hole_filling_is_scipys():
    volume = (np.random.default_rng(0).random((15, 16, 17, 1)) > 0.4).astype(np.float32)
    region = find_region(volume, fill=True)
    np.testing.assert_array_equal(region.mask, scipy.ndimage.binary_fill_holes(volume[..., 0] > 0)[region.box])


def test_a_scan_of_zeros_is_an_error():
    with pytest.raises(InputError, match="zero everywhere"):
        find_region(np.zeros((4, 4, 4, 1), np.float32))


def test_the_label_marks_the_outside_but_keeps_what_is_labelled():
    volume = np.zeros((8, 8, 8, 1), np.float32)
    volume[2:6, 2:6, 2:6] = np.random.default_rng(0).random((4, 4, 4, 1)) + 1
    volume[2, 2, 2] = 0  # a corner of the box outside the head
    volume[2, 2, 5] = 0
    label = np.zeros((8, 8, 8), np.uint8)
    label[2, 2, 5] = 1
    done = run(volume, label, normalisation=("zscore",))
    assert done.label.dtype == np.int16 and done.label.shape == (4, 4, 4)
    assert done.label[0, 0, 0] == -1 and done.label[0, 0, 3] == 1 and (done.label == 0).sum() == 62


def test_zscore_inside_the_mask_leaves_the_outside_at_zero():
    random = np.random.default_rng(0)
    volume = random.normal(100, 20, (6, 6, 6, 1)).astype(np.float32)
    mask = random.random((6, 6, 6)) > 0.5
    volume[~mask] = 0
    result = normalise(volume, ("zscore",), mask, use_mask=True)
    assert (result[~mask] == 0).all()
    assert result[mask].mean() == pytest.approx(0, abs=1e-5) and result[mask].std() == pytest.approx(1, abs=1e-5)
    whole = normalise(volume, ("zscore",), mask, use_mask=False)
    np.testing.assert_allclose(whole, (volume - volume.mean()) / volume.std(), rtol=1e-5, atol=1e-6)


def test_ct_and_none():
    volume = np.array([-2000, 0, 50, 3000], np.float32).reshape(1, 1, 4, 1).repeat(2, axis=-1)
    known = {"mean": 40.0, "std": 20.0, "percentile_00_5": -100.0, "percentile_99_5": 300.0}
    result = normalise(volume, ("ct", "none"), np.ones((1, 1, 4), bool), True, [known, {}])
    np.testing.assert_allclose(result[0, 0, :, 0], [-7, -2, 0.5, 13])
    np.testing.assert_array_equal(result[..., 1], volume[..., 1])


def test_channel_names_choose_the_scheme():
    assert [scheme_of(name) for name in ("T2w", "CT", "noNorm", "zscore")] == ["zscore", "ct", "none", "zscore"]


def test_resampled_shape_spacing_and_way_back(scan):
    volume, label = scan
    done = run(volume, label, spacing=(0.8, 0.8, 0.8))
    assert done.volume.shape == (18, 20, 18, 2) and done.volume.dtype == np.float32
    assert done.properties.resampled_spacing == (0.8, 0.8, 0.8)
    back = restore((done.label == 1).astype(np.float32), done.properties)
    np.testing.assert_array_equal(back > 0.5, label == 1)
    on_device = restore(jnp.asarray(done.volume), done.properties, fill=-5.0)
    assert on_device.shape == volume.shape and float(on_device[0, 0, 0, 0]) == -5
    np.testing.assert_allclose(on_device, restore(done.volume, done.properties, fill=-5.0), atol=1e-5)


def test_without_resampling_the_way_back_is_exact(scan):
    volume, _ = scan
    done = run(volume, normalisation=("none", "none"))
    np.testing.assert_array_equal(restore(done.volume, done.properties), volume)
    whole = run(volume, normalisation=("none", "none"), crop_to_nonzero=False)
    np.testing.assert_array_equal(whole.volume, volume)


def test_not_cropping_still_normalises_inside_the_mask(scan):
    volume, _ = scan
    whole, cropped = run(volume, crop_to_nonzero=False), run(volume)
    np.testing.assert_allclose(whole.volume[BOX], cropped.volume, atol=1e-6)
    assert (whole.volume[0] == 0).all()


def test_the_input_is_left_alone(scan):
    volume, label = scan
    before = volume.copy(), label.copy()
    run(volume, label)
    np.testing.assert_array_equal(volume, before[0])
    np.testing.assert_array_equal(label, before[1])


def test_properties_survive_json(scan):
    properties = run(scan[0], spacing=(0.8, 0.8, 0.8)).properties
    assert Properties.from_dict(properties.to_dict()) == properties


def test_a_spacing_that_would_take_all_memory_is_refused(scan):
    words = r"too large at(.|\n)*voxels \(x, y, z\) of 0.003 x 0.002 x 0.001 mm from 1.2 x 1 x 1 mm"
    with pytest.raises(InputError, match=words):
        run(scan[0], spacing=(1e-3, 2e-3, 3e-3))  # (d, h, w) = (z, y, x); said as x, y, z


@pytest.mark.parametrize(("planes", "extracted"), [(10, True), (2, False)])
def test_an_extracted_brain_is_told_by_the_zeros_in_its_box(planes, extracted):
    volume = np.ones((20, 20, 20, 1), np.float32)
    volume[1 : 1 + planes] = 0  # an open gap; holes are not counted
    volume[14:19, 1:19, 1:19] = 0
    region = find_region(np.pad(volume, [(9, 9)] * 3 + [(0, 0)]))
    assert region.brain_extracted == extracted and region.box == (slice(9, 29),) * 3
    if extracted:
        assert region.mask[14:19].all() and not region.mask[1 : 1 + planes].any()


def test_channels_that_cannot_be_scaled_are_refused(scan):
    volume, label = scan
    volume[5, 6, 7, 1] = 1e20
    with pytest.raises(InputError, match="too large to be normalised"):
        run(volume, label)
    assert run(volume, label, normalisation=("zscore", "none")).volume.max() == np.float32(1e20)


@pytest.mark.parametrize(
    ("signals", "sign"),
    [
        ({"white": 0.75, "grey": 0.50, "fluid": 0.15}, -1),  # T1w
        ({"white": 0.36, "grey": 0.50, "fluid": 0.93}, 1),  # T2w
        ({"white": 0.45, "grey": 0.60, "fluid": 0.12}, -1),  # FLAIR
    ],
)
def test_bright_fluid_is_the_zscore_of_one_polarity_for_every_contrast(signals, sign):
    """An extracted brain of 45 % white matter, 43 % grey matter and 12 % fluid; nothing around it counts."""
    rng = np.random.default_rng(0)
    share = {"white": 0.45, "grey": 0.43, "fluid": 0.12}
    tissue = rng.choice(list(signals), (20, 30, 30), p=[share[name] for name in signals])
    scan = np.vectorize(signals.get)(tissue) + 0.03 * rng.standard_normal(tissue.shape)
    inside = np.zeros(tissue.shape, bool)
    inside[:, 5:25, 5:25] = True
    scan = np.where(inside, scan, 0).astype(np.float32)[..., None]
    plain, bright = (normalise(scan, [name], inside, True) for name in ("zscore", "zscore_bright_fluid"))
    np.testing.assert_allclose(bright, sign * plain, atol=1e-6)
    assert not bright[~inside].any()
    mean = {name: bright[inside & (tissue == name)].mean() for name in signals}
    assert mean["fluid"] > mean["white"] + 0.5
    assert find_scaling(scan, ["zscore_bright_fluid"], inside, True)[0].masked


def test_a_channel_of_generated_scans_is_normalised_to_bright_fluid():
    from mednext_jax.train.generated import CHANNEL

    assert scheme_of(CHANNEL) == "zscore_bright_fluid" and scheme_of("T2w") == "zscore"
