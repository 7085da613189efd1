"""Labels that overlap: one sigmoid output per region, an ignored part, from the data set to a predicted mask."""

import copy
import csv
import math

import nibabel as nib
import numpy as np
import pytest

from mednext_jax.data.case_store import CaseStore
from mednext_jax.errors import InputError
from mednext_jax.evaluate.scores_file import read_scores
from mednext_jax.inference.predictor import Predictor
from mednext_jax.train.configuration import TrainConfig
from mednext_jax.train.experiment import Experiment
from mednext_jax.train.train import train
from mednext_jax.weights.directory import load_model

pytestmark = [pytest.mark.core, pytest.mark.usefixtures("quickly_compiled")]

LABELS = {"background": 0, "bar": (1, 2), "core": (2,)}


def test_overlapping_regions_are_trained_validated_and_predicted(tiny, write_data, tmp_path):
    config = copy.deepcopy(tiny)
    prepared = write_data(tmp_path / "prepared", labels=LABELS, regions_class_order=(1, 2), ignore_label=3)
    config.data, config.steps, config.steps_per_epoch, config.validation_steps = str(prepared), 2, 2, 1
    config.model.deep_supervision = False  # so that validation and prediction share a program
    model = load_model(train(config, tmp_path / "run"))
    assert model.config.num_classes == 2 and model.recipe.regions_class_order == (1, 2)
    assert model.recipe.labels == {"background": 0, "bar": 1, "core": 2}
    with open(tmp_path / "run" / "metrics.csv", newline="") as file:
        (epoch,) = csv.DictReader(file)
    assert 0 <= float(epoch["patch_dice"]) <= 1 and math.isfinite(float(epoch["validation_loss"]))

    scan = nib.load(tmp_path / "run" / "validation" / "case_0_mask.nii.gz")
    mask = np.asarray(scan.dataobj).transpose(2, 1, 0)[2:-2, 2:-2, 2:-2]  # to the stored box
    assert set(np.unique(mask)) <= {0, 1, 2}
    _, label = CaseStore.open(prepared).read("case_0")
    counted = label != 3
    found, true = (mask > 0) & counted, (label > 0) & counted
    dice = 2 * np.sum(found & true) / (found.sum() + true.sum())
    scores = read_scores(tmp_path / "run" / "validation")["cases"]
    assert scores["case_0"]["all"]["dice"] == pytest.approx(dice)

    voxels = np.random.default_rng(0).normal(100, 20, (40, 36, 44)).astype(np.float32)
    result = Predictor(model)(nib.Nifti1Image(voxels, np.eye(4)))
    probability = np.asarray(result.probability.dataobj)
    np.testing.assert_array_equal(np.asarray(result.mask.dataobj) > 0, probability > 0.5)


def test_a_class_order_that_gives_two_regions_one_value_is_refused(tiny, write_data, tmp_path):
    config = copy.deepcopy(tiny)
    config.data = str(write_data(tmp_path / "prepared", labels=LABELS, regions_class_order=(1, 1)))
    with pytest.raises(InputError, match="own value"):
        Experiment.of(TrainConfig.of(config))
