"""The site builds without a warning, loads nothing from elsewhere, and has every page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("mkdocs")
from mkdocs.commands.build import build
from mkdocs.config import load_config

from mednext_jax.quantify.columns import CLUSTERS, REGIONS
from tools.docs_site import ROOT, columns_page, with_links

pytestmark = pytest.mark.core

LOADED = re.compile(
    r"<(?:script|img|iframe|source|video|audio|embed)\b[^>]*\bsrc=[\"']?((?:https?:)?//[^\s\"'>]+)"
    r"|<link\b(?![^>]*rel=[\"']?canonical)[^>]*\bhref=[\"']?((?:https?:)?//[^\s\"'>]+)"
    r"|(?:url\(|@import )[\"']?((?:https?:)?//[^\s\"')]+)"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    build(load_config(str(ROOT / ".mkdocs.yml"), site_dir=str(folder)))  # strict: a warning ends it
    return folder


def test_no_page_loads_anything_from_elsewhere(site):
    files = [path for ending in ("html", "css") for path in site.rglob(f"*.{ending}")]
    assert len(files) > 30
    assert not [(path.name, found[0]) for path in files if (found := LOADED.search(path.read_text()))]


@pytest.mark.parametrize(
    "text",
    [
        '<script src="https://cdn.org/x.js">',
        "<link rel=stylesheet href=//fonts.org/a.css>",
        "a{background:url(http://a.org/b.png)}",
    ],
)
def test_what_would_be_loaded_is_found(text):
    assert LOADED.search(text)


def test_every_page_is_in_the_site_and_in_its_navigation(site):
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")} | {"commands", "columns", "launch", "kernels"}
    navigation = (site / "index.html").read_text()
    for page in sorted(pages | {"changelog", "contributing"}):
        assert (site / f"{page}.html").is_file() and f'href="{page}.html"' in navigation.replace("./", ""), page


def test_a_page_from_elsewhere_and_a_notebook_are_shown(site):
    assert "sbatch" in (site / "launch.html").read_text()
    assert "predictor" in (site / "notebooks" / "scan_to_table.html").read_text()
    assert (site / "notebooks" / "scan_to_table.ipynb").is_file()


def test_the_picture_of_a_page_from_elsewhere_is_there(site):
    (source,) = re.findall(r'<img [^>]*src="([^"]*reliability[^"]*)"', (site / "without_labels_card.html").read_text())
    assert (site / source).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("written", "folder", "target", "expected"),
    [
        ("[a](docs/inputs.md#labels)", "", "changelog.md", "[a](inputs.md#labels)"),
        ("[a](../launch/README.md#slurm)", "docs", "predict.md", "[a](launch.md#slurm)"),
        ("[a](../README.md)", "docs", "notebooks/x.md", "[a](../index.md)"),
        ("[a](notebooks/x.ipynb)", "docs", "python.md", "[a](notebooks/x.md)"),
        ("![a](report.png)", "docs", "report.md", "![a](report.png)"),
        (
            "![a](reliability.png)",
            "mednext_jax/weights/without_labels",
            "without_labels_card.md",
            "![a](without_labels_reliability.png)",
        ),
        ("[`a`](../mednext_jax/main.py) b", "docs", "options.md", "`a` b"),
        ("[a](https://a.org/b) [c](#d)", "docs", "options.md", "[a](https://a.org/b) [c](#d)"),
    ],
)
def test_links_lead_from_the_site_s_pages(written, folder, target, expected):
    assert with_links(written, folder, target) == expected


def test_the_page_of_columns_has_each_with_its_unit():
    rows = columns_page().splitlines()
    for column in (*CLUSTERS, *REGIONS):
        assert any(row.startswith(f"| `{column.name}` | {column.units} | ") for row in rows)


def test_the_site_needs_no_file_but_a_dot_file_at_the_top():
    assert Path(ROOT / ".mkdocs.yml").is_file() and not list(ROOT.glob("mkdocs.*"))
