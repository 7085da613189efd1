"""One self-contained HTML page: escaped text, inline style and script, and a policy that lets nothing else in."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mednext_jax.errors import shown
from mednext_jax.version import __version__

ASSETS = Path(__file__).parent
GENERATOR = "mednext-jax report"
NOT_CLINICAL = "Research software. Not for clinical use: nothing on this page may guide a patient's care."
CITATIONS = (
    "Low Z. X. B. et al. MedNet-PVS: A MedNeXt-Based Deep Learning Model for Automated Segmentation of Perivascular "
    "Spaces. arXiv:2508.20256, 2025.",
    "Roy S. et al. MedNeXt: Transformer-driven Scaling of ConvNets for Medical Image Segmentation. MICCAI 2023.",
)


def text(value: object) -> str:
    """A text from a file or its name as HTML that shows it: controls as escapes, no markup."""
    return html.escape(shown(value))


def link(path: str) -> str:
    """A relative path as an address that cannot be taken for another kind (javascript:, http:)."""
    return html.escape("./" + quote(os.fsencode(path)))


def data_block(name: str, value: Any) -> str:
    """JSON for the page's script; what could end the block is written as an escape."""
    content = json.dumps(value, allow_nan=False)
    for character in "<>&":
        content = content.replace(character, f"\\u{ord(character):04x}")
    return f'<script type="application/json" id="{name}">{content}</script>'


def section(name: str, title: str, body: str) -> str:
    """A part of the page with its heading."""
    return (
        f'<section id="{name}" aria-labelledby="{name}-title"><h2 id="{name}-title">{text(title)}</h2>{body}</section>'
    )


def facts(rows: Iterable[tuple[str, object]]) -> str:
    """Names and values as a list of terms."""
    items = "".join(f"<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>" for name, value in rows)
    return f'<dl class="facts">{items}</dl>'


def key_figures(figures: Sequence[tuple[str, str, str]]) -> str:
    """(name, value, unit or remark) in large letters."""
    items = "".join(
        f"<div><dt>{text(name)}</dt><dd><strong>{text(value)}</strong> <span>{text(unit)}</span></dd></div>"
        for name, value, unit in figures
    )
    return f'<dl class="figures">{items}</dl>'


def how_to_cite() -> str:
    """The section on citing."""
    items = "".join(f"<li>{text(entry)}</li>" for entry in CITATIONS)
    software = f"<li>mednext_jax {text(__version__)}, the software that segmented and made this page.</li>"
    return section("cite", "How to cite", f"<ul>{items}{software}</ul>")


def write_page(
    path: Path, title: str, head: str, sections: Mapping[str, str], scripts: Sequence[str], made_from: str
) -> None:
    """Write a page; its size in bytes is that of its parts.

    head: HTML below the title. sections: name of a section in the navigation -> its HTML (with the id of the name in
    small letters). scripts: files of this room. made_from: what tells whether an existing page is the same.
    """
    style = (ASSETS / "page.css").read_text(encoding="utf-8")
    script = "\n".join((ASSETS / name).read_text(encoding="utf-8") for name in scripts)
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    links = "".join(f'<li><a href="#{_name(body)}">{text(name)}</a></li>' for name, body in sections.items())
    parts = (
        "<!DOCTYPE html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{html.escape(policy)}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<meta name="generator" content="{GENERATOR} {text(__version__)}">',
        f'<meta name="made-from" content="{made_from}">',
        f"<title>{text(title)}</title>",
        f"<style>{style}</style>",
        "</head>",
        "<body>",
        '<a class="skip" href="#content">Skip to the content</a>',
        f'<p class="not-clinical" role="note">{NOT_CLINICAL}</p>',
        f"<header><h1>{text(title)}</h1>{head}</header>",
        f'<nav aria-label="Parts of this page"><ul>{links}</ul></nav>',
        f'<main id="content">{"".join(sections.values())}</main>',
        f"<footer><p>Made with mednext_jax {text(__version__)}. {NOT_CLINICAL}</p></footer>",
        f"<script>{script}</script>",
        "</body>",
        "</html>",
        "",
    )
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n".join(parts))


def made_from(path: Path) -> str | None:
    """What an existing page was made from; None if it is no page of this command."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            start = file.read(4096)
    except OSError:
        return None
    if f'<meta name="generator" content="{GENERATOR} ' not in start:
        return None
    mark = '<meta name="made-from" content="'
    return start.split(mark, 1)[1].split('"', 1)[0] if mark in start else None


def _name(body: str) -> str:
    return body.split('id="', 1)[1].split('"', 1)[0]


def _hash(content: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode("utf-8")).digest()).decode("ascii")
