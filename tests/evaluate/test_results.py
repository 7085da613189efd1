"""The command on a cohort: several tools, raters, a sweep; what is written, and what is refused before."""

from __future__ import annotations

import csv
import json
import sys

import nibabel as nib
import numpy as np
import pytest
from scipy import stats

from mednext_jax.errors import InputError
from mednext_jax.evaluate.evaluate import evaluate
from mednext_jax.model.config import MedNeXtConfig
from mednext_jax.weights.directory import load_model, save_model
from mednext_jax.weights.names import expected_shapes, from_torch_names
from mednext_jax.weights.recipe import Recipe

pytestmark = pytest.mark.core
AFFINE = np.diag([0.8, 0.8, 1.2, 1])
SHAPE = (20, 18, 14)
CASES = ("sub-1", "sub-2", "sub-3", "sub-4", "sub-5")
FIGURES = {"scores", "bland_altman_volume", "bland_altman_count", "recall_by_size"}


def save(path, array, dtype=np.uint8, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.asarray(array, dtype), affine), path)


@pytest.fixture
def study(tmp_path):
    """Truth, region maps, masks of two raters, and probability maps beside masks of a tool."""
    for number, case in enumerate(CASES):
        rng = np.random.default_rng(number)
        truth = np.zeros(SHAPE, bool)
        for x, y in rng.integers(1, 17, (5 + 3 * number, 2)):
            truth[x, y, 3:9] = True
        p = np.clip(0.6 * truth * (rng.random(SHAPE) > 0.1) + 0.4 * rng.random(SHAPE) ** 9, 0, 1)
        save(tmp_path / "truth" / f"{case}.nii.gz", truth)
        save(tmp_path / "tool" / f"{case}_probability.nii.gz", p, np.float32)
        save(tmp_path / "tool" / f"{case}_mask.nii.gz", p > 0.5)
        for rater in "AB":
            save(tmp_path / rater / f"{case}_desc-manual_mask.nii.gz", truth & (rng.random(SHAPE) > 0.15))
        regions = np.ones(SHAPE)
        regions[9:] = 2
        save(tmp_path / "regions" / f"{case}.nii.gz", regions)
    (tmp_path / "regions" / "regions.json").write_text('{"white matter": 1, "basal ganglia": 2}')
    return tmp_path


def read_csv(path):
    return list(csv.DictReader(path.open()))


def files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_two_tools_by_name_with_thresholds_of_their_own(study, capsys):
    tools = {"half": study / "tool", "low": study / "tool"}
    summary = evaluate(
        tools, study / "truth", study / "out", study / "regions", threshold={"half": 0.5, "low": 0.1}, figures=False
    )
    assert files(study / "out") == {
        *("summary.json", "cases.csv", "scores.csv", "agreement.csv", "comparisons.csv", "table.md", "table.tex")
    }
    # At 0.5 the same as the tool's own masks.
    own = evaluate(study / "tool", study / "truth", study / "own", study / "regions", figures=False)
    assert json.dumps(summary["tools"]["half"]["regions"]) == json.dumps(own["regions"])
    assert summary["tools"]["half"]["cases"]["sub-2"]["all"]["hd95_mm"] == own["cases"]["sub-2"]["all"]["hd95_mm"]
    rows = read_csv(study / "out" / "cases.csv")
    assert len(rows) == 2 * 5 * 3 and {row["tool"] for row in rows} == {"half", "low"}
    assert "tool" not in read_csv(study / "own" / "cases.csv")[0]
    rows = read_csv(study / "out" / "comparisons.csv")
    assert {(row["first"], row["second"]) for row in rows} == {("half", "low")} and {row["n"] for row in rows} <= {
        "5",
        "4",
    }
    found = next(row for row in rows if (row["region"], row["score"]) == ("all", "precision"))
    assert float(found["mean_difference"]) > 0 and float(found["p"]) == float(found["p_holm"]) == 2 / 2**5
    table = (study / "out" / "table.md").read_text()
    assert table.count("\n| half | ") == 3 and "volume ICC(2,1)" in table
    assert (study / "out" / "table.tex").read_text().count(r" \\") == 7
    printed = capsys.readouterr().out
    assert "half: 5 cases" in printed and "low: 5 cases" in printed


def test_what_one_tool_had_before_is_there_with_the_same_numbers(study):
    summary = evaluate(study / "tool", study / "truth", study / "out", figures=False)
    stored = json.loads((study / "out" / "summary.json").read_text())
    assert {"regions", "cases", "rules", "references_without_prediction", "ignore_label"} <= set(stored)
    assert stored["regions"]["all"]["dice"] == summary["regions"]["all"]["dice"]
    assert set(stored["statistics"]) == {"scores", "agreement", "empty"}
    row = read_csv(study / "out" / "cases.csv")[0]
    for name in ("dice", "nsd_1_voxel", "hd95_mm", "valdo_dice", "one_to_one_recall", "volume_difference_mm3"):
        assert row[name]
    assert float(row["absolute_count_difference"]) == abs(int(row["count"]) - int(row["reference_count"]))


def test_figures_of_both_kinds_or_a_line_without_matplotlib(study, capsys, monkeypatch):
    pytest.importorskip("matplotlib")
    evaluate(study / "tool", study / "truth", study / "out")
    assert {f"figures/{name}.{kind}" for name in FIGURES for kind in ("png", "svg")} <= files(study / "out")
    assert "matplotlib" not in capsys.readouterr().out
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    evaluate(study / "tool", study / "truth", study / "without")
    assert not (study / "without" / "figures").exists() and (study / "without" / "table.md").exists()
    monkeypatch.setitem(sys.modules, "skimage.morphology", None)
    summary = evaluate(study / "tool", study / "truth", study / "lines", figures=False)
    assert "cl_dice" not in summary["cases"]["sub-1"]["all"]
    lines = [line for line in capsys.readouterr().out.splitlines() if "pip install 'mednext-jax[evaluate]'" in line]
    assert [line.partition(":")[0] for line in lines] == ["no figures", "no clDice"]


def test_raters_and_a_tool_without_references(study, capsys):
    pytest.importorskip("SimpleITK")
    summary = evaluate(
        {"tool": study / "tool"}, None, study / "out", raters={"A": study / "A", "B": study / "B"}, figures=False
    )
    assert files(study / "out") == {
        *("summary.json", "rater_cases.csv", "rater_masks.csv", "raters.csv", "rater_reliability.csv"),
        *("second_rater.csv", "raters.md", "raters.tex"),
    }
    pairs = {(row["first"], row["second"]) for row in read_csv(study / "out" / "raters.csv")}
    assert pairs == {("A", "B"), ("A", "tool"), ("B", "tool"), ("tool", "majority"), ("tool", "STAPLE")}
    (voxel, _) = summary["raters"]["second_rater"]
    assert voxel["tool_mean"] > voxel["rater_mean"] and voxel["williams_index"] > 1 and voxel["scans"] == 5
    assert "| volume   | 2      | 5 " in (study / "out" / "raters.md").read_text()
    assert "Williams index" in capsys.readouterr().out and "| tool | dice " in (study / "out" / "raters.md").read_text()


def test_raters_by_region(study):
    pytest.importorskip("SimpleITK")
    raters = {"A": study / "A", "B": study / "B"}
    summary = evaluate({"tool": study / "tool"}, None, study / "out", study / "regions", raters=raters, figures=False)
    places = {"all", "white matter", "basal ganglia"}
    for name in ("raters", "rater_reliability", "second_rater", "rater_cases", "rater_masks"):
        assert {row["region"] for row in read_csv(study / "out" / f"{name}.csv")} == places
    voxels = {row["region"]: row["tool_mean"] for row in summary["raters"]["second_rater"] if row["score"] == "dice"}
    assert len(set(voxels.values())) == 3
    table = (study / "out" / "raters.md").read_text()
    assert "| region " in table and table.count("| basal ganglia |") == 5 + 2 + 2
    assert r"\begin{tabular}{lllrrrrr}" in (study / "out" / "raters.tex").read_text()


@pytest.mark.parametrize("broken", ["missing", "another grid"])
def test_region_maps_that_do_not_fit_the_raters_are_refused(study, broken):
    pytest.importorskip("SimpleITK")
    if broken == "missing":
        (study / "regions" / "sub-3.nii.gz").unlink()
    else:
        save(study / "regions" / "sub-3.nii.gz", np.ones((5, 5, 5)))
    with pytest.raises(InputError, match="no region map" if broken == "missing" else "another shape"):
        evaluate(None, None, study / "out", study / "regions", raters={"A": study / "A", "B": study / "B"})
    assert not (study / "out").exists()


def test_raters_beside_references(study):
    pytest.importorskip("SimpleITK")
    pytest.importorskip("matplotlib")
    evaluate(study / "tool", study / "truth", study / "out", raters={"A": study / "A", "B": study / "B"})
    found = files(study / "out")
    assert {"cases.csv", "raters.csv", "figures/raters.png", "figures/second_rater.svg", "figures/scores.png"} <= found


def test_visual_scores_beside_counts_by_region(study):
    rows = ["case\tregion\tR1\tR2\tprediction"]
    for number, case in enumerate(CASES):
        rows += [
            f"{case}\t{region}\t{min(number, 4)}\t{min(number + 1, 4)}\t{number}" for region in ("all", "basal ganglia")
        ]
    (study / "scores.tsv").write_text("\n".join(rows))
    options = {"raters": study / "scores.tsv", "figures": False}
    summary = evaluate(study / "tool", None, study / "out", study / "regions", **options)
    found = {(row["region"], row["first"], row["second"]): row for row in summary["raters"]["visual_scores"]}
    row = found["basal ganglia", "prediction (count)", "R1"]
    own = evaluate(study / "tool", study / "truth", study / "own", study / "regions", figures=False)
    counts = [own["cases"][case]["basal ganglia"]["count"] for case in CASES]
    assert row["spearman"] == pytest.approx(stats.spearmanr(counts, range(5)).statistic)
    assert found["all", "prediction", "R1"]["kappa_quadratic"] == 1
    assert "kappa" in (study / "out" / "raters.md").read_text()
    with pytest.raises(InputError, match="regions that no map has"):
        evaluate(study / "tool", None, study / "other", **options)
    assert not (study / "other").exists()


def model(path, **recipe):
    classes = len(recipe.get("labels", (0, 1)))
    config = MedNeXtConfig.variant("S", base_channels=2, in_channels=1, num_classes=classes, deep_supervision=False)
    rng = np.random.default_rng(0)
    state = {key: rng.standard_normal(shape, np.float32) for key, shape in expected_shapes(config).items()}
    return save_model(path, config, from_torch_names(config, state), Recipe(**recipe))


def test_the_chosen_threshold_is_written_into_the_model(study, capsys):
    path = model(study / "model")
    summary = evaluate(
        study / "tool", study / "truth", study / "out", sweep="dice", write_threshold=path, figures=False
    )
    found = summary["thresholds"]["prediction"]
    rows = read_csv(study / "out" / "threshold_sweep.csv")
    best = max(rows, key=lambda row: (float(row["dice"]), -abs(float(row["threshold"]) - 0.5)))
    assert found["threshold"] == float(best["threshold"]) and found["criterion"] == "dice"
    loaded = load_model(path)
    assert loaded.recipe.threshold == found["threshold"]
    assert loaded.provenance["threshold"] == {"before": 0.5, "criterion": "dice", "scans": 5}
    assert 0 < found["expected_calibration_error"] < 1 and len(read_csv(study / "out" / "calibration.csv")) == 20
    assert f"threshold {found['threshold']:g} written into" in capsys.readouterr().out
    # The scores beside are those at 0.5, not at the threshold that these scans chose.
    own = evaluate(study / "tool", study / "truth", study / "own", figures=False)
    assert summary["regions"]["all"]["dice"] == own["regions"]["all"]["dice"]
    assert summary["cases"]["sub-1"]["all"]["average_precision"] > 0.8


def test_a_model_without_a_threshold_is_refused_before_any_work(study):
    path = model(study / "model", labels={"background": 0, "WM": 1, "BG": 2})
    with pytest.raises(InputError, match="most probable class"):
        evaluate(study / "tool", study / "truth", study / "out", sweep="dice", write_threshold=path, figures=False)
    assert not (study / "out").exists()


def test_a_sweep_counts_no_voxel_of_the_ignore_label(study):
    for case in CASES:
        image = nib.load(study / "truth" / f"{case}.nii.gz")
        labels = np.asarray(image.dataobj).copy()
        labels[:, :, 7:] = 2
        save(study / "truth" / f"{case}.nii.gz", labels)
    options = {"sweep": "cluster_dice", "ignore_label": 2, "figures": False}
    found = evaluate(study / "tool", study / "truth", study / "out", **options)["thresholds"]["prediction"]
    assert found["voxels"] == 5 * SHAPE[0] * SHAPE[1] * 7


def test_other_grids_are_brought_over_when_asked(study):
    finer = AFFINE @ np.diag([0.5, 0.5, 0.5, 1])
    for case in CASES:
        image = nib.load(study / "truth" / f"{case}.nii.gz")
        doubled = np.asarray(image.dataobj).repeat(2, 0).repeat(2, 1).repeat(2, 2)
        shifted = finer.copy()
        shifted[:3, 3] -= np.diag(finer)[:3] / 2
        save(study / "finer" / f"{case}.nii.gz", doubled, affine=shifted)
    summary = evaluate({"finer": study / "finer"}, study / "truth", study / "out", resample=True, figures=False)
    assert summary["tools"]["finer"]["regions"]["all"]["dice"]["mean"] == 1
    with pytest.raises(InputError, match="--resample"):
        evaluate({"finer": study / "finer"}, study / "truth", study / "other", figures=False)


REFUSED = {
    "probability maps": ({"predictions": "maps"}, "probability map, not a mask"),
    "no such name": ({"threshold": {"mine": 0.5}}, "name that is not there"),
    "thirty percent": ({"threshold": 30}, "not a probability"),
    "a name twice": ({"raters": {"prediction": "A", "B": "B"}}, "name is there twice"),
    "a rater like the consensus": ({"raters": {"STAPLE": "A", "B": "B"}}, "called like the raters' consensus"),
    "one rater": ({"raters": {"A": "A"}}, "One rater"),
    "raters with other cases": ({"raters": {"A": "A", "maps": "some"}}, "different cases"),
    "nothing to compare with": ({"references": None}, "Nothing says what to evaluate against"),
    "nothing to evaluate": ({"predictions": None}, "Nothing says what to evaluate"),
    "a folder of one rater": ({"raters": "A"}, "One rater"),
    "no tools": ({"predictions": {}}, "no tool"),
    "a threshold without a sweep": ({"write_threshold": "model"}, "no threshold to write"),
    "a sweep of masks": ({"predictions": "truth", "sweep": "dice"}, "not a probability map"),
    "a sweep of something else": ({"sweep": "volume"}, "cannot be chosen"),
    "a model that is none": ({"sweep": "dice", "write_threshold": "truth"}, "not a model directory"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_calls_say_why_and_write_nothing(study, name):
    change, words = REFUSED[name]
    for case in CASES:
        (study / "maps").mkdir(exist_ok=True)
        (study / "maps" / f"{case}.nii.gz").write_bytes((study / "tool" / f"{case}_probability.nii.gz").read_bytes())
    save(study / "some" / "sub-1.nii.gz", np.zeros(SHAPE))
    call = {"predictions": "tool", "references": "truth", "figures": False} | change
    for key in ("predictions", "references", "write_threshold"):
        if isinstance(call.get(key), str):
            call[key] = study / call[key]
    if isinstance(call.get("raters"), dict):
        call["raters"] = {rater: study / folder for rater, folder in call["raters"].items()}
    if isinstance(call.get("raters"), str):
        call["raters"] = study / call["raters"]
    before = files(study)
    with pytest.raises(InputError, match=words):
        evaluate(out=study / "out", **call)
    assert files(study) == before


def test_tools_with_different_cases_are_scored_on_their_own_and_compared_on_both(study, capsys):
    (study / "fewer").mkdir()
    for case in CASES[:3]:
        save(study / "fewer" / f"{case}.nii.gz", np.zeros(SHAPE))
    summary = evaluate(
        {"all of them": study / "tool", "fewer": study / "fewer"}, study / "truth", study / "out", figures=False
    )
    assert summary["tools"]["fewer"]["regions"]["all"]["cases"] == 3
    assert {row["n"] for row in summary["statistics"]["comparisons"] if row["score"] == "dice"} == {3}
    printed = capsys.readouterr().out
    assert (
        "fewer has no mask of 2 of the cases: sub-4, sub-5" in printed and "fewer: 3 empty prediction only" in printed
    )


def test_labels_of_one_tool_and_of_the_reference(study, capsys):
    for case in CASES:
        truth = np.asarray(nib.load(study / "truth" / f"{case}.nii.gz").dataobj)
        labels = np.where(truth > 0, 2, 0)
        labels[0, 0, 0] = 3  # a white matter hyperintensity
        save(study / "several" / f"{case}.nii.gz", labels)
    tools = {"several": study / "several", "tool": study / "tool"}
    summary = evaluate(tools, study / "truth", study / "out", labels={"several": (1, 2)}, figures=False)
    assert summary["tools"]["several"]["regions"]["all"]["dice"]["mean"] == 1
    assert "several values" not in capsys.readouterr().out
    summary = evaluate(study / "truth", study / "several", study / "back", labels={"reference": [2]}, figures=False)
    assert summary["regions"]["all"]["dice"]["mean"] == 1
    summary = evaluate(study / "several", study / "truth", study / "all", figures=False)
    assert summary["regions"]["all"]["dice"]["mean"] < 1 and "several values" in capsys.readouterr().out
