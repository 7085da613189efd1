"""How maps become masks: thresholds, labels, other grids, and what is refused."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from mednext_jax.errors import InputError
from mednext_jax.evaluate.mask_source import MaskSource, overlap, read_map

pytestmark = pytest.mark.core
AFFINE = np.array([[0.8, 0.1, 0, -5], [0, 0.8, 0.05, 3], [0, 0, 1.5, -7], [0, 0, 0, 1]])
SHAPE = (12, 14, 10)


def save(path, array, affine=AFFINE, dtype=np.float32):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.asarray(array, dtype), affine), path)
    return nib.load(path)


def probabilities(seed=0):
    return np.random.default_rng(seed).random(SHAPE).astype(np.float32)


def source(tmp_path, **options):
    return MaskSource("tool", {"a": tmp_path / "a.nii.gz"}, **options)


def test_a_probability_above_the_threshold_is_pvs(tmp_path):
    p = probabilities()
    p[0, 0, 0] = 0.25
    image = save(tmp_path / "a.nii.gz", p)
    mask = source(tmp_path, threshold=0.25).mask("a", image, [])
    assert mask.dtype == bool and np.array_equal(mask, p > 0.25) and not mask[0, 0, 0]
    assert np.array_equal(source(tmp_path).probability("a", image), p)


def test_a_probability_map_without_a_threshold_is_refused(tmp_path):
    image = save(tmp_path / "a.nii.gz", probabilities())
    with pytest.raises(InputError, match="probability map, not a mask") as error:
        source(tmp_path).mask("a", image, [])
    assert "--threshold 0.5" in str(error.value)
    with pytest.raises(InputError, match="--threshold reference=0.5"):
        MaskSource("reference", {"a": tmp_path / "a.nii.gz"}).reference("a", None, [])
    for threshold in (-0.1, 1, 30, float("nan")):
        with pytest.raises(InputError, match="not a probability"):
            MaskSource.open("tool", tmp_path, threshold)


def test_masks_stay_as_they_are_with_a_threshold(tmp_path):
    mask = probabilities() > 0.7
    for dtype in (np.uint8, np.float32):
        image = save(tmp_path / "a.nii.gz", mask, dtype=dtype)
        assert np.array_equal(source(tmp_path, threshold=0.99).mask("a", image, []), mask)


@pytest.mark.parametrize("values, words", [((0.3, 1.3), "not integers"), ((-0.4, 0.5), "not integers")])
def test_values_of_neither_kind_are_refused(tmp_path, values, words):
    p = np.zeros(SHAPE)
    p[:2, 0, 0] = values
    image = save(tmp_path / "a.nii.gz", p)
    with pytest.raises(InputError, match=words):
        source(tmp_path, threshold=0.5).mask("a", image, [])
    image = save(tmp_path / "a.nii.gz", -np.ones(SHAPE), dtype=np.int8)
    with pytest.raises(InputError, match="negative"):
        source(tmp_path).mask("a", image, [])


def test_the_rounding_of_sums_beyond_one_is_taken(tmp_path):
    p = probabilities()
    p[0, 0, :2] = 1.0000002, -1e-7
    image = save(tmp_path / "a.nii.gz", p)
    assert read_map(tmp_path / "a.nii.gz")[1]
    found = source(tmp_path).probability("a", image)
    assert found.min() == 0 and found.max() == 1


def test_labels_that_are_pvs_and_a_warning_of_several(tmp_path):
    labels = np.random.default_rng(0).integers(0, 4, SHAPE)
    image = save(tmp_path / "a.nii.gz", labels, dtype=np.uint8)
    warnings = []
    assert np.array_equal(source(tmp_path).mask("a", image, warnings), labels > 0)
    assert [w.severity for w in warnings] == ["W"] and "1, 2, 3" in str(warnings[0]) and "--labels" in str(warnings[0])
    warnings.clear()
    assert np.array_equal(source(tmp_path, labels=(1, 3)).mask("a", image, warnings), np.isin(labels, (1, 3)))
    save(tmp_path / "a.nii.gz", 255 * (labels > 2), dtype=np.uint8)
    assert np.array_equal(source(tmp_path).mask("a", image, warnings), labels > 2) and not warnings


def test_an_image_or_a_scaled_probability_is_no_mask_but_a_map_of_clusters_is(tmp_path):
    image = save(tmp_path / "a.nii.gz", np.rint(255 * probabilities()), dtype=np.uint8)
    with pytest.raises(InputError, match="many values") as error:
        source(tmp_path, threshold=0.5).mask("a", image, [])
    assert "up to 255" in str(error.value)
    assert np.array_equal(source(tmp_path, labels=(7,)).mask("a", image, []), np.asarray(image.dataobj) == 7)
    clusters = np.zeros((40, 4, 4))
    clusters[1:39:2, 1] = 1 + np.arange(19)[:, None]
    clusters[1:39:2, 3, 3] = 20 + np.arange(19)
    clusters[0, 0, 0] = 50
    image = save(tmp_path / "a.nii.gz", clusters, dtype=np.uint8)
    warnings = []
    assert np.array_equal(source(tmp_path).mask("a", image, warnings), clusters > 0) and len(warnings) == 1


def test_the_ignore_label_of_a_reference(tmp_path):
    labels = np.random.default_rng(0).integers(0, 3, SHAPE)
    save(tmp_path / "a.nii.gz", labels, dtype=np.uint8)
    warnings = []
    _, mask, counted, values = source(tmp_path).reference("a", 2, warnings)
    assert values == {0, 1, 2}
    assert np.array_equal(mask, labels == 1) and np.array_equal(counted, labels != 2) and not warnings


def test_a_grid_of_other_axes_is_brought_back_exactly(tmp_path):
    p = probabilities()
    like = save(tmp_path / "like.nii.gz", p)
    turned = nib.as_closest_canonical(like).slicer[:, :, :]
    turned = nib.Nifti1Image(np.asarray(turned.dataobj)[::-1].swapaxes(0, 1), turned.affine)
    flip = np.array([[0, -1, 0, SHAPE[0] - 1], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    save(tmp_path / "a.nii.gz", np.asarray(turned.dataobj), turned.affine @ flip)
    assert np.allclose(source(tmp_path, resample=True).probability("a", like), p, atol=1e-5)
    save(tmp_path / "a.nii.gz", np.asarray(turned.dataobj) > 0.5, turned.affine @ flip, np.uint8)
    assert np.array_equal(source(tmp_path, resample=True).mask("a", like, []), p > 0.5)
    with pytest.raises(InputError, match="another shape") as error:
        source(tmp_path).mask("a", like, [])
    assert "--resample" in str(error.value)


def test_finer_probabilities_are_interpolated_linearly_in_mm(tmp_path):
    """A ramp along z stays one, on voxels of another size and a sheared grid."""
    like = save(tmp_path / "like.nii.gz", np.zeros(SHAPE))
    finer = AFFINE @ np.diag([0.5, 0.5, 0.5, 1])
    ramp = np.broadcast_to(np.linspace(0.1, 0.9, 19), (23, 27, 19))
    save(tmp_path / "a.nii.gz", ramp, finer)
    found = source(tmp_path, resample=True).probability("a", like)
    assert np.allclose(found, np.linspace(0.1, 0.9, 10), atol=1e-5)


def test_grids_that_hardly_overlap_are_refused(tmp_path):
    like = save(tmp_path / "like.nii.gz", np.zeros(SHAPE))
    away = AFFINE.copy()
    away[:3, 3] += 200
    image = save(tmp_path / "a.nii.gz", probabilities(), away)
    assert overlap(image, like) == 0
    with pytest.raises(InputError, match="hardly overlap"):
        source(tmp_path, resample=True, threshold=0.5).mask("a", like, [])
    part = like.slicer[4:8, 5:9, 3:6]  # a cut-out lies wholly inside
    assert overlap(part, like) == overlap(like, part) == 1


def test_masks_are_no_probabilities(tmp_path):
    image = save(tmp_path / "a.nii.gz", probabilities() > 0.5, dtype=np.uint8)
    with pytest.raises(InputError, match="not a probability map"):
        source(tmp_path).probability("a", image)
    image = save(tmp_path / "a.nii.gz", np.zeros(SHAPE))
    assert not source(tmp_path).probability("a", image).any()  # nothing found
