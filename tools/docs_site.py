"""What `mkdocs build -f .mkdocs.yml` is told beside the pages of docs/: pages from elsewhere, and links between them.

A fact has one home, so the site takes the pages that lie beside the code they are about, makes the page of commands
from the parser, and notebooks from their cells.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

import nbformat
from mkdocs.structure.files import File, Files
from nbconvert import MarkdownExporter

from tools import command_reference

ROOT = Path(__file__).parents[1]
# Page of the repository -> page of the site.
BROUGHT_IN = {
    "launch/README.md": "launch.md",
    "mednext_jax/kernels/README.md": "kernels.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
}
COMMANDS = "commands.md"
_FROM_REPOSITORY = BROUGHT_IN | {"README.md": "index.md"}
_LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, *, config: Any) -> Files:
    """Add the pages that are not in docs/."""
    for source, target in BROUGHT_IN.items():
        text = _linked((ROOT / source).read_text(), posixpath.dirname(source), target)
        files.append(File.generated(config, target, content=text))
    files.append(File.generated(config, COMMANDS, content=command_reference.page()))
    for notebook in sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")):
        files.append(File.generated(config, f"notebooks/{notebook.stem}.md", content=_notebook(notebook)))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Files) -> str:
    """The page of docs/ with its links to pages that were brought in."""
    if page.file.generated_by:
        return markdown
    return _linked(markdown, "docs", page.file.src_uri)


def _linked(markdown: str, folder: str, target: str) -> str:
    """Links of a page that lies in `folder` of the repository, as they are on the site's page `target`.

    What is no page of the site (a file of the code) stays as words without a link.
    """

    def link(found: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(folder, found[1]))
        if (ROOT / path).is_dir():
            path = posixpath.join(path, "README.md")
        page = _FROM_REPOSITORY.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else None)
        if page is None:
            return "]"
        return f"]({posixpath.relpath(page, posixpath.dirname(target) or '.')}{found[2] or ''})"

    # A link without a target, `[words]`, loses its brackets.
    return re.sub(r"\[([^\[\]]*)\](?=\x00)\x00", r"\1", _LINK.sub(lambda f: _mark(link(f)), markdown))


def _mark(link: str) -> str:
    return "]\x00" if link == "]" else link


def _notebook(path: Path) -> str:
    """A notebook's cells as a page, with a link to the notebook itself."""
    text, _ = MarkdownExporter().from_notebook_node(nbformat.read(path, as_version=4))
    return f"{text}\n\n[This page as a notebook]({path.name})\n"
