"""Members of an ensemble, one by one: each equals a prediction of its own, and the maps are NumPy's of them."""

from __future__ import annotations

import csv

import nibabel as nib
import numpy as np
import pytest

from mednext_jax.errors import InputError
from mednext_jax.inference.predict import predict
from mednext_jax.inference.predictor import Predictor
from mednext_jax.inference.uncertainty import find_members
from mednext_jax.quantify.members import ENTROPY, SD_FOLDS, SD_MIRRORS

pytestmark = pytest.mark.core


def probability_of(model, path, axes=()):
    """What one model says of the scan mirrored along `axes` of the file, mirrored back."""
    image = nib.load(path)
    turned = nib.Nifti1Image(np.flip(np.asarray(image.dataobj), axes).copy(), image.affine)
    found = Predictor(model, tta=False)(turned).probability
    return np.flip(np.asarray(found.dataobj), axes)


def test_members_are_predictions_of_their_own(models, variant, save_scan, tmp_path):
    """The shape fills its tiles evenly, so that the mirror of the scan has the mirrored tiles."""
    path = save_scan(tmp_path / "a_0000.nii.gz", (32, 16, 24))
    one = variant(mirror_axes=(2,))  # the network's last axis, w, is the file's first
    single = find_members(predictor := Predictor(one), predictor.load(path))
    expected = [probability_of(one, path), probability_of(one, path, (0,))]
    assert [[len(mask) for mask in model] for model in single.found] == [[(p > 0.5).sum() for p in expected]]
    np.testing.assert_array_equal(single.found[0][0], np.flatnonzero(expected[0] > 0.5))
    np.testing.assert_allclose(single.maps[SD_MIRRORS], np.std(expected, axis=0, ddof=1), atol=1e-5)
    assert set(single.maps) == {SD_MIRRORS, ENTROPY}
    ensemble = find_members(predictor := Predictor(models, tta=False), predictor.load(path))
    expected = [probability_of(model, path) for model in models]
    np.testing.assert_allclose(ensemble.maps[SD_FOLDS], np.std(expected, axis=0, ddof=1), atol=1e-5)
    mean = np.clip(np.mean(expected, axis=0), 1e-7, 1 - 1e-7)
    entropy = -mean * np.log2(mean) - (1 - mean) * np.log2(1 - mean)
    np.testing.assert_allclose(ensemble.maps[ENTROPY], entropy, atol=1e-4)


def test_predict_writes_maps_and_intervals(models, save_scan, tmp_path):
    save_scan(tmp_path / "scans" / "a_0000.nii.gz")
    out = tmp_path / "out"
    predict(tmp_path / "scans", out, models, tta=False, uncertainty=True, min_voxels=1)
    spread = nib.load(out / "a_sd_between_folds.nii.gz").get_fdata()
    labels = nib.load(out / "a_clusters.nii.gz").get_fdata()
    with open(out / "a_clusters.tsv", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    for row in rows[:5]:
        there = spread[labels == int(row["cluster"])].mean()
        assert float(row["sd_between_folds"]) == pytest.approx(there, abs=1e-4)
    with open(out / "pvs.tsv", newline="") as file:
        (whole,) = csv.DictReader(file, delimiter="\t")
    counts = []
    for number, model in enumerate(models):
        predict(tmp_path / "scans", tmp_path / str(number), model, tta=False, min_voxels=1)
        with open(tmp_path / str(number) / "pvs.tsv", newline="") as file:
            counts.append(int(next(csv.DictReader(file, delimiter="\t"))["count"]))
    assert float(whole["count_expected"]) == np.mean(counts)
    half = 1.959964 * np.std(counts, ddof=1)
    assert float(whole["count_high"]) == pytest.approx(np.mean(counts) + half, abs=1e-3)
    assert float(whole["count_low"]) == pytest.approx(max(np.mean(counts) - half, 0), abs=1e-3)


def test_uncertainty_needs_tables(models, save_scan, tmp_path):
    path = save_scan(tmp_path / "a_0000.nii.gz")
    with pytest.raises(InputError, match="--no-tables"):
        predict(path, tmp_path / "out", models[0], tables=False, uncertainty=True)
    assert not (tmp_path / "out").exists()
