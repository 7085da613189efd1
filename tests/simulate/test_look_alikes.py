"""Sheets of fluid in sulci that a label map has closed."""

from __future__ import annotations

import numpy as np
import pytest

from mednext_jax.simulate import tissues
from mednext_jax.simulate.look_alikes import fluid_between_banks

pytestmark = pytest.mark.core


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_closed_sulcus_has_fluid_in_its_middle_and_a_surface_has_none(axis):
    """White matter to 8, cortex of two banks to 14, white matter to 22, cortex of one bank to 25, then fluid."""
    along = np.select(
        [np.arange(32) < end for end in (8, 14, 22, 25)],
        [tissues.WHITE_MATTER, tissues.CORTEX, tissues.WHITE_MATTER, tissues.CORTEX],
        tissues.FLUID,
    )
    tissue = np.moveaxis(np.broadcast_to(along, (32, 32, 32)), 2, axis)
    sheet = np.asarray(fluid_between_banks(tissue))
    assert sheet.shape == tissue.shape and sheet.min() == 0 and sheet.max() <= 1
    line = np.moveaxis(sheet, axis, 2)[16, 16]  # away from the ends, where the patch is cut off
    assert (line[[10, 11]] > 0.3).all()  # the two middle voxels of six
    assert line[10] == pytest.approx(line[11], abs=1e-4)  # float32 sums in another order
    assert not np.delete(line, [10, 11]).any()


def test_nothing_but_cortex_is_opened():
    tissue = np.random.default_rng(0).integers(0, len(tissues.TISSUES), (16, 16, 16))
    assert not np.asarray(fluid_between_banks(tissue))[tissue != tissues.CORTEX].any()
