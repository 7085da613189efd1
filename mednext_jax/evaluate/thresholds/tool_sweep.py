"""A tool's probability maps over a cohort: the sweep of the threshold, the chosen one, the calibration."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np

from mednext_jax.evaluate.study import Row
from mednext_jax.evaluate.thresholds.calibration import DOUBTFUL, Calibration, average_precision
from mednext_jax.evaluate.thresholds.sweep import ScanSweep, best_threshold, sweep_rows


@dataclasses.dataclass
class ToolSweep:
    """Collects scan after scan. criterion: the score whose mean the chosen threshold makes highest."""

    criterion: str
    scans: list[ScanSweep] = dataclasses.field(default_factory=list)
    calibrations: list[Calibration] = dataclasses.field(default_factory=list)

    def add(self, probability: np.ndarray, reference: np.ndarray, counted: np.ndarray) -> float:
        """Take in a scan: probabilities, a boolean mask, where voxels count; returns its `average_precision`."""
        probability = np.where(counted, probability, 0)
        self.scans.append(ScanSweep.of(probability, reference))
        p, truth = probability[counted], reference[counted]
        self.calibrations.append(Calibration.of(p, truth))
        return average_precision(p, truth)

    @functools.cached_property
    def rows(self) -> list[Row]:
        """`sweep_rows` of the scans; to be asked after the last one."""
        return sweep_rows(self.scans)

    @property
    def best(self) -> float | None:
        """The chosen threshold."""
        return best_threshold(self.rows, self.criterion)

    @functools.cached_property
    def calibration(self) -> Calibration:
        """Over the voxels of all scans; to be asked after the last one."""
        return functools.reduce(lambda a, b: a + b, self.calibrations)

    def summary(self) -> dict[str, Any]:
        """The choice, the scores there, and the calibration errors, as JSON values."""
        chosen = next((row for row in self.rows if row["threshold"] == self.best), None)
        return {
            "criterion": self.criterion,
            "threshold": self.best,
            "scores_there": chosen,
            "expected_calibration_error": self.calibration.error,
            f"expected_calibration_error_from_{DOUBTFUL:g}": self.calibration.doubtful_error,
            "voxels": int(self.calibration.count.sum()),
        }
