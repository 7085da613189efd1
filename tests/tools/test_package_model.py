"""The tool that packages a model: float16, the line, the card with the figures that there are and no others."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from mednext_jax.errors import InputError
from mednext_jax.weights import packaged
from mednext_jax.weights.directory import load_model, save_model
from mednext_jax.weights.names import expected_shapes, from_torch_names
from mednext_jax.weights.recipe import Recipe
from tests.inference.conftest import CONFIG
from tools import package_model
from tools.tables import CALIBRATION, RELIABILITY, Table, as_json, read_tables

pytestmark = pytest.mark.core

TABLE = (
    {"contrast": "FLAIR", "largest_voxel": 6.0, "threshold": 0.4},
    {"contrast": "T1w", "largest_voxel": 1.2, "threshold": 0.3},
)


@pytest.fixture
def model(tmp_path):
    rng = np.random.default_rng(0)
    state = {key: rng.normal(0, 0.4, shape).astype(np.float32) for key, shape in expected_shapes(CONFIG).items()}
    recipe = Recipe(channel_names=("MRI",), thresholds=TABLE, temperature=1.3)
    config = {"data": "/home/me/prepared", "seed": 0, "init_from": "/home/me/first"}
    about = {"steps": 1000, "data_set": {"name": "heads"}, "config": config}
    return save_model(tmp_path / "model", CONFIG, from_torch_names(CONFIG, state), recipe, about)


def test_a_model_is_packaged_with_what_is_known_of_it(model, tmp_path):
    (model / CALIBRATION).write_text(as_json([Table("Thresholds", "Chosen.", ("a", "b"), [("1", "2")])]))
    (tmp_path / "real.json").write_text(as_json([Table("Real scans", "Six.", ("scan",), [("x",)])]))
    target = tmp_path / "target"
    target.mkdir()
    (target / "old").write_text("of the model before")
    (tmp_path / "summary.tsv").write_text("case\ttubes\trecall_above_15\nms19_T1\t140\t0.472\n")
    (tmp_path / "agreement.tsv").write_text("case\tratio\nms19_T1\t13.5\n")
    figures = [tmp_path / "real.json"]
    package_model.package(model, figures, "maps of X (a licence)", target, real=tmp_path, scans="Two people")
    new, old = load_model(target), load_model(model)
    assert (new.config, new.recipe) == (old.config, old.recipe)
    halved = old.params["stem"]["kernel"].astype(np.float16)
    np.testing.assert_array_equal(new.params["stem"]["kernel"], halved)
    line = "trained on simulated PVS only, not validated on patients; for T1w, FLAIR, voxels up to 6 mm"
    assert new.provenance["notice"] == line
    assert new.provenance["config"] == {"data": "prepared", "seed": 0, "init_from": "first"}
    text = (target / "README.md").read_text()
    for words in (
        line,
        "1,000 steps, from the weights of first\n",
        "trained on heads",
        "| a | b |\n| --- | --- |\n| 1 | 2 |",
        "## Real scans",
        "Two people. By `tools.bench_real`",
        "| ms19_T1 | 0.472 |",
        "| ms19_T1 | 13.5 |",
    ):
        assert words in text
    assert "maps of X (a licence)" in text and "0.26 over twelve cohorts" in text
    assert sorted(p.name for p in target.iterdir()) == ["README.md", "figures.json", "model.json", "model.safetensors"]
    assert [table.title for table in read_tables(target / "figures.json")] == [
        "Thresholds", "Real scans", "Real scans, of which nobody knows the PVS",
        "Agreement between contrasts of one person",
    ]  # fmt: skip


def test_without_figures_the_card_has_no_table(model, tmp_path):
    package_model.package(model, target=tmp_path / "target")
    assert "|" not in (tmp_path / "target" / "README.md").read_text()
    assert not (tmp_path / "target" / "figures.json").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "summary.tsv"),
        ("", "empty"),
        ("scan\tx\n1\t2\n", "none of tools.bench_real"),
        ("case\tx\n1\n", "none of"),
    ],
)
def test_a_folder_of_no_bench_leaves_the_packaged_model(model, tmp_path, text, words):
    if text is not None:
        (tmp_path / "summary.tsv").write_text(text)
    with pytest.raises(InputError, match=words):
        package_model.package(model, target=tmp_path / "target", real=tmp_path)
    assert not (tmp_path / "target").exists()


def test_one_contrast_alone_has_no_table_of_agreement(model, tmp_path):
    (tmp_path / "summary.tsv").write_text("case\trecall\na\t0.4\n")
    (tmp_path / "agreement.tsv").write_text("\n")  # as the bench leaves it
    package_model.package(model, target=tmp_path / "target", real=tmp_path)
    assert "Agreement" not in (tmp_path / "target" / "README.md").read_text()


BINS = Table(
    RELIABILITY,
    "Temperature 2.",
    ("probability", "voxels before", "PVS among them", "voxels after", "PVS among them after"),
    [("0 to 0.5", "1,000", "0.100", "900", "0.200"), ("0.5 to 1", "0", "nan", "100", "0.700")],
)


def test_the_reliability_curve_is_drawn_beside_the_card(model, tmp_path):
    pytest.importorskip("matplotlib")
    from tools.reliability_picture import curves_of

    (model / CALIBRATION).write_text(as_json([BINS]))
    for target in ("one", "two"):
        package_model.package(model, target=tmp_path / target)
    one, two = ((tmp_path / target / "reliability.png").read_bytes() for target in ("one", "two"))
    assert one == two and one.startswith(b"\x89PNG")
    assert "(reliability.png)\n" in (tmp_path / "one" / "README.md").read_text()
    middles, curves = curves_of(BINS)
    assert middles == [0.25, 0.75]
    np.testing.assert_equal(curves, {"before": [0.1, np.nan], "after": [0.2, 0.7]})


def test_a_table_of_other_bins_leaves_the_packaged_model(model, tmp_path):
    pytest.importorskip("matplotlib")
    target = package_model.package(model, target=tmp_path / "target")
    before = sorted((p.name, p.read_bytes()) for p in target.iterdir())
    (model / CALIBRATION).write_text(as_json([Table(RELIABILITY, "", ("a", "b"), [("0 to 1", "2")])]))
    with pytest.raises(InputError, match="bins cannot be drawn"):
        package_model.package(model, target=target)
    assert sorted((p.name, p.read_bytes()) for p in target.iterdir()) == before
    assert not list(tmp_path.glob("*.new"))


def test_without_matplotlib_the_card_with_a_curve_is_refused(model, tmp_path, monkeypatch):
    (model / CALIBRATION).write_text(as_json([BINS]))
    monkeypatch.setitem(sys.modules, "tools.reliability_picture", None)
    with pytest.raises(InputError, match=r"(?s)matplotlib.*mednext-jax\[evaluate\]"):
        package_model.package(model, target=tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_a_model_that_does_not_fit_leaves_the_packaged_one(model, tmp_path, monkeypatch):
    package_model.package(model, target=tmp_path / "target")
    before = (tmp_path / "target" / "model.safetensors").read_bytes()
    monkeypatch.setattr(package_model, "LARGEST", 1000)
    with pytest.raises(InputError, match="too large for the package"):
        package_model.package(model, target=tmp_path / "target")
    (tmp_path / "wrong.json").write_text('{"tables": [{"title": "no rows"}]}')
    with pytest.raises(InputError, match="no tables"):
        package_model.package(model, [tmp_path / "wrong.json"], target=tmp_path / "target")
    assert (tmp_path / "target" / "model.safetensors").read_bytes() == before
    assert not list(tmp_path.glob("*.new")) and packaged.LARGEST <= 12e6
