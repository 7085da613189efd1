"""What the training's labels hold, for a model to tell a scan that is unlike them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mednext_jax.data.case_store import CaseStore
from mednext_jax.measure.clusters import label_clusters


def label_ranges(store: CaseStore, cases: Sequence[str]) -> dict[str, list[float]]:
    """Least and most 26-connected clusters (count) and foreground (volume_mm3) of the `cases` on the prepared grid."""
    values = [value for of_class in store.meta.classes.values() for value in of_class]
    counts, volumes = [], []
    for case in cases:
        mask = np.isin(store.label(case), values)
        counts.append(label_clusters(mask)[1])
        volumes.append(round(float(mask.sum()) * store.voxel_volume(case), 3))
    return {"count": [min(counts), max(counts)], "volume_mm3": [min(volumes), max(volumes)]}
