"""The tool that packages a model: float16, the line, the card with the figures that there are and no others."""

from __future__ import annotations

import numpy as np
import pytest

from mednext_jax.errors import InputError
from mednext_jax.weights import packaged
from mednext_jax.weights.directory import load_model, save_model
from mednext_jax.weights.names import expected_shapes, from_torch_names
from mednext_jax.weights.recipe import Recipe
from tests.inference.conftest import CONFIG
from tools import package_model
from tools.tables import CALIBRATION, Table, as_json, read_tables

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
    about = {"steps": 1000, "data_set": {"name": "heads"}, "config": {"data": "/home/me/prepared", "seed": 0}}
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
    assert new.provenance["notice"] == line and new.provenance["config"] == {"data": "prepared", "seed": 0}
    text = (target / "README.md").read_text()
    for words in (
        line,
        "1,000 steps",
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
