"""Arguments of tools, and how a tool ends that cannot go on."""

from __future__ import annotations

import argparse

import pytest

from mednext_jax.errors import InputError, WorkError
from tools.arguments import above_zero, told_in_words, whole

pytestmark = pytest.mark.core


def test_numbers_in_their_range_are_taken_and_others_named():
    assert whole(1)("12") == 12 and above_zero("3e-4") == 3e-4
    for kind, text in ((whole(1), "0"), (whole(0), "1.5"), (above_zero, "0"), (above_zero, "nan"), (above_zero, "inf")):
        with pytest.raises(argparse.ArgumentTypeError, match=f"found '{text}'"):
            kind(text)


@pytest.mark.parametrize(
    ("error", "status"), [(InputError("It is wrong."), 2), (WorkError("It failed."), 1), (OSError(28, "No space"), 1)]
)
def test_a_tool_ends_with_what_is_wrong_and_the_command_s_status(capsys, error, status):
    with pytest.raises(SystemExit) as end, told_in_words("tool"):
        raise error
    assert end.value.code == status
    told = capsys.readouterr().err
    assert told.startswith("tool: ") and "Traceback" not in told
