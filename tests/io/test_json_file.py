"""JSON of strangers: what would break a reader later is refused at once, and the file is named."""

from __future__ import annotations

import pytest

from mednext_jax.errors import InputError
from mednext_jax.io.json_file import MAX_DEPTH, read_json

pytestmark = pytest.mark.core


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        ("{", "not valid JSON"),
        ('{"a": 1, "a": 2}', "twice"),
        ("[NaN]", "NaN is no JSON number"),
        ("[1e999]", "beyond float64"),
        ("[-1e400]", "beyond float64"),
        (f"[{2**63}]", "beyond 64 bits"),
        (f"[-{'9' * 5000}]", "beyond 64 bits"),
        ("[" * 100_000, "not valid JSON(.|\n)*too deep"),
        ('{"a":' * 100 + "1" + "}" * 100, "nested too deep"),
        ('"\xff"', "not valid JSON"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 3\n", "git lfs pull"),
        ("/annex/objects/MD5E-s12--aa.json\n", "datalad get"),
    ],
)
def test_a_bad_file_is_named_with_what_is_wrong(tmp_path, text, words):
    path = tmp_path / "a.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=words) as error:
        read_json(path)
    assert str(path) in str(error.value)


def test_what_is_sound_is_read(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(
        f'{{"n": [{2**63 - 1}, -{2**63}, 1e308, -0.5], "deep": {"[" * (MAX_DEPTH - 2) + "]" * (MAX_DEPTH - 2)}}}'
    )
    value = read_json(path)
    assert value["n"] == [2**63 - 1, -(2**63), 1e308, -0.5]


def test_a_link_to_nowhere_says_how_to_get_the_file(tmp_path):
    path = tmp_path / "a.json"
    path.symlink_to(".git/annex/objects/x9/25/MD5E-s1--aa.json")
    with pytest.raises(InputError, match="datalad get"):
        read_json(path)
