"""Raters' masks of the same scans: how they agree, and whether a tool agrees with them as they do with each other."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

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
from mednext_jax.measure.clusters import cluster_regions, label_clusters
from mednext_jax.measure.regions import WHOLE

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


@dataclasses.dataclass(frozen=True)
class _Marked:
    """A mask (x, y, z), its clusters' labels, and of each region which clusters (count,) are its own."""

    mask: np.ndarray
    labels: np.ndarray
    chosen: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, mask: np.ndarray, regions: np.ndarray | None, names: Mapping[int, str]) -> _Marked:
        labels, count = label_clusters(mask)
        chosen = {WHOLE: np.ones(count, bool)}
        if regions is not None:
            places = cluster_regions(labels, count, regions)
            chosen |= {name: places == value for value, name in names.items()}
        return cls(mask, labels, chosen)

    def measures(self, name: str, voxel_mm3: float) -> list[Row]:
        """A row for each region: those of its clusters."""
        sizes = np.bincount(self.labels.ravel(), minlength=len(self.chosen[WHOLE]) + 1)[1:]
        return [
            {
                "region": region,
                "mask": name,
                "volume_mm3": float(sizes[chosen].sum()) * voxel_mm3,
                "count": int(chosen.sum()),
            }
            for region, chosen in self.chosen.items()
        ]


def compare_case(
    masks: Mapping[str, np.ndarray],
    raters: Sequence[str],
    voxel_mm3: float,
    regions: np.ndarray | None = None,
    names: Mapping[int, str] | None = None,
) -> tuple[list[Row], list[Row]]:
    """One scan: (rows of pairs, rows of masks), of each region of the integer map `regions`, by `names`, and whole.

    masks: the raters' and the tools' by name, boolean (x, y, z), of one shape. As for `evaluate_case`, voxels are those
    in the region, and a cluster belongs to the region with most of its voxels, and is matched with clusters everywhere.
    Pairs are of all masks, of each tool with each consensus of all raters, and, from three raters on, of each rater and
    each tool with the consensus of all raters but that one (`without`). dice; cluster_dice: any overlap, the mean of
    both directions. Rows of masks: volume_mm3, count.
    """
    tools = [name for name in masks if name not in raters]
    box = bounding_box(np.any(np.stack(list(masks.values())), axis=0)) or (slice(0, 1),) * 3
    masks = {name: mask[box] for name, mask in masks.items()}
    regions, names = None if regions is None else regions[box], names or {}
    inside = {WHOLE: None} | {name: regions == value for value, name in names.items() if regions is not None}
    marked = {name: _Marked.of(mask, regions, names) for name, mask in masks.items()}
    measures = [row for name, found in marked.items() for row in found.measures(name, voxel_mm3)]
    pairs = [
        {"region": region, "first": a, "second": b, "without": ""} | row
        for a, b in itertools.combinations(masks, 2)
        for region, row in _overlaps(marked[a], marked[b], inside)
    ]
    for title, combine in CONSENSUS.items():
        held = [("", tools)]
        if len(raters) > 2:
            held += [(rater, [rater, *tools]) for rater in raters]
        for without, judged in held:
            mask = combine([masks[name] for name in raters if name != without])
            agreed = _Marked.of(mask, regions, names)
            if not without:
                measures += agreed.measures(title, voxel_mm3)
            pairs += [
                {"region": region, "first": name, "second": title, "without": without} | row
                for name in judged
                for region, row in _overlaps(marked[name], agreed, inside)
            ]
    return pairs, measures


def pair_rows(pairs: Sequence[Row], measures: Sequence[Row]) -> list[Row]:
    """A row for each region and pair over the scans: mean, sd, interval of overlaps, agreement of volume and count.

    `pairs` and `measures` are those of `compare_case`, each with its `case`. Consensus is of all raters, and only tools
    are held against it here: a rater is part of it.
    """
    values = {(row["case"], row["region"], row["mask"]): row for row in measures}
    chosen: dict[tuple[str, str, str], list[Row]] = {}
    for pair in pairs:
        if not pair["without"]:
            chosen.setdefault((pair["region"], pair["first"], pair["second"]), []).append(pair)
    rows = []
    order = regions_of(pairs)
    for (region, first, second), mine in sorted(chosen.items(), key=lambda found: order.index(found[0][0])):
        row: Row = {"region": region, "first": first, "second": second, "scans": len(mine)}
        for name in OVERLAPS:
            row |= {f"{name}_{key}": value for key, value in _mean([r[name] for r in mine]).items()}
        for quantity in QUANTITIES:
            found = agreement(*([values[r["case"], region, end][quantity] for r in mine] for end in (first, second)))
            row |= {f"{quantity}_{name}": found[name] for name in ("icc_2_1", "icc_3_1", "ccc", "bias")}
        rows.append(row)
    return rows


def reliability_rows(measures: Sequence[Row], raters: Sequence[str]) -> list[Row]:
    """ICC(2,1) and ICC(3,1) over all raters, with intervals, a row for volume and count of each region."""
    values = {(row["case"], row["region"], row["mask"]): row for row in measures}
    cases = list(dict.fromkeys(row["case"] for row in measures))
    rows = []
    for region, quantity in itertools.product(regions_of(measures), QUANTITIES):
        table = np.array([[values[case, region, rater][quantity] for rater in raters] for case in cases], float)
        about = {"region": region, "quantity": quantity, "raters": len(raters), "scans": len(cases)}
        rows.append(about | icc_row(table))
    return rows


def regions_of(rows: Iterable[Row]) -> list[str]:
    """The regions of rows, in their order, the whole scan first."""
    return list(dict.fromkeys(row["region"] for row in rows))


def icc_row(table: np.ndarray) -> Row:
    """icc_2_1 and icc_3_1 of ratings (scans, raters), each with its interval."""
    row: Row = {}
    for name, statistic in (("icc_2_1", icc_2_1), ("icc_3_1", icc_3_1)):
        low, high = interval(statistic, table)
        row |= {name: float(statistic(table)), f"{name}_low": low, f"{name}_high": high}
    return row


def second_rater_rows(pairs: Sequence[Row], raters: Sequence[str], tools: Sequence[str]) -> list[Row]:
    """Is a tool as good as a second rater: a row for each region, tool, overlap, and what both are held against.

    against "raters": the tool with each rater, and the raters with each other. Against a consensus, from three raters
    on: the tool and each rater in turn with the consensus of the other raters, the same mask for both. tool_mean,
    rater_mean: over the scans. difference = tool - rater with its interval and Wilcoxon's p; williams_index = tool /
    rater with its interval (Williams 1976): 1 or more says that the tool agrees with the raters as they agree among
    themselves. Scans where either is undefined are left out.
    """
    rows = []
    for region, tool, name in itertools.product(regions_of(pairs), tools, OVERLAPS):
        here = [row for row in pairs if row["region"] == region]
        for against in ("raters", *CONSENSUS):
            with_tool: dict[str, list[float]] = {}
            among: dict[str, list[float]] = {}
            for row in here:
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
                    "region": region,
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


def _overlaps(first: _Marked, second: _Marked, inside: Mapping[str, np.ndarray | None]) -> Iterator[tuple[str, Row]]:
    """Each region and its scores; `inside`: its voxels, None for all."""
    there, back = Overlaps.of(first.labels, second.labels), Overlaps.of(second.labels, first.labels)
    for region, where in inside.items():
        masks = [mask if where is None else mask & where for mask in (first.mask, second.mask)]
        mine, theirs = first.chosen[region], second.chosen[region]
        both = any_overlap(there, mine, theirs)["dice"], any_overlap(back, theirs, mine)["dice"]
        yield region, {"dice": voxel_metrics(*masks)["dice"], "cluster_dice": sum(both) / 2}


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
