"""Where the foreground of a case lies, drawn once so that training can centre patches on it (nnU-Net's rule)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

SEED = 1234
MOST_VOXELS = 10_000
LEAST_SHARE = 0.01


def draw_foreground(label: np.ndarray, classes: Mapping[int, Sequence[int]]) -> dict[int, np.ndarray]:
    """Class -> voxels (n, 3) int32 (d, h, w) drawn without replacement; classes that are absent are left out.

    `label` integers (d, h, w); `classes` number -> the label values it is made of. At most 10 000 voxels of a class,
    or 1 % of it if that is more. Same voxels as nnU-Net 2.8's `_sample_foreground_locations`.
    """
    random = np.random.RandomState(SEED)
    wanted = sorted({value for values in classes.values() for value in values})
    coordinates = {}
    inside = np.isin(label, wanted)
    voxels, values = np.argwhere(inside).astype(np.int32), label[inside]
    for value in wanted:
        coordinates[value] = voxels[values == value]
    found = {}
    for name, parts in classes.items():
        whole = np.concatenate([coordinates[value] for value in parts])
        if len(whole):
            count = max(min(MOST_VOXELS, len(whole)), int(np.ceil(len(whole) * LEAST_SHARE)))
            found[name] = whole[random.choice(len(whole), count, replace=False)]
    return found
