"""A test that is skipped for a reason that nobody wrote down fails."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.core

CONFTEST = (Path(__file__).parent / "conftest.py").read_text()


def outcome(folder, body):
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_it.py").write_text(body)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder)]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder).stdout


def test_an_unknown_reason_fails(tmp_path):
    said = outcome(tmp_path, "import pytest\ndef test_a():\n    pytest.skip('not today')\n")
    assert "1 failed" in said and "not today" in said


def test_an_unknown_package_fails_the_whole_file(tmp_path):
    said = outcome(tmp_path, "import pytest\npytest.importorskip('surely_not_there')\ndef test_a():\n    pass\n")
    assert "1 error" in said and "surely_not_there" in said


def test_a_known_reason_is_skipped(tmp_path):
    body = "import pytest\ndef test_a():\n    pytest.skip('this user may not mount a small disk')\n"
    assert "1 skipped" in outcome(tmp_path, body)
