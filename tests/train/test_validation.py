"""Whole validation scans: what `predict` finds in them, each once whatever the number of processes."""

import dataclasses

import nibabel as nib
import numpy as np
import pytest

from mednext_jax.data.case_store import CaseStore, CaseWriter
from mednext_jax.data.prepared import PreparedMeta
from mednext_jax.evaluate.cross_validation import ScoredFold
from mednext_jax.evaluate.scores_file import read_scores
from mednext_jax.inference.predictor import Predictor
from mednext_jax.io.nifti import to_volume
from mednext_jax.preprocess.preprocessing import Preprocessing
from mednext_jax.preprocess.trip import preprocess_scan
from mednext_jax.train import validation
from mednext_jax.weights.directory import Model
from mednext_jax.weights.recipe import Recipe
from tests.inference.conftest import CONFIG, random_params

pytestmark = pytest.mark.core

HOW = Preprocessing(spacing=(1.2, 1.0, 0.9), use_mask_for_norm=True)
# Stored to the left, and sheared: voxels of 1 x 1 x 1.125 mm and of 0.9 mm3.
AFFINE = np.array([[-1, 0.6, 0, 0], [0, 0.8, 0, 0], [0, 0, 1.125, 0], [0, 0, 0, 1]])


@pytest.fixture(scope="module")
def predictor():
    recipe = Recipe(channel_names=("T2w",), patch_size=(16, 16, 16), threshold=0.78, **vars(HOW))
    return Predictor(Model(CONFIG, random_params(CONFIG, 1), recipe), tta=False)


@pytest.fixture(scope="module")
def scans():
    """Balls with zeros around, as extracted brains."""
    away = ((np.indices((28, 26, 24)) - np.array([13.5, 12.5, 11.5])[:, None, None, None]) ** 2).sum(0) ** 0.5
    noise = [np.random.default_rng(i).normal(300, 80, away.shape).clip(1) for i in range(3)]
    return [nib.Nifti1Image(np.where(away < 11, values, 0).astype(np.float32), AFFINE) for values in noise]


@pytest.fixture(scope="module")
def store(scans, tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "prepared"
    writer, ids = CaseWriter(path), tuple(f"case_{i}" for i in range(len(scans)))
    for case, image in zip(ids, scans, strict=True):
        volume, spacing, grid = to_volume(image)
        label = (volume[..., 0] > 420).astype(np.int16)
        done = preprocess_scan(volume, spacing, HOW, label)
        where = {"stored_shape": grid.shape, "affine": grid.affine.tolist()}
        record = {"key": case, "properties": done.properties.to_dict(), **where}
        writer.write_case(case, done.volume, done.label, {1: np.argwhere(done.label == 1)}, record)
    meta = PreparedMeta(
        name="balls",
        channel_names=("T2w",),
        labels={"background": 0, "PVS": 1},
        ignore_label=None,
        regions_class_order=None,
        cases=ids,
        subjects={case: case for case in ids},
        sources={},
        settings={},
        versions={},
        **vars(HOW),
    )
    writer.finish(meta, [{"train": [], "val": list(ids)}])
    return CaseStore.open(path)


@pytest.fixture(scope="module")
def fold(store):
    return ScoredFold(0, 1, "", "balls", "", ("T2w",), HOW.spacing, store.ids)


@pytest.fixture(scope="module")
def scores(store, fold, predictor, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "validation"
    return validation.validate_scans(store, fold, predictor, folder), folder


def test_masks_are_those_of_predict(scans, store, predictor, scores):
    by_case, folder = scores
    for case, image in zip(store.ids, scans, strict=True):
        found = nib.load(folder / f"{case}_mask.nii.gz")
        np.testing.assert_allclose(found.affine, AFFINE, rtol=1e-6)  # float32 in the file
        found, expected = np.asarray(found.dataobj), np.asarray(predictor(image).mask.dataobj)
        assert 0.05 < expected.mean() < 0.95 and (found[np.asarray(image.dataobj) == 0] == 0).mean() > 0.99
        # labelled voxels count in the stored statistics where the scan is 0, and float32 products differ
        assert (found != expected).mean() < 2e-3
    assert read_scores(folder)["cases"].keys() == by_case.keys() == {*store.ids}


def test_volumes_are_those_of_the_sheared_grid(store, scores):
    for case, found in scores[0].items():
        larger = np.prod(HOW.spacing) / 1.125
        assert found["all"]["reference_volume_mm3"] == pytest.approx((store.read(case)[1] == 1).sum() * 0.9 * larger)


def test_several_processes_share_the_cases(store, fold, predictor, scores, monkeypatch):
    alone, _ = scores
    gathered = {}
    monkeypatch.setattr(validation.jax, "process_count", lambda: 2)
    monkeypatch.setattr(validation, "_from_all_processes", lambda mine: gathered | mine)
    monkeypatch.setattr(validation, "load_prepared", counted := _Counted(validation.load_prepared))
    monkeypatch.setattr(validation.jax, "process_index", lambda: 1)
    gathered |= {case: {"scores": alone[case]} for case in (store.ids[0], store.ids[2])}
    both = validation.validate_scans(store, fold, predictor)
    assert counted.calls == 1
    assert [*both] == [*store.ids]
    np.testing.assert_equal(both, alone)


@dataclasses.dataclass
class _Counted:
    work: object
    calls: int = 0

    def __call__(self, *args, **options):
        self.calls += 1
        return self.work(*args, **options)
