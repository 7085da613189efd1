"""The page's frame: what is escaped, what the policy allows, how a page is known again."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re

import pytest

from mednext_jax.report.page import data_block, link, made_from, text, write_page

pytestmark = pytest.mark.core


@pytest.fixture
def page(tmp_path):
    path = tmp_path / "a.html"
    write_page(path, "A <b>title</b>", "<p>head</p>", {"One": '<section id="one"></section>'}, ("table.js",), "f" * 64)
    return path


def test_the_policy_names_this_page_s_own_style_and_script_alone(page):
    content = page.read_text()
    policy = html.unescape(re.search(r'Content-Security-Policy" content="([^"]+)"', content)[1])
    for tag in ("style", "script"):
        (inside,) = re.findall(rf"<{tag}>(.*?)</{tag}>", content, re.S)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'; img-src data:") and "unsafe" not in policy
    assert "<title>A &lt;b&gt;title&lt;/b&gt;</title>" in content
    assert " style=" not in content and " onclick" not in content


def test_a_page_is_known_again(page, tmp_path):
    assert made_from(page) == "f" * 64
    (tmp_path / "mine.html").write_text("<title>mine</title>")
    assert made_from(tmp_path / "mine.html") is None and made_from(tmp_path / "none.html") is None


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("a b_report.html", "./a%20b_report.html"),
        ("javascript:alert(1)", "./javascript%3Aalert%281%29"),
        ('"><script>', "./%22%3E%3Cscript%3E"),
        ("../../report.html", "./../../report.html"),
        ("a\udcff.html", "./a%FF.html"),
    ],
)
def test_an_address_leads_to_the_file_and_is_no_other_kind(name, address):
    assert link(name) == address


def test_text_is_shown_as_it_is_and_data_cannot_end_its_block():
    assert text("<i>\x1b[31m\u202e\udcff&") == "&lt;i&gt;\\x1b[31m\\u202e\\udcff&amp;"
    value = {"name": "</script><!--<script>&", "other": "\udcff\u2028"}
    block = data_block("about", value)
    assert block.count("<") == 2 and block.endswith("</script>")
    assert json.loads(block.split(">", 1)[1].rsplit("<", 1)[0]) == value
