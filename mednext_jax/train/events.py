"""The tables of a run once more as TensorBoard events, where tensorboardX is installed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from mednext_jax.parallel.processes import is_main_process


class Events:
    """Event files in `folder` that continue at `step`: what a killed run had written after it is withdrawn.

    Without tensorboardX (`pip install 'mednext-jax[tensorboard]'`), and in all processes but the first, does nothing.
    """

    def __init__(self, folder: Path, step: int):
        self._writer = None
        if not is_main_process():
            return
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            return
        self._writer = SummaryWriter(str(folder), purge_step=step + 1, filename_suffix=f".{step}")

    def add(self, group: str, row: Mapping[str, float]) -> None:
        """The finite values of a row of a table, as the curves GROUP/COLUMN over `step`."""
        if self._writer is None:
            return
        for name, value in row.items():
            if name not in ("step", "epoch") and math.isfinite(value):
                self._writer.add_scalar(f"{group}/{name}", value, int(row["step"]))

    def close(self) -> None:
        """Return when everything is on disk."""
        if self._writer is not None:
            self._writer.close()
