"""Raters' masks of the same scans: how they agree, and whether a tool agrees with them as they do with each other."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from mednext_jax.errors import InputError, Problem
from mednext_jax.evaluate.cluster import Overlaps, any_overlap
from mednext_jax.evaluate.mask_source import MaskSource
from mednext_jax.evaluate.raters.consensus import majority, staple
from mednext_jax.evaluate.statistics.agreement import icc_2_1, icc_3_1
from mednext_jax.evaluate.statistics.bootstrap import interval, interval_of_mean
from mednext_jax.evaluate.statistics.paired import wilcoxon
from mednext_jax.evaluate.study import QUANTITIES, Row, agreement
from mednext_jax.evaluate.voxel import ratio, voxel_metrics
from mednext_jax.io.geometry import bounding_box
from mednext_jax.io.nifti_names import few
from mednext_jax.measure.clusters import label_clusters

CONSENSUS: dict[str, Callable[[Sequence[np.ndarray]], np.ndarray]] = {"majority": majority, "STAPLE": staple}
OVERLAPS = ("dice", "cluster_dice")


def check_cases(raters: Sequence[MaskSource], tools: Sequence[MaskSource] = ()) -> list[str]:
    """The raters' common cases, sorted; raises InputError if raters have different ones, or a tool others."""
    cases = sorted(set().union(*(rater.files for rater in raters)))
    problems = [
        Problem(
            "The raters have different cases.",
            rater.name,
            f"the {len(cases)} cases of all raters",
            f"not {few(missing)}",
            "remove the cases that not all have rated, or add the masks (an empty one where there is no PVS)",
        )
        for rater in raters
        if (missing := [case for case in cases if case not in rater.files])
    ]
    for tool in tools:
        if strange := sorted(set(tool.files) - set(cases)):
            what = "A tool has cases that no rater has."
            problems.append(Problem(what, tool.name, few(cases), few(strange), "name the files after the case"))
    if problems:
        raise InputError.of(problems)
    return cases


def compare_case(
    masks: Mapping[str, np.ndarray], raters: Sequence[str], voxel_mm3: float
) -> tuple[list[Row], list[Row]]:
    """One scan: (rows of pairs, rows of masks); `masks` are the raters' and the tools' by name, boolean, of one shape.

    Pairs are of all masks, of each tool with each consensus of all raters, and, from three raters on, of each rater and
    each tool with the consensus of all raters but that one (`without`). dice; cluster_dice: any overlap, the mean of
    both directions. Rows of masks: volume_mm3, count.
    """
    tools = [name for name in masks if name not in raters]
    box = bounding_box(np.any(np.stack(list(masks.values())), axis=0)) or (slice(0, 1),) * 3
    masks = {name: mask[box] for name, mask in masks.items()}
    clusters = {name: label_clusters(mask) for name, mask in masks.items()}
    measures = [_measures(name, masks[name], clusters[name][1], voxel_mm3) for name in masks]
    pairs = [
        {"first": a, "second": b, "without": ""} | _overlap(masks[a], masks[b], clusters[a][0], clusters[b][0])
        for a, b in itertools.combinations(masks, 2)
    ]
    for title, combine in CONSENSUS.items():
        held = [("", tools)]
        if len(raters) > 2:
            held += [(rater, [rater, *tools]) for rater in raters]
        for without, judged in held:
            mask = combine([masks[name] for name in raters if name != without])
            labels, count = label_clusters(mask)
            if not without:
                measures.append(_measures(title, mask, count, voxel_mm3))
            pairs += [
                {"first": name, "second": title, "without": without}
                | _overlap(masks[name], mask, clusters[name][0], labels)
                for name in judged
            ]
    return pairs, measures


def pair_rows(pairs: Sequence[Row], measures: Sequence[Row]) -> list[Row]:
    """A row for each pair over the scans: mean, sd, interval of dice and cluster_dice, agreement of volume and count.

    `pairs` and `measures` are those of `compare_case`, each with its `case`. Consensus is of all raters, and only tools
    are held against it here: a rater is part of it.
    """
    values = {(row["case"], row["mask"]): row for row in measures}
    rows = []
    chosen = [row for row in pairs if not row["without"]]
    for first, second in dict.fromkeys((row["first"], row["second"]) for row in chosen):
        mine = [row for row in chosen if (row["first"], row["second"]) == (first, second)]
        row: Row = {"first": first, "second": second, "scans": len(mine)}
        for name in OVERLAPS:
            row |= {f"{name}_{key}": value for key, value in _mean([r[name] for r in mine]).items()}
        for quantity in QUANTITIES:
            found = agreement(*([values[r["case"], end][quantity] for r in mine] for end in (first, second)))
            row |= {f"{quantity}_{name}": found[name] for name in ("icc_2_1", "icc_3_1", "ccc", "bias")}
        rows.append(row)
    return rows


def reliability_rows(measures: Sequence[Row], raters: Sequence[str]) -> list[Row]:
    """ICC(2,1) and ICC(3,1) over all raters, with intervals, a row for volume and count."""
    values = {(row["case"], row["mask"]): row for row in measures}
    cases = list(dict.fromkeys(row["case"] for row in measures))
    rows = []
    for quantity in QUANTITIES:
        table = np.array([[values[case, rater][quantity] for rater in raters] for case in cases], float)
        rows.append({"quantity": quantity, "raters": len(raters), "scans": len(cases)} | icc_row(table))
    return rows


def icc_row(table: np.ndarray) -> Row:
    """icc_2_1 and icc_3_1 of ratings (scans, raters), each with its interval."""
    row: Row = {}
    for name, statistic in (("icc_2_1", icc_2_1), ("icc_3_1", icc_3_1)):
        low, high = interval(statistic, table)
        row |= {name: float(statistic(table)), f"{name}_low": low, f"{name}_high": high}
    return row


def second_rater_rows(pairs: Sequence[Row], raters: Sequence[str], tools: Sequence[str]) -> list[Row]:
    """Is a tool as good as a second rater: a row for each tool, overlap, and what both are held against.

    against "raters": the tool with each rater, and the raters with each other. Against a consensus, from three raters
    on: the tool and each rater in turn with the consensus of the other raters, the same mask for both. tool_mean,
    rater_mean: over the scans. difference = tool - rater with its interval and Wilcoxon's p; williams_index = tool /
    rater with its interval (Williams 1976): 1 or more says that the tool agrees with the raters as they agree among
    themselves. Scans where either is undefined are left out.
    """
    rows = []
    for tool, name in itertools.product(tools, OVERLAPS):
        for against in ("raters", *CONSENSUS):
            with_tool: dict[str, list[float]] = {}
            among: dict[str, list[float]] = {}
            for row in pairs:
                ends = {row["first"], row["second"]}
                if against in CONSENSUS:
                    of_tool, of_rater = ends == {tool, against} and row["without"], ends == {row["without"], against}
                else:
                    of_tool, of_rater = tool in ends and ends & set(raters), ends <= set(raters)
                if of_tool or of_rater:
                    (with_tool if of_tool else among).setdefault(row["case"], []).append(row[name])
            means = [(np.mean(with_tool[case]), np.mean(among[case])) for case in with_tool if case in among]
            both = np.array(means, float).reshape(-1, 2)
            both = both[~np.isnan(both).any(1)]
            if not len(both):
                continue
            difference = both[:, 0] - both[:, 1]
            low, high = interval_of_mean(difference)
            williams_low, williams_high = interval(_williams, both)
            rows.append(
                {
                    "tool": tool,
                    "score": name,
                    "against": against,
                    "scans": len(both),
                    "tool_mean": float(both[:, 0].mean()),
                    "rater_mean": float(both[:, 1].mean()),
                    "difference": float(difference.mean()),
                    "low": low,
                    "high": high,
                    "p": wilcoxon(both[:, 0], both[:, 1]),
                    "williams_index": float(_williams(both)),
                    "williams_low": williams_low,
                    "williams_high": williams_high,
                }
            )
    return rows


def _williams(both: np.ndarray) -> np.ndarray:
    mean = both.mean(-2)
    with np.errstate(all="ignore"):
        return np.where(mean[..., 1] > 0, mean[..., 0] / mean[..., 1], math.nan)


def _measures(name: str, mask: np.ndarray, count: int, voxel_mm3: float) -> Row:
    return {"mask": name, "volume_mm3": float(np.count_nonzero(mask)) * voxel_mm3, "count": count}


def _overlap(first: np.ndarray, second: np.ndarray, labels: np.ndarray, other: np.ndarray) -> Row:
    there = any_overlap(Overlaps.of(labels, other))
    back = any_overlap(Overlaps.of(other, labels))
    return {
        "dice": voxel_metrics(first, second)["dice"],
        "cluster_dice": (there["dice"] + back["dice"]) / 2,
    }


def _mean(values: Sequence[float]) -> dict[str, float]:
    defined = np.array([value for value in values if not math.isnan(value)])
    low, high = interval_of_mean(defined)
    return {
        "mean": ratio(float(defined.sum()), len(defined)),
        "n": len(defined),
        "sd": float(defined.std(ddof=1)) if len(defined) > 1 else math.nan,
        "low": low,
        "high": high,
    }
