"""Tables from strangers: read as they are meant, or refused with the file's name."""

from __future__ import annotations

import pytest

from mednext_jax.errors import InputError
from mednext_jax.io import table_file
from mednext_jax.io.table_file import read_table

pytestmark = pytest.mark.core


def test_cells_that_are_absent_are_empty_and_those_without_a_column_are_left_out(tmp_path):
    path = tmp_path / "participants.tsv"
    path.write_bytes(b"\xef\xbb\xbfparticipant_id\tsite\nsub-1\tA\tmore\nsub-2\nsub-\xe9\tB\n")
    columns, rows = read_table(path)
    assert columns == ("participant_id", "site")
    assert rows == [
        {"participant_id": "sub-1", "site": "A"},
        {"participant_id": "sub-2", "site": ""},
        {"participant_id": "sub-\ufffd", "site": "B"},
    ]
    assert read_table(path, errors="surrogateescape")[1][2]["participant_id"] == "sub-\udce9"
    path.write_text("\n\n")
    assert read_table(path) == ((), [])


def test_what_is_no_table_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "participants.tsv"
    path.write_text("participant_id\n" + "x" * 200_000)
    with pytest.raises(InputError, match="(?s)cannot be read.*participants.tsv.*limit"):
        read_table(path)
    monkeypatch.setattr(table_file, "LIMIT", 1000)
    with pytest.raises(InputError, match="too large"):
        read_table(path)
