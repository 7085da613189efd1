"""Outputs appear whole or not at all, and nothing of the user's is overwritten unasked."""

from __future__ import annotations

import pytest

from mednext_jax.errors import InputError
from mednext_jax.io.atomic import atomic_directory, atomic_file, refuse_existing

pytestmark = pytest.mark.core


def test_a_file_appears_whole(tmp_path):
    target = tmp_path / "new" / "mask.nii.gz"
    with atomic_file(target) as temporary:
        assert temporary.name.endswith(".nii.gz") and temporary.parent == target.parent
        temporary.write_bytes(b"whole")
        assert not target.exists()
    assert target.read_bytes() == b"whole"
    assert list(target.parent.iterdir()) == [target]


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path):
    target = tmp_path / "table.csv"
    target.write_text("old")
    with pytest.raises(RuntimeError), atomic_file(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    with pytest.raises(RuntimeError), atomic_directory(tmp_path / "model") as temporary:
        (temporary / "part").write_text("half")
        raise RuntimeError
    assert not list(tmp_path.iterdir())
    with atomic_directory(tmp_path / "model") as temporary:
        (temporary / "part").write_text("whole")
    assert (tmp_path / "model" / "part").read_text() == "whole"
    assert (tmp_path / "model").stat().st_mode & 0o700 == 0o700


def test_existing_output_is_refused(tmp_path):
    refuse_existing(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    refuse_existing(tmp_path / "empty")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "data").write_text("precious")
    for target in (tmp_path / "full", tmp_path / "full" / "data"):
        with pytest.raises(InputError, match="not overwritten"):
            refuse_existing(target)
    assert (tmp_path / "full" / "data").read_text() == "precious"
