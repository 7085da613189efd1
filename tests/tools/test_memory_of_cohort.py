"""The watch over a cohort sees each scan once, with figures of this process."""

from __future__ import annotations

import pytest

from mednext_jax.inference.stream import READERS, WRITERS
from tools.memory_of_cohort import around, watch

pytestmark = pytest.mark.core


def test_each_scan_is_measured(tmp_path):
    found = watch(tmp_path, 4)
    assert len(found) == 4 and len(list((tmp_path / "out").glob("*_mask.nii.gz"))) == 4
    memory, handles, threads = found[-1]
    assert memory > 2**26 and handles >= 3 and threads >= 2
    assert abs(found[-1][1] - found[0][1]) <= READERS + WRITERS  # but for the files that threads have open


def test_medians_of_the_last_scans():
    found = [(i, 2 * i, 3) for i in range(1, 101)]
    assert around(found, 100) == [90.5, 181, 3] and around(found, 10) == [5.5, 11, 3]
