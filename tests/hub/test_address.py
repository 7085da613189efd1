"""What is an address of a model, and what is refused before anybody is asked."""

from __future__ import annotations

import pytest

from mednext_jax.errors import InputError
from mednext_jax.hub.address import is_address, is_safe, parse_address

pytestmark = pytest.mark.core

PIN = "ab" * 32


def test_a_repository_and_its_revision():
    one = parse_address("hf://my-lab/pvs.v2")
    assert (one.repository, one.revision) == ("my-lab/pvs.v2", None)
    assert parse_address("hf://lab/pvs@refs/pr/1").revision == "refs/pr/1"
    assert parse_address("hf://lab/pvs@v1").key != one.key


def test_a_file_and_its_checksum():
    one = parse_address(f"https://example.org/a/w%20eights.pt?x=1#sha256={PIN.upper()}")
    assert (one.sha256, one.text) == (PIN, "https://example.org/a/w%20eights.pt?x=1")
    assert one.file_name == "file"  # a space is no part of a name
    assert parse_address("https://example.org/a/model.zip").file_name == "model.zip"
    assert parse_address("https://example.org/..").file_name == "file"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("hf://only-a-name", "not fetched from"),
        ("hf://a/../b", "not fetched from"),
        ("hf://a/b/c", "not fetched from"),
        ("ftp://example.org/m.pt", "not fetched from"),
        ("file:///etc/passwd", "not fetched from"),
        ("https://", "not fetched from"),
        ("https://[bad/m.pt", "not fetched from"),
        ("https://example.org/m.pt#sha256=12", "checksum of the address"),
        ("https://example.org/m.pt#part", "checksum of the address"),
        ("http://example.org/m.pt", "changed on its way"),
        ("http://127.0.0.1.example.org/m.pt", "changed on its way"),
    ],
)
def test_what_is_refused(text, words):
    assert is_address(text)
    with pytest.raises(InputError, match=words):
        parse_address(text)


def test_a_password_is_refused_and_not_shown():
    with pytest.raises(InputError, match="netrc") as caught:
        parse_address("https://me:secret@example.org/m.pt")
    assert "secret" not in str(caught.value)


def test_http_is_taken_where_nobody_can_meddle():
    assert parse_address("http://localhost:8000/m.pt").repository is None
    assert parse_address("http://[::1]:8000/m.pt").sha256 is None
    assert parse_address(f"http://example.org/m.pt#sha256={PIN}").sha256 == PIN
    assert not is_safe("http://example.org/m.pt", pinned=False)


@pytest.mark.parametrize("text", ["model", "./a", "C:/models", "a:b", "fold_0/model_final_checkpoint.model"])
def test_a_path_is_none(text):
    assert not is_address(text)
