"""The list of scans: what is written is read, and a hostile list reaches nothing outside of its folder."""

from __future__ import annotations

import json

import pytest

from mednext_jax.errors import InputError
from mednext_jax.io.scan_list import ListedScan, read_scan_list, write_scan_list

pytestmark = pytest.mark.core

SCANS = [
    ListedScan("a", ("/scans/a_0000.nii.gz", "/scans/a_0001.nii.gz"), "a_mask.nii.gz", "a_probability.nii.gz"),
    ListedScan("b\udcff\t\n", problem="The scan is constant.\n  file: b"),
]


def test_what_is_written_is_read(tmp_path):
    write_scan_list(tmp_path / "scans.json", SCANS)
    assert read_scan_list(tmp_path / "scans.json") == SCANS


@pytest.mark.parametrize("output", ["/etc/passwd", "../x_mask.nii.gz", "sub-01/../../x.nii.gz"])
def test_an_output_outside_of_the_folder_is_refused(tmp_path, output):
    write_scan_list(tmp_path / "scans.json", [ListedScan("a", mask=output)])
    with pytest.raises(InputError, match="outside its folder"):
        read_scan_list(tmp_path / "scans.json")


@pytest.mark.parametrize(
    "content",
    [[], {"scans": [{"case": "a"}]}, {"scans": [{"case": 1, "files": []}]}, {"scans": [{"files": [], "mine": 2}]}, {}],
)
def test_another_file_is_not_understood(tmp_path, content):
    (tmp_path / "scans.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="not understood"):
        read_scan_list(tmp_path / "scans.json")
