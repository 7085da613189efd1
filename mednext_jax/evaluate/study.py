"""The statistics of a cohort as rows of long tables: scores with intervals, agreement, tools against each other.

Every interval is a 95 % percentile bootstrap over subjects (`bootstrap`), but those of Bland and Altman's limits.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mednext_jax.evaluate.scores_file import CaseScores
from mednext_jax.evaluate.statistics.agreement import BlandAltman, concordance, icc_2_1, icc_3_1, pearson, spearman
from mednext_jax.evaluate.statistics.bootstrap import interval, interval_of_mean
from mednext_jax.evaluate.statistics.paired import holm, wilcoxon

# Score -> whether a higher one is better; None: neither.
SCORES: dict[str, bool | None] = {
    **dict.fromkeys(("dice", "precision", "recall", "cluster_dice", "cluster_precision", "cluster_recall"), True),
    **dict.fromkeys(("valdo_dice", "valdo_precision", "valdo_recall"), True),
    **dict.fromkeys(("one_to_one_dice", "one_to_one_precision", "one_to_one_recall"), True),
    **dict.fromkeys(("nsd_1_voxel", "nsd_1_mm", "cl_dice", "average_precision"), True),
    "hd95_mm": False,
    "volume_difference_mm3": None,
    "absolute_volume_difference_mm3": False,
    "volume_difference_percent": None,
    "count_difference": None,
    "absolute_count_difference": False,
    **dict.fromkeys(("valdo2021_f1", "valdo2021_dice", "epvs2024_recall", "epvs2024_precision"), True),
    "epvs2024_avd": False,
    **dict.fromkeys(("isles2022_dice", "isles2022_lesion_f1", "dora2026_lesion_dice", "dora2026_cl_dice"), True),
}
QUANTITIES = ("volume_mm3", "count")
# What tools are tested against each other in.
COMPARED = (
    *("dice", "precision", "recall", "cluster_dice", "cluster_precision", "cluster_recall"),
    *("nsd_1_voxel", "nsd_1_mm", "hd95_mm", "cl_dice", "absolute_volume_difference_mm3", "absolute_count_difference"),
)

Row = dict[str, Any]


def score_rows(tools: Mapping[str, CaseScores]) -> list[Row]:
    """A row for each tool, region and score: mean, sd (n - 1), median, the mean's interval, n and undefined cases.

    Besides, with score "recall_LOW_to_HIGH_mm3": of all reference clusters of that size in the cohort the part that is
    found, its interval over subjects, n the subjects.
    """
    rows = []
    for tool, region, cases in _each(tools):
        for score in (name for name in SCORES if name in cases[0]):
            every = np.array([case[score] for case in cases], float)
            values = every[~np.isnan(every)]
            low, high = interval_of_mean(values)
            rows.append(
                {
                    "tool": tool,
                    "region": region,
                    "score": score,
                    "n": len(values),
                    "undefined": len(every) - len(values),
                    "mean": float(values.mean()) if len(values) else math.nan,
                    "sd": float(values.std(ddof=1)) if len(values) > 1 else math.nan,
                    "median": float(np.median(values)) if len(values) else math.nan,
                    "low": low,
                    "high": high,
                }
            )
        rows += _recall_by_size(tool, region, cases)
    return rows


def agreement_rows(tools: Mapping[str, CaseScores]) -> list[Row]:
    """A row for each tool, region and quantity (volume, count) against the reference: `agreement`."""
    return [
        {"tool": tool, "region": region, "quantity": quantity}
        | agreement([case[quantity] for case in cases], [case[f"reference_{quantity}"] for case in cases])
        for tool, region, cases in _each(tools)
        for quantity in QUANTITIES
    ]


def agreement(measured: Sequence[float], reference: Sequence[float]) -> Row:
    """Two measurements of each subject: ICC(2,1), ICC(3,1), Pearson, Spearman, CCC with intervals; Bland and Altman."""
    pair = np.stack([np.asarray(measured, float), np.asarray(reference, float)], -1)  # (subjects, 2)
    row: Row = {"n": len(pair)}
    for name, statistic in (
        ("icc_2_1", icc_2_1),
        ("icc_3_1", icc_3_1),
        ("pearson", lambda drawn: pearson(drawn[..., 0], drawn[..., 1])),
        ("spearman", lambda drawn: spearman(drawn[..., 0], drawn[..., 1])),
        ("ccc", lambda drawn: concordance(drawn[..., 0], drawn[..., 1])),
    ):
        low, high = interval(statistic, pair)
        row |= {name: float(statistic(pair)), f"{name}_low": low, f"{name}_high": high}
    limits = BlandAltman.of(pair[:, 0], pair[:, 1])
    for name in ("bias", "lower", "upper"):
        low, high = getattr(limits, f"{name}_interval")
        title = name if name == "bias" else f"{name}_limit"
        row |= {title: getattr(limits, name), f"{title}_low": low, f"{title}_high": high}
    row["sd_of_differences"] = limits.sd
    row["mean_absolute_difference"] = float(np.abs(pair[:, 0] - pair[:, 1]).mean()) if len(pair) else math.nan
    return row


def comparison_rows(tools: Mapping[str, CaseScores]) -> list[Row]:
    """A row for each pair of tools, region and score, on the scans where both are defined.

    p: Wilcoxon's signed-rank test; p_holm: corrected for the pairs of tools in that region and score.
    """
    rows = []
    regions = dict.fromkeys(region for cases in tools.values() for regions in cases.values() for region in regions)
    for region in regions:
        for score in COMPARED:
            found: list[Row] = []
            for first, second in itertools.combinations(tools, 2):
                pairs = [
                    (case[region][score], tools[second][name][region][score])
                    for name, case in tools[first].items()
                    if name in tools[second] and score in case[region] and score in tools[second][name][region]
                ]
                both = np.array(pairs, float).reshape(-1, 2)
                both = both[~np.isnan(both).any(1)]
                if not pairs:
                    continue
                difference = both[:, 0] - both[:, 1]
                low, high = interval_of_mean(difference)
                found.append(
                    {
                        "region": region,
                        "score": score,
                        "first": first,
                        "second": second,
                        "n": len(both),
                        "mean_difference": float(difference.mean()) if len(both) else math.nan,
                        "low": low,
                        "high": high,
                        "p": wilcoxon(both[:, 0], both[:, 1]),
                    }
                )
            corrected = holm([float(row["p"]) for row in found])
            rows += [row | {"p_holm": p} for row, p in zip(found, corrected, strict=True)]
    return rows


def empty_rows(tools: Mapping[str, CaseScores]) -> list[Row]:
    """A row for each tool and region: its cases, those empty in both masks, in the tool's only, in the reference's."""
    rows = []
    for tool, region, cases in _each(tools):
        empty = [(case["count"] == 0, case["reference_count"] == 0) for case in cases]
        rows.append(
            {
                "tool": tool,
                "region": region,
                "cases": len(cases),
                "empty_in_both": empty.count((True, True)),
                "empty_prediction_only": empty.count((True, False)),
                "empty_reference_only": empty.count((False, True)),
            }
        )
    return rows


def _each(tools: Mapping[str, CaseScores]):
    """(tool, region, the scores of its cases there)."""
    for tool, cases in tools.items():
        for region in dict.fromkeys(region for regions in cases.values() for region in regions):
            yield tool, region, [regions[region] for regions in cases.values()]


def _recall_by_size(tool: str, region: str, cases: Sequence[Mapping[str, float]]) -> list[Row]:
    rows = []
    for name in (name.removeprefix("found_") for name in cases[0] if name.startswith("found_")):
        pairs = np.array([(case[f"found_{name}"], case[f"reference_count_{name}"]) for case in cases], float)

        def share(drawn: np.ndarray) -> np.ndarray:
            with np.errstate(all="ignore"):
                return drawn[..., 0].sum(-1) / drawn[..., 1].sum(-1)

        low, high = interval(share, pairs)
        having = int((pairs[:, 1] > 0).sum())
        rows.append(
            {
                "tool": tool,
                "region": region,
                "score": f"recall_{name}",
                "n": having,
                "undefined": len(pairs) - having,
                "mean": float(share(pairs)),
                "sd": math.nan,
                "median": math.nan,
                "low": low,
                "high": high,
            }
        )
    return rows
