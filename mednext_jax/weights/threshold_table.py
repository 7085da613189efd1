"""A model's table of thresholds: rows of contrast, largest voxel and threshold, of which each scan gets one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mednext_jax.io.contrast import CONTRASTS
from mednext_jax.preprocess.preprocessing import is_number

ThresholdRow = Mapping[str, Any]
KEYS = ("contrast", "largest_voxel", "threshold")
EXPECTED = (
    f"rows, each pair of contrast and largest_voxel once, of contrast ({', '.join(CONTRASTS)}, or null: any), "
    "largest_voxel (mm above 0, or null: any) and threshold (between 0 and 1); none for a model that decides by its "
    "most probable class"
)


def is_threshold_table(rows: Any) -> bool:
    """Whether a recipe's field is such a table; an empty one is."""
    if not isinstance(rows, tuple) or not all(isinstance(row, Mapping) and set(row) == set(KEYS) for row in rows):
        return False
    valid = all(
        row["contrast"] in (None, *CONTRASTS)
        and (row["largest_voxel"] is None or (is_number(row["largest_voxel"]) and row["largest_voxel"] > 0))
        and is_number(row["threshold"])
        and 0 < row["threshold"] < 1
        for row in rows
    )
    return valid and len({(row["contrast"], row["largest_voxel"]) for row in rows}) == len(rows)


def contrasts_of(rows: Sequence[ThresholdRow]) -> list[str]:
    """The contrasts that a table names, in the order of `CONTRASTS`; none if it has a row for any."""
    named = {row["contrast"] for row in rows}
    return [] if None in named else [contrast for contrast in CONTRASTS if contrast in named]


def row_for(rows: Sequence[ThresholdRow], contrast: str | None, voxel: float) -> ThresholdRow | None:
    """The row of a scan of this contrast (None: not known) whose voxels are `voxel` mm along their longest edge.

    Of the rows of its contrast, or else of any contrast, that of the smallest voxels which are not smaller than the
    scan's; for a scan that is coarser than all of them the coarsest. None: the table has no row for the contrast.
    """
    fitting = [row for row in rows if row["contrast"] == contrast] or [row for row in rows if row["contrast"] is None]
    return min(
        (row for row in fitting if not is_coarser(row, voxel)),
        key=_largest_voxel,
        default=max(fitting, key=_largest_voxel, default=None),
    )


def is_coarser(row: ThresholdRow, voxel: float) -> bool:
    """Whether voxels of `voxel` mm are larger than those that a row is for."""
    return voxel > _largest_voxel(row) * 1.001  # a header's float32


def _largest_voxel(row: ThresholdRow) -> float:
    return float("inf") if row["largest_voxel"] is None else float(row["largest_voxel"])
