"""A small brain of boxes with FreeSurfer's numbers, for tests: 2 mm voxels, (x, y, z) to the right, front and up."""

from __future__ import annotations

import numpy as np

AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])
AFFINE[:3, 3] = [-40, -40, -40]


def brain(*, lobes: bool = False) -> np.ndarray:
    """int16 (40, 40, 40): cortex around white matter, ventricles in its middle, nuclei below; midline at x = 0 mm."""
    values = np.zeros((40, 40, 40), np.int16)
    for white, cortex, lateral, nuclei, half in (
        (2, 3, 4, {11: (16, 18), 12: (10, 13), 10: (16, 19)}, slice(2, 20)),
        (41, 42, 43, {50: (22, 24), 51: (27, 30), 49: (21, 24)}, slice(20, 38)),
    ):
        values[half, 2:38, 2:38] = cortex
        inner = slice(half.start + (2 if half.start == 2 else 0), half.stop - (2 if half.stop == 38 else 0))
        values[inner, 4:36, 4:36] = white
        middle = slice(17, 20) if white == 2 else slice(20, 23)
        values[middle, 12:28, 22:27] = lateral
        for (number, (low, high)), front in zip(
            nuclei.items(), (slice(22, 26), slice(18, 26), slice(12, 18)), strict=True
        ):
            values[low:high, front, 14:18] = number
    values[0:2] = 24
    if lobes:
        white = np.isin(values, (2, 41))
        number = np.where(np.arange(40) >= 20, 28, 11)[
            None, :, None
        ]  # superior frontal before, lateral occipital behind
        values = np.where(white, number + np.where(values == 2, 3000, 4000), values).astype(np.int16)
    return values
