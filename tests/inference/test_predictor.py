"""One scan through the predictor: the grid is kept, and the numbers are those of the parts put together by hand."""

from __future__ import annotations

import dataclasses

import jax
import nibabel as nib
import numpy as np
import pytest

from mednext_jax.errors import InputError, WorkError
from mednext_jax.inference import on_device
from mednext_jax.inference import sliding_window as sw
from mednext_jax.inference.on_device import decide
from mednext_jax.inference.predictor import Predictor, network_of, products_in
from mednext_jax.inference.tiles import pad_to_patch, tile_starts
from mednext_jax.io.nifti import from_volume, read_scan, to_volume
from mednext_jax.model.config import MedNeXtConfig
from mednext_jax.model.mednext import MedNeXt
from mednext_jax.ops.local import LocalOps
from mednext_jax.preprocess.normalise import SCHEMES, Scaling, Scheme, scheme_of
from mednext_jax.preprocess.trip import preprocess_scan
from mednext_jax.weights.directory import Model, load_model
from tests.oracles import gaussian_weights, restore

pytestmark = pytest.mark.core
CT = {"mean": 310.0, "std": 60.0, "percentile_00_5": 150.0, "percentile_99_5": 420.0}


@pytest.fixture(scope="module")
def predictor(models):
    return Predictor(models[0], tta=False)


def test_prediction_takes_kernels_whose_forward_pass_is_checked(monkeypatch):
    asked = []
    monkeypatch.setattr("mednext_jax.inference.predictor.best_ops", lambda **how: asked.append(how) or LocalOps())
    config = MedNeXtConfig.variant("S", kernel_size=3)
    network_of.__wrapped__(config)
    (how,) = asked
    assert not how["gradients"] and set(how["kinds"]) == {kind for kind, _, _ in config.blocks()}


@pytest.fixture(scope="module")
def by_hand(models):
    """The same prediction from the package's parts and a plain loop over tiles."""
    model = load_model(models[0])
    apply = jax.jit(MedNeXt(model.config).apply)

    def run(path, fields=None):
        recipe = dataclasses.replace(model.recipe, **(fields or {}))
        volume, voxel, grid = to_volume(read_scan(path))
        case = preprocess_scan(volume, voxel, recipe)
        pads = pad_to_patch(case.volume.shape[:3], recipe.patch_size)
        volume = np.pad(case.volume, [*pads, (0, 0)])
        total = np.zeros((*volume.shape[:3], 2))
        weight = np.zeros((*volume.shape[:3], 1))
        gaussian = gaussian_weights(recipe.patch_size)[..., None]
        for start in tile_starts(volume.shape[:3], recipe.patch_size, 0.5):
            here = tuple(slice(s, s + 16) for s in start)
            total[here] += np.asarray(apply({"params": model.params}, volume[here][None])[0]) * gaussian
            weight[here] += gaussian
        logits = (total / weight)[tuple(slice(b, n - a) for (b, a), n in zip(pads, volume.shape[:3], strict=True))]
        logits = restore(logits.astype(np.float32), case.properties)
        probability = 1 / (1 + np.exp(logits[..., 0] - logits[..., 1]))
        box = tuple(slice(s, s + n) for s, n in zip(case.properties.box_start, case.properties.box_shape, strict=True))
        inside = np.zeros(probability.shape, bool)
        inside[box] = True
        return from_volume(np.where(inside, probability, 0), grid)

    return run


@pytest.mark.parametrize(
    "affine",
    [None, np.array([[0, -1.1, 0, 5], [0, 0, 0.9, -3], [1.0, 0, 0, 2], [0, 0, 0, 1]])],
    ids=["RAS", "axes swapped and flipped"],
)
def test_numbers_and_grid(predictor, by_hand, save_scan, tmp_path, affine):
    path = save_scan(tmp_path / "a.nii.gz", affine=affine, dark=3)
    result = predictor(path)
    probability = np.asarray(result.probability.dataobj)
    expected = by_hand(path)
    assert 0.02 < (expected > 0.5).mean() < 0.98  # a prediction that varies, or nothing is tested
    # 1e-4: the network's float32 rounding differs by the compiled program around it
    np.testing.assert_allclose(probability, expected, atol=1e-4)
    np.testing.assert_array_equal(np.asarray(result.mask.dataobj), probability > 0.5)
    assert (probability[:3] == 0).all()  # outside the box of non-zero voxels

    image = nib.load(path)
    for output, dtype in ((result.mask, np.uint8), (result.probability, np.float32)):
        assert output.get_data_dtype() == dtype and output.shape == image.shape
        np.testing.assert_array_equal(output.affine, image.affine)
        for field in ("sform_code", "qform_code", "xyzt_units", "pixdim", "srow_x", "quatern_b"):
            np.testing.assert_array_equal(output.header[field], image.header[field])
    assert set(result.seconds) == {"read", "prepare", "device", "finish"}


@pytest.mark.parametrize(
    "recipe",
    [
        {"spacing": (1.0, 0.8, 1.1)},
        {"spacing": (0.9, 1.1, 1.3)},
        {"spacing": (4.0, 1.1, 1.0)},  # the first axis is resampled slice by slice
        {"spacing": (1.1, 1.0, 1.2), "use_mask_for_norm": True},
        {"use_mask_for_norm": True},
        {"crop_to_nonzero": False, "spacing": (1.0, 1.0, 1.0)},
        {"normalisation": ("ct",), "intensity_properties": (CT,), "spacing": (1.0, 1.0, 1.0)},
        {"normalisation": ("none",)},
    ],
    ids=str,
)
def test_the_compiled_steps_are_those_of_preprocess_scan_and_restore(variant, by_hand, save_scan, tmp_path, recipe):
    path = save_scan(tmp_path / "a.nii.gz", shape=(24, 22, 20), dark=4)
    result = Predictor(variant(**recipe), tta=False)(path)
    expected = by_hand(path, recipe)
    assert np.ptp(expected) > 0.2
    # 2e-4: a random network enlarges the 4e-7 by which float32 matrix products differ
    np.testing.assert_allclose(np.asarray(result.probability.dataobj), expected, atol=2e-4)


def test_three_shapes_one_compile(models, save_scan, tmp_path):
    """All programs, the network's and those around it, serve every scan of the bucket; with resampling or without."""
    programs = (sw._add_tiles, sw._accumulators, sw._average, on_device._make_ready, on_device._decide_on_device)
    predictor = Predictor(models[0], tta=False)
    counts = []
    for i, shape in enumerate([(24, 22, 20), (17, 30, 19), (33, 20, 40)]):
        predictor(save_scan(tmp_path / f"{i}.nii.gz", shape))
        counts.append([program._cache_size() for program in programs])
    assert counts[0] == counts[1] == counts[2] and min(counts[0]) > 0


def test_skipping_background(models, predictor, save_scan, tmp_path):
    """Two far corners of a dark scan: the tiles between are left out, those with a bright voxel stay as they are."""
    path = save_scan(tmp_path / "a.nii.gz", (56, 16, 16))
    image = nib.load(path)
    array = np.asarray(image.dataobj).copy()
    array[12:44] = 0
    image = nib.Nifti1Image(array, image.affine)
    options = {"tta": False, "background": "compute"}
    full, part = (Predictor(models[0], skip_background=skip, **options)(image) for skip in (False, True))
    full, part = (np.asarray(result.probability.dataobj) for result in (full, part))
    assert (part[24:32] < 1e-10).all() and (full[24:32] > 1e-3).any()
    np.testing.assert_allclose(part[:8], full[:8], atol=1e-5)
    np.testing.assert_allclose(part[-8:], full[-8:], atol=1e-5)


@pytest.fixture(scope="module")
def brain():
    """A ball that fills its box as a brain does, with a hole in it and zeros around."""
    rng = np.random.default_rng(3)
    place = (np.indices((72, 24, 24)) - np.array([35.5, 11.5, 11.5])[:, None, None, None]) / 12
    array = np.where((place**2).sum(0) < 1, rng.normal(300, 80, place.shape[1:]).clip(1), 0).astype(np.float32)
    array[35:37, 11:13, 11:13] = 0
    return array


@pytest.mark.parametrize("recipe", [{}, {"spacing": (1.2, 1.0, 0.9)}, {"crop_to_nonzero": False}], ids=str)
def test_zeros_around_an_extracted_brain_are_background(variant, brain, recipe):
    model, image = variant(**recipe), nib.Nifti1Image(brain, np.eye(4))
    known = Predictor(model, tta=False)(image)
    computed = Predictor(model, tta=False, background="compute")(image)
    outside = brain == 0
    outside[35:37, 11:13, 11:13] = False  # a hole is not connected to the border
    found, every = (np.asarray(result.probability.dataobj) for result in (known, computed))
    assert (every[24:48][outside[24:48]] > 0.5).any()  # a network finds things in nothing
    assert (found[outside] == 0).all() and (np.asarray(known.mask.dataobj)[outside] == 0).all()
    np.testing.assert_array_equal(np.asarray(known.mask.dataobj)[~outside], (found > 0.5)[~outside])
    if recipe.get("crop_to_nonzero", True):  # all tiles hold a voxel of the brain, and nothing else changes
        np.testing.assert_array_equal(found[~outside], every[~outside])
    else:  # those without one are left out
        loaded = [Predictor(model, background=name).load(image) for name in ("auto", "compute")]
        assert len(loaded[0].starts) < len(loaded[1].starts)


def test_zeros_in_a_whole_head_are_computed(models, save_scan, tmp_path):
    """A few empty planes are no sign of an extracted brain."""
    image = nib.load(save_scan(tmp_path / "a.nii.gz", shape=(24, 22, 20)))
    array = np.asarray(image.dataobj).copy()
    array[2:8] = 0
    results = [
        np.asarray(Predictor(models[0], tta=False, background=name)(nib.Nifti1Image(array, image.affine)).mask.dataobj)
        for name in ("auto", "compute")
    ]
    np.testing.assert_array_equal(*results)
    with pytest.raises(InputError, match="auto or compute"):
        Predictor(models[0], background="skip")


@pytest.mark.parametrize(
    ("recipe", "warned"),
    [
        ({"brain_extracted": True}, "head"),
        ({"brain_extracted": False}, "brain"),
        ({"use_mask_for_norm": True}, "head"),  # of older models
        ({}, ""),
    ],
    ids=str,
)
def test_a_scan_unlike_the_training_scans_gets_a_warning(variant, brain, save_scan, tmp_path, caplog, recipe, warned):
    predictor = Predictor(variant(**recipe), tta=False)
    for name, path in (("head", save_scan(tmp_path / "head.nii.gz")), ("brain", tmp_path / "brain.nii.gz")):
        if name == "brain":
            nib.save(nib.Nifti1Image(brain, np.eye(4)), path)
        caplog.clear()
        predictor.load(path)
        assert ("does not look like" in caplog.text and str(path) in caplog.text) == (name == warned)


def test_what_is_odd_about_voxels_channels_and_brain_masks_is_told(models, save_scan, tmp_path, caplog):
    """Each is used, but may be wrong: one voxel of 1e9, a channel and a mask that lie half a voxel beside the scan."""
    apart = np.diag([1.0, 1.1, 0.9, 1])
    apart[0, 3] = 0.5
    path = save_scan(tmp_path / "a.nii.gz")
    bright = np.asarray(nib.load(path).dataobj, np.float32)
    bright[5, 5, 5] = 1e9
    nib.save(nib.Nifti1Image(bright, apart), tmp_path / "bright.nii.gz")
    parcels = nib.Nifti1Image((bright > 300).astype(np.uint8) + (bright > 350), apart)
    nib.save(parcels, tmp_path / "mask.nii.gz")
    one = load_model(models[0])
    stem = {**one.params["stem"], "kernel": np.repeat(one.params["stem"]["kernel"], 2, axis=0)}
    recipe = dataclasses.replace(one.recipe, channel_names=("T1w", "T2w"), normalisation=("zscore",) * 2)
    two = Model(dataclasses.replace(one.config, in_channels=2), {**one.params, "stem": stem}, recipe)
    predictor = Predictor(two, tta=False)
    predictor.load([path, save_scan(tmp_path / "b.nii.gz", seed=1)])
    assert not caplog.text
    predictor.load([path, tmp_path / "bright.nii.gz"], tmp_path / "mask.nii.gz")
    for words in ("far beyond all others", "A channel has another affine", "The brain mask has another affine"):
        assert words in caplog.text
    assert "The brain mask has several values" in caplog.text and str(tmp_path / "mask.nii.gz") in caplog.text


@pytest.mark.parametrize("value", [1e20, float(np.finfo(np.float32).max)])
def test_intensities_that_overflow_the_zscore_are_refused(predictor, save_scan, tmp_path, value):
    image = nib.load(save_scan(tmp_path / "a.nii.gz"))
    array = np.asarray(image.dataobj).astype(np.float32)
    array[3, 4, 5] = value
    nib.save(nib.Nifti1Image(array, image.affine), tmp_path / "b.nii.gz")
    with pytest.raises(InputError, match=r"no scanner writes(.|\n)*b\.nii\.gz"):
        predictor.load(tmp_path / "b.nii.gz")


@pytest.mark.parametrize(
    "inside",
    [np.full((16, 18, 20), 7.0), 1e-12 * np.random.default_rng(0).random((16, 18, 20)), 1e-30 * np.eye(16)[..., None]],
    ids=["mask", "small", "tiny"],
)
def test_intensities_that_the_network_would_not_see_are_refused(predictor, tmp_path, inside):
    """Tiny ones, and a brain of one intensity, such as a mask in the scan's place."""
    nib.save(nib.Nifti1Image(np.pad(inside, 4).astype(np.float32), np.eye(4)), tmp_path / "a.nii.gz")
    with pytest.raises(InputError, match=r"too much alike(.|\n)*a\.nii\.gz"):
        predictor.load(tmp_path / "a.nii.gz")


def test_a_result_that_is_not_finite_is_refused(models, save_scan, tmp_path):
    """Of weights in memory, which no reader has judged."""
    model = load_model(models[0])
    params = {**model.params, "stem": {**model.params["stem"], "bias": np.full(2, np.nan, np.float32)}}
    with pytest.raises(WorkError, match="not finite"):
        Predictor(dataclasses.replace(model, params=params), tta=False)(save_scan(tmp_path / "a.nii.gz"))


def test_a_scheme_is_one_entry(variant, by_hand, save_scan, tmp_path, monkeypatch):
    """Recipe, preparation on the host and the compiled program know a scheme by its entry alone."""
    halves = Scheme(lambda channel, mask, known: Scaling(low=0.0, high=600.0, mean=300.0, deviation=150.0), ("halves",))
    monkeypatch.setitem(SCHEMES, "halves", halves)
    assert scheme_of("Halves") == "halves"
    recipe = {"normalisation": ("halves",), "spacing": (1.0, 1.0, 1.0)}
    path = save_scan(tmp_path / "a.nii.gz")
    expected = by_hand(path, recipe)
    assert np.ptp(expected) > 0.2
    found = Predictor(variant(**recipe), tta=False)(path).probability
    np.testing.assert_allclose(np.asarray(found.dataobj), expected, atol=2e-4)


def test_an_image_in_memory_is_a_scan_too(predictor, save_scan, tmp_path):
    path = save_scan(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(
        predictor(nib.load(path)).probability.dataobj, predictor(str(path)).probability.dataobj
    )


def test_threshold(models, predictor, save_scan, tmp_path):
    path = save_scan(tmp_path / "a.nii.gz")
    probability = np.asarray(predictor(path).probability.dataobj)
    high = Predictor(models[0], tta=False, threshold=0.8)(path)
    np.testing.assert_array_equal(np.asarray(high.mask.dataobj), probability > 0.8)


def test_the_recipes_threshold_is_the_default(variant):
    assert Predictor(variant(threshold=0.3)).threshold == 0.3


TABLE = (
    {"contrast": "T1w", "largest_voxel": 1.2, "threshold": 0.4},
    {"contrast": "T1w", "largest_voxel": 3.0, "threshold": 0.5},
    {"contrast": "T2w", "largest_voxel": 3.0, "threshold": 0.6},
)


def test_a_scan_is_decided_by_the_threshold_of_its_contrast_and_voxel_size(predictor, variant, save_scan, tmp_path):
    table = Predictor(variant(channel_names=("MRI",), threshold=0.55, thresholds=TABLE), tta=False)
    fine, coarse = np.diag([1.0, 1.1, 0.9, 1]), np.diag([1.0, 1.3, 0.9, 1])
    for name, affine, threshold in (
        ("a_T1w", fine, 0.4),
        ("b_T1w", coarse, 0.5),
        ("c_T2w", fine, 0.6),
        ("d", fine, 0.55),
        ("e_PD", fine, 0.55),
    ):
        path = save_scan(tmp_path / f"{name}.nii.gz", affine=affine)
        found = table(path)
        probability = np.asarray(predictor(path).probability.dataobj)
        assert found.threshold == threshold and 0 < (probability > threshold).mean() < 1
        np.testing.assert_array_equal(np.asarray(found.probability.dataobj), probability)
        np.testing.assert_array_equal(np.asarray(found.mask.dataobj), probability > threshold)
    own = Predictor(variant(thresholds=TABLE), tta=False, threshold=0.45)(tmp_path / "a_T1w.nii.gz")
    assert own.threshold == 0.45
    assert predictor(tmp_path / "a_T1w.nii.gz").threshold == 0.5


def test_a_temperature_divides_the_logits(predictor, variant, save_scan, tmp_path):
    path = save_scan(tmp_path / "a.nii.gz")
    p = np.asarray(predictor(path).probability.dataobj, np.float64)
    for average in ("logits", "softmax"):
        cooler = Predictor(variant(temperature=2.0, average=average), tta=False)(path)
        expected = 1 / (1 + np.exp(-np.log(p / (1 - p)) / 2))
        # the softmax averages tiles after the division; with one tile it is the same, with more a little off
        tolerance = 1e-5 if average == "logits" else 0.05
        np.testing.assert_allclose(np.asarray(cooler.probability.dataobj), expected, atol=tolerance)


def test_a_temperature_of_1_changes_no_program(models, variant, save_scan, tmp_path):
    path = save_scan(tmp_path / "a.nii.gz")
    Predictor(models[0], tta=False)(path)
    before = sw._add_tiles._cache_size()
    Predictor(variant(temperature=1), tta=False)(path)
    assert sw._add_tiles._cache_size() == before


def test_ensemble_averages_logits_and_compiles_no_second_network(models, predictor, save_scan, tmp_path):
    path = save_scan(tmp_path / "a.nii.gz")
    second = Predictor(models[1], tta=False)
    before = sw._add_tiles._cache_size()
    both = [np.asarray(p(path).probability.dataobj, np.float64) for p in (predictor, second)]
    mean = np.mean([np.log(p / (1 - p)) for p in both], 0)
    ensemble = Predictor(models, tta=False)(path)
    assert sw._add_tiles._cache_size() == before
    np.testing.assert_allclose(np.asarray(ensemble.probability.dataobj), 1 / (1 + np.exp(-mean)), atol=1e-5)


def test_mirrored_scan_gives_the_mirrored_prediction(models, save_scan, tmp_path):
    """Only if all mirrors are averaged and turned back. One tile: the weights' centre is half a voxel off (nnU-Net)."""
    predictor = Predictor(models[0])
    image = nib.load(save_scan(tmp_path / "a.nii.gz", shape=(16, 14, 16)))
    array = np.asarray(image.dataobj)
    one = np.asarray(predictor(image).probability.dataobj)
    for axis in range(3):
        flipped = nib.Nifti1Image(np.flip(array, axis), image.affine)
        other = np.flip(np.asarray(predictor(flipped).probability.dataobj), axis)
        np.testing.assert_allclose(other, one, atol=1e-4)


def test_three_classes():
    """argmax without a threshold; with one, foreground first and then which."""
    classes = np.array([[0.3, 0.3], [0.5, 0.1], [0.1, 0.7], [0.2, 0.2]])[:, None, None]
    label, probability = decide(classes, None)
    np.testing.assert_allclose(probability.ravel(), [0.6, 0.6, 0.8, 0.4])
    np.testing.assert_array_equal(label.ravel(), [0, 1, 2, 0])
    np.testing.assert_array_equal(decide(classes, 0.5)[0].ravel(), [1, 1, 2, 0])


def test_overlapping_regions():
    """Later regions write over earlier ones."""
    classes = np.array([[0.6, 0.2], [0.6, 0.7], [0.1, 0.9], [0.5, 0.4]])[:, None, None]
    label, probability = decide(classes, None, (1, 2))
    np.testing.assert_array_equal(label.ravel(), [1, 2, 2, 0])
    np.testing.assert_allclose(probability.ravel(), [0.6, 0.7, 0.9, 0.5])
    np.testing.assert_array_equal(decide(classes, 0.5, (2, 1))[0].ravel(), [2, 1, 1, 0])
    np.testing.assert_array_equal(decide(classes, 0.8, (1, 2))[0].ravel(), [0, 0, 2, 0])


def test_wrong_calls(models, variant, predictor, save_scan, tmp_path):
    path = save_scan(tmp_path / "a.nii.gz")
    with pytest.raises(InputError, match="channels"):
        predictor([path, path])
    with pytest.raises(InputError, match="spacing"):
        Predictor([models[0], variant(spacing=(1.0, 1.0, 1.0))])
    numbers = {"threshold": (1.0, -0.1, "0.5"), "step": (0.0, 1.5, "a"), "tile_batch": (0, -1, "a")}
    for wrong in ({name: value} for name, values in numbers.items() for value in values):
        with pytest.raises(InputError):
            Predictor(models[0], **wrong)
    with pytest.raises(InputError, match="No model"):
        Predictor([])
    with pytest.raises(InputError, match="NoneType"):
        Predictor(None)
    with pytest.raises(InputError, match="not finite"):
        predictor(nib.Nifti1Image(np.full((20, 20, 20), np.nan, np.float32), np.eye(4)))
    with pytest.raises(InputError, match="constant"):
        predictor(nib.Nifti1Image(np.zeros((20, 20, 20), np.float32), np.eye(4)))
    for wrong in (7, None, nib.Nifti1Image(np.zeros((20, 20, 20), np.complex64), np.eye(4))):
        with pytest.raises(InputError):
            predictor(wrong)
    with pytest.raises(InputError, match="channels") as error:
        predictor([np.zeros((20, 20, 20))] * 3)
    assert len(str(error.value)) < 500


def test_arrays_of_other_libraries_are_one_scan_and_masks_may_be_in_memory(predictor, save_scan, tmp_path):
    scan = nib.load(save_scan(tmp_path / "a.nii.gz"))
    voxels = np.asarray(scan.dataobj)
    with pytest.warns(UserWarning, match="1 mm"):
        assert predictor.load(jax.numpy.asarray(voxels)).properties.shape == predictor.load(voxels).properties.shape
    mask = nib.Nifti1Image(np.ones(scan.shape, np.uint8), scan.affine)
    assert predictor.load(scan, mask).properties == predictor.load(scan).properties
    with pytest.raises(InputError, match="the brain mask in memory") as error:
        predictor.load(scan, mask.slicer[1:])
    assert len(str(error.value)) < 500


def test_images_in_memory_are_segmented_as_the_file_is(predictor, save_scan, tmp_path):
    path = save_scan(tmp_path / "a.nii.gz", shape=(24, 22, 20))
    expected = np.asarray(predictor(path).mask.dataobj)
    scan = nib.load(path)
    for kind in (nib.MGHImage, nib.Nifti1Pair, nib.Nifti2Image):
        mask = predictor(kind(np.asarray(scan.dataobj, np.float32), scan.affine)).mask
        np.testing.assert_array_equal(np.asarray(mask.dataobj), expected)
        np.testing.assert_allclose(mask.affine, scan.affine, atol=1e-5)


def test_weights_converted_beforehand_give_the_same_logits():
    config = MedNeXtConfig(base_channels=4, block_counts=(1,) * 9, dtype="bfloat16")
    net, x = MedNeXt(config), jax.random.normal(jax.random.key(0), (1, 16, 32, 16, 1))
    params = net.init(jax.random.key(1), x)["params"]
    converted = products_in("bfloat16", params)
    assert converted["stem"]["kernel"].dtype == "bfloat16"
    assert converted["enc_block_0"]["0"]["conv1"]["kernel"].dtype == "float32"  # the kernels' sums take it as it is
    found, expected = (jax.jit(net.apply)({"params": p}, x) for p in (converted, params))
    np.testing.assert_array_equal(found, expected)


def test_results_leave_the_device_when_they_are_fetched(predictor, save_scan, tmp_path):
    computed = predictor.infer(predictor.load(save_scan(tmp_path / "a.nii.gz", shape=(24, 22, 20))))
    predictor.finish(computed)
    assert all(array.is_deleted() for slab in computed.decided for array in slab)
