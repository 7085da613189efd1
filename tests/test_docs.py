"""The pages: links lead somewhere, and the references of files name every field and column."""

from __future__ import annotations

import dataclasses
import json
import re
import tomllib
from pathlib import Path

import pytest

from mednext_jax.data.prepared import _NAMES, PreparedMeta
from mednext_jax.inference.cohort_tables import COLUMNS, FAILED_COLUMNS
from mednext_jax.model.config import MedNeXtConfig
from mednext_jax.train.log import EPOCH_COLUMNS, STEP_COLUMNS
from mednext_jax.weights.recipe import Recipe

pytestmark = pytest.mark.core

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "launch/README.md")),
    *DOCS.glob("*.md"),
]
MADE = {"commands.md", "columns.md"}  # when the site is built, by tools.docs_site


def fields_on(page: str, *sections: str) -> dict[str, str]:
    """Name -> row of the first cells' names in the tables of a page, or of some sections of it."""
    text = (DOCS / page).read_text()
    if sections:
        text = "".join(re.search(rf"^## {s}\n(.*?)(?=^## |\Z)", text, re.M | re.S)[1] for s in sections)
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    return {name: row for row in rows for name in re.findall(r"`([\w.]+)`", row.split(" | ")[0])}


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 110


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text()):
        assert (page.parent / target).exists() or (page.parent == DOCS and target in MADE), target


def test_every_field_of_a_model_is_explained():
    for values, section in ((MedNeXtConfig(), "architecture"), (Recipe(), "recipe")):
        assert set(fields_on("model_json.md", section)) == {field.name for field in dataclasses.fields(values)}


def test_the_defaults_of_a_recipe_are_the_code_s():
    rows = fields_on("model_json.md", "recipe")
    for name, value in Recipe().to_dict().items():
        said = rows[name].split(" | ")[1].strip("`")
        assert said == (value if isinstance(value, str) else json.dumps(value)), name


def test_every_field_of_a_prepared_data_set_is_explained():
    former = {field: stored for stored, field in _NAMES.items()}  # as it is called in the file
    stored = {former.get(field.name, field.name) for field in dataclasses.fields(PreparedMeta)}
    assert set(fields_on("prepared_json.md")) == stored | {"format", "format_version"}


def test_every_column_of_the_small_tables_is_explained():
    assert set(COLUMNS) <= set(fields_on("outputs.md", "predict"))
    assert set(FAILED_COLUMNS) <= set(fields_on("cohorts.md", "What fails"))
    assert set(EPOCH_COLUMNS) <= set(fields_on("outputs.md", "train"))
    (row,) = [line for line in (DOCS / "outputs.md").read_text().splitlines() if line.startswith("| `steps.csv`")]
    assert set(STEP_COLUMNS) <= set(re.findall(r"`(\w+)`", row))


def test_every_extra_is_explained():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    said = re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", (DOCS / "install.md").read_text(), re.M)))
    assert set(project["optional-dependencies"]) == set(said)
