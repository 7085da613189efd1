"""How often the interval of `predict --uncertainty` holds the truth, on scans whose truth is known.

    python -m tools.interval_coverage --predictions OUT --references dataset/labelsTr

Counts and measures the reference masks as `quantify` does, with the smallest size of the predictions, and prints for
each scan the truth, the prediction, and its 95 % interval, and at the end the share of intervals that hold the truth.
The interval says how far the models and mirrors differ, not how far they are from the truth together.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

from mednext_jax.quantify.one_scan import WHOLE, Quantified
from mednext_jax.quantify.quantify import quantify

MEASURES = {"count": ("count_low", "count_high"), "volume_mm3": ("volume_low_mm3", "volume_high_mm3")}


def coverage(predictions: Path, references: Path) -> dict[str, list[bool]]:
    """Measure -> for each scan of `predictions`/pvs.tsv whether its interval holds that of its reference mask."""
    held: dict[str, list[bool]] = {name: [] for name in MEASURES}
    with open(predictions / "pvs.tsv", newline="") as file:
        rows = [row for row in csv.DictReader(file, delimiter="\t") if row["region"] == WHOLE]
    for row in rows:
        smallest = {"min_voxels": int(row["min_voxels"]), "min_mm3": float(row["min_mm3"])}
        found = quantify(references / f"{row['scan']}.nii.gz", connectivity=int(row["connectivity"]), **smallest)
        assert isinstance(found, Quantified)
        truth = found.regions[0]
        for name, (low, high) in MEASURES.items():
            ends = float(row[low]), float(row[high])
            held[name].append(ends[0] <= truth[name] <= ends[1])
            said = f"truth {truth[name]:.0f}, found {row[name]}, interval {ends[0]:.0f} to {ends[1]:.0f}"
            print(f"{row['scan']} {name}: {said}")
    return held


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--predictions", type=Path, required=True, help="made with predict --uncertainty")
    parser.add_argument("--references", type=Path, required=True, help="folder of masks CASE.nii.gz")
    options = parser.parse_args()
    for name, held in coverage(options.predictions, options.references).items():
        print(f"{name}: {sum(held)} of {len(held)} intervals hold the truth ({sum(held) / len(held):.0%})")


if __name__ == "__main__":
    main()
