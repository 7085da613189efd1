"""Fit a model's temperature and its table of thresholds on simulated scans with labels, and write both into the model.

    python -m tools.calibrate_model MODEL DATASET [DATASET ...]

A data set is nnU-Net's raw one, as `mednext-jax simulate` writes it, of scans that the training never saw. Each scan
belongs to a group by its contrast (its name, or the data set's channel) and its longest voxel edge (`--voxel-sizes`:
the largest of each group, mm). One temperature is fitted over the voxels of all scans that are not 0; each group gets
the threshold of the highest mean `--criterion` over its scans, and all scans together the general one. The criterion
is voxel Dice by default: the cluster score (any overlap) rises where clusters melt into one another.

Writes into MODEL: model.json (recipe: temperature, thresholds, threshold), calibration.json (the tables of the model
card: `tools.package_model`), and with matplotlib calibration.png and .svg, the reliability curve before and after.
Figures of simulated scans say nothing of patients.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.affines import voxel_sizes

from mednext_jax.errors import InputError
from mednext_jax.evaluate.figures.figure_file import NO_MATPLOTLIB, has_matplotlib
from mednext_jax.evaluate.figures.threshold_figures import draw_calibration
from mednext_jax.evaluate.study import Row
from mednext_jax.evaluate.thresholds.calibration import Calibration
from mednext_jax.evaluate.thresholds.sweep import CRITERIA, ScanSweep, best_threshold, sweep_rows
from mednext_jax.evaluate.thresholds.temperature import LogitCounts, at_temperature
from mednext_jax.inference.predictor import Predictor
from mednext_jax.io.atomic import replace_text
from mednext_jax.io.contrast import scan_contrast
from mednext_jax.io.geometry import grid_problems
from mednext_jax.io.nifti import read_labels, read_scan
from mednext_jax.io.nnunet_raw import read_nnunet_raw
from mednext_jax.io.raw_dataset import RawDataset
from mednext_jax.weights.directory import read_thresholds, set_calibration
from tools.arguments import above_zero, told_in_words
from tools.tables import CALIBRATION, RELIABILITY, Table, as_json

VOXEL_SIZES = (1.2, 2.5, 6.0)

Group = tuple[str | None, float]  # contrast, largest voxel


@dataclasses.dataclass(frozen=True)
class Measured:
    """What one scan says: its group, its counts by logit, its scores at each threshold."""

    group: Group
    counts: LogitCounts
    sweep: ScanSweep


def calibrate(
    model: Path,
    datasets: Sequence[Path],
    *,
    voxel_sizes_mm: Sequence[float] = VOXEL_SIZES,
    criterion: str = "dice",
    tta: bool = True,
) -> dict[str, Any]:
    """Do what the module says; returns what calibration.json holds. Raises InputError for input that does not fit."""
    if not voxel_sizes_mm or not all(0 < size < math.inf for size in voxel_sizes_mm):
        raise InputError("The voxel sizes are wrong.", expected="numbers above 0, in mm", found=voxel_sizes_mm)
    read_thresholds(model)  # what will be written to is there
    raws = [_read_dataset(dataset) for dataset in datasets]
    predictor = Predictor(model, threshold=0.5, tta=tta)
    recipe = predictor.recipe
    if len(recipe.labels) != 2 or (recipe.average != "logits" and recipe.regions_class_order is None):
        raise InputError(
            "A temperature is fitted to a model of background and PVS that averages logits.",
            file=model,
            expected="two labels, average: logits",
            found=f"{len(recipe.labels)} labels, average: {recipe.average}",
        )
    scans = [scan for raw in raws for scan in _measure_all(predictor, raw, sorted(voxel_sizes_mm))]
    counts = functools.reduce(lambda a, b: a + b, (scan.counts for scan in scans))
    fitted = counts.fit()
    temperature = round(recipe.temperature * fitted, 3)

    def chosen(some: Sequence[Measured]) -> Row | None:
        """The scores at the best threshold, which is that of the calibrated probability."""
        rows = sweep_rows([scan.sweep for scan in some])
        best = best_threshold(rows, criterion)
        row = next((row for row in rows if row["threshold"] == best), None)
        return None if row is None else {**row, "threshold": round(at_temperature(row["threshold"], fitted), 3)}

    groups = sorted({scan.group for scan in scans}, key=lambda group: (str(group[0]), group[1]))
    found = {group: chosen([scan for scan in scans if scan.group == group]) for group in groups}
    general = chosen(scans)
    if general is None:
        raise InputError("No scan has a labelled voxel.", file=datasets[0])
    table = tuple(
        {"contrast": contrast, "largest_voxel": largest, "threshold": row["threshold"]}
        for (contrast, largest), row in found.items()
        if row is not None
    )
    new = dataclasses.replace(recipe, temperature=temperature, thresholds=table, threshold=general["threshold"])
    set_calibration(model, new, {"data_sets": [raw.name for raw in raws], "scans": len(scans), "criterion": criterion})
    curves = {"before": counts.calibration(), "after": counts.calibration(fitted)}
    figures = as_json(_tables(found, general, curves, temperature, criterion, len(scans)))
    replace_text(model / CALIBRATION, figures)
    if has_matplotlib():
        draw_calibration(model, curves)
    else:
        print(NO_MATPLOTLIB)
    return {"temperature": temperature, "thresholds": table, "threshold": general["threshold"]}


def _read_dataset(dataset: Path) -> RawDataset:
    """A data set whose cases are whole and have one channel; raises InputError for another one."""
    raw = read_nnunet_raw(dataset)
    if wrong := [problem for problem in raw.problems if problem.severity == "E"]:
        raise InputError.of(wrong)
    if not raw.cases or len(raw.channel_names) != 1:
        raise InputError(
            "The data set is none to calibrate on.",
            file=dataset,
            expected="labelled scans of one channel",
            found=f"{len(raw.cases)} scans of {len(raw.channel_names)}",
        )
    return raw


def _measure_all(predictor: Predictor, raw: RawDataset, largest: Sequence[float]) -> list[Measured]:
    found = []
    cases = raw.cases
    for number, case in enumerate(cases, 1):
        (image,) = case.images
        scan, label = read_scan(image), read_labels(case.label)
        apart = grid_problems(label, scan, "A label map", case.label, image)
        if any(problem.severity == "E" for problem in apart):
            raise InputError.of(apart)
        edge = float(voxel_sizes(scan.affine).max())
        if edge > largest[-1] * 1.001:
            raise InputError(
                "The voxels are larger than those of any group.",
                file=image,
                expected=f"at most {largest[-1]:g} mm",
                found=f"{edge:g} mm",
                hint="--voxel-sizes with a larger last number",
            )
        group = scan_contrast(image), next(size for size in largest if edge <= size * 1.001)
        p = np.asarray(predictor(image).probability.dataobj)
        labels = np.asarray(label.dataobj)
        truth, judged = labels == 1, labels != raw.ignore_label
        counted = (np.asarray(scan.dataobj) != 0) & judged
        found.append(Measured(group, LogitCounts.of(p[counted], truth[counted]), ScanSweep.of(p * judged, truth)))
        print(f"[{number}/{len(cases)}] {case.id}: {group[0] or 'unknown contrast'}, {edge:g} mm", flush=True)
    return found


def _tables(
    found: dict[Group, Row | None],
    general: Row,
    curves: dict[str, Calibration],
    temperature: float,
    criterion: str,
    scans: int,
) -> list[Table]:
    names = ("dice", "precision", "recall", "cluster_dice", "cluster_precision", "cluster_recall", "false_positives")
    rows = [((c or "unknown", f"{size:g}"), row) for (c, size), row in found.items() if row is not None]
    thresholds = Table(
        "Thresholds, chosen on simulated scans",
        f"Of the highest mean {criterion} in each group, with the means over its scans there; clusters: 26-connected, "
        "any overlap; the last column: false clusters a scan. These figures mean nothing for patients.",
        ("contrast", "voxels up to (mm)", "scans", "threshold", *(name.replace("_", " ") for name in names)),
        [
            (*group, str(row["scans"]), f"{row['threshold']:g}", *(f"{row[name]:.2f}" for name in names))
            for group, row in (*rows, (("any", "any"), general))
        ],
    )
    before, after = (curves[name].curve() for name in ("before", "after"))
    errors = {name: curve.doubtful_error for name, curve in curves.items()}
    reliability = Table(
        RELIABILITY,
        f"Temperature {temperature:g}, fitted over {scans} scans. Expected calibration error over the voxels of "
        f"probability 0.01 or more: {errors['before']:.3f} before, {errors['after']:.3f} after.",
        ("probability", "voxels before", "PVS among them", "voxels after", "PVS among them after"),
        [
            (
                f"{a['low']:g} to {a['high']:g}",
                f"{b['voxels']:,}",
                f"{b['observed']:.3f}",
                f"{a['voxels']:,}",
                f"{a['observed']:.3f}",
            )
            for b, a in zip(before, after, strict=True)
        ],
    )
    return [thresholds, reliability]


def main() -> None:
    """Read the arguments, calibrate, print what was written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, metavar="MODEL")
    parser.add_argument("datasets", type=Path, nargs="+", metavar="DATASET")
    parser.add_argument("--voxel-sizes", type=above_zero, nargs="+", default=list(VOXEL_SIZES), metavar="MM")
    parser.add_argument("--criterion", choices=CRITERIA, default="dice")
    parser.add_argument("--no-tta", action="store_true", help="without mirrors: an eighth of the time")
    options = parser.parse_args()
    with told_in_words("calibrate_model"):
        print(
            calibrate(
                options.model,
                options.datasets,
                voxel_sizes_mm=options.voxel_sizes,
                criterion=options.criterion,
                tta=not options.no_tta,
            )
        )


if __name__ == "__main__":
    main()
