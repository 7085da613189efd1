"""What `python -m mkdocs build -f .mkdocs.yml` is told beside docs/: pages from elsewhere, and links between them all.

A fact has one home. So the site takes pages that lie beside the code they are about, makes the reference of commands
from the parser and that of columns from the tables' own definitions, and notebooks from their cells.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
from mkdocs.structure.files import File, Files
from nbconvert import MarkdownExporter

from mednext_jax.quantify import columns
from tools import command_reference

ROOT = Path(__file__).parents[1]
# Page of the repository -> page of the site.
BROUGHT_IN = {
    "launch/README.md": "launch.md",
    "mednext_jax/kernels/README.md": "kernels.md",
    "mednext_jax/weights/without_labels/README.md": "without_labels_card.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
}
# Pictures of such pages.
PICTURES = {"mednext_jax/weights/without_labels/reliability.png": "without_labels_reliability.png"}
_FROM_REPOSITORY = BROUGHT_IN | PICTURES | {"README.md": "index.md"}
_LINK = re.compile(r"\[([^\[\]]*)\]\((?!https?:|mailto:|#)([^)#\s]+)(#[^)\s]*)?\)")
_TABLES = {
    "Clusters: `CASE_clusters.tsv`": columns.CLUSTERS,
    "Clusters, with `predict --uncertainty`": columns.UNCERTAINTY,
    "Clusters, first in a BIDS derivative": columns.INDEX,
    "Regions: `CASE_regions.tsv`, and `pvs.tsv` with `scan` before them": (columns.SCAN, *columns.REGIONS),
    "Regions, with `predict --uncertainty`": columns.COUNT_UNCERTAINTY,
}


def on_files(files: Files, *, config: Any) -> Files:
    """Add the pages that do not lie in docs/, or are made."""
    made = {"commands.md": command_reference.page(), "columns.md": columns_page()}
    for source, target in BROUGHT_IN.items():
        made[target] = with_links((ROOT / source).read_text(), posixpath.dirname(source), target)
    for notebook in sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")):
        made[f"notebooks/{notebook.stem}.md"] = notebook_page(notebook)
    pictures = {target: (ROOT / source).read_bytes() for source, target in PICTURES.items()}
    for target, content in {**made, **pictures}.items():
        files.append(File.generated(config, target, content=content))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Files) -> str:
    """Turn the links of a page of docs/ to pages that were brought in."""
    return markdown if page.file.generated_by else with_links(markdown, "docs", page.file.src_uri)


def with_links(markdown: str, folder: str, target: str) -> str:
    """A page that lies in `folder` of the repository, with its links as they are on the site's page `target`.

    A link to what is no page of the site, a file of the code, becomes its words.
    """

    def link(found: re.Match[str]) -> str:
        words, path, anchor = found[1], posixpath.normpath(posixpath.join(folder, found[2])), found[3] or ""
        page = _FROM_REPOSITORY.get(path, path.removeprefix("docs/") if path.startswith("docs/") else None)
        if page is None:
            return words
        page = re.sub(r"\.ipynb$", ".md", page)
        return f"[{words}]({posixpath.relpath(page, posixpath.dirname(target) or '.')}{anchor})"

    return _LINK.sub(link, markdown)


def columns_page() -> str:
    """Markdown: every column of the tables of PVS."""
    return "\n".join(_column_lines()) + "\n"


def _column_lines() -> Iterator[str]:
    yield from (
        "# Columns of PVS",
        "",
        "As `clusters.json` and `pvs.json` beside the tables say them, in this version.",
    )
    for title, table in _TABLES.items():
        yield from ("", f"## {title}", "", "| column | unit | meaning |", "| --- | --- | --- |")
        yield from (f"| `{c.name}` | {c.units} | {c.description.replace('|', '&#124;')} |" for c in table)


def notebook_page(path: Path) -> str:
    """Markdown: a notebook's cells, and a link to the notebook itself."""
    text, _ = MarkdownExporter().from_notebook_node(nbformat.read(path, as_version=4))
    return f"{text}\n\n[This page as a notebook]({path.name})\n"
