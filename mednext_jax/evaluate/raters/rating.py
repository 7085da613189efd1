"""The comparison of raters as a whole: read all masks or the table, compare, write tables."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mednext_jax.errors import InputError, Problem, shown
from mednext_jax.evaluate.mask_source import MaskSource, read_map
from mednext_jax.evaluate.publication import latex_table, markdown_table
from mednext_jax.evaluate.raters.mask_raters import (
    check_cases,
    compare_case,
    pair_rows,
    regions_of,
    reliability_rows,
    second_rater_rows,
)
from mednext_jax.evaluate.raters.rating_table import VisualScores, visual_rows
from mednext_jax.evaluate.study import Row
from mednext_jax.evaluate.table import write_csv
from mednext_jax.io.geometry import voxel_volume
from mednext_jax.io.nifti_names import few
from mednext_jax.measure.clusters import cluster_regions, label_clusters
from mednext_jax.measure.regions import WHOLE, RegionMaps

NOTES = (
    "Mean (SD) over scans; in brackets 95 % bootstrap intervals over scans.",
    "Cluster Dice: any overlap, the mean of both directions. Consensus here is of all raters.",
)
SECOND_NOTES = (
    "Against a consensus, the tool and each rater in turn are held against that of the other raters.",
    "Williams index: tool / rater; 1 or more: the tool agrees with the raters as they agree among themselves.",
    "p: Wilcoxon, paired over scans.",
)


@dataclasses.dataclass(frozen=True)
class Ratings:
    """Agreement of raters: cases, measures (a row per scan), pairs, reliability, second; of a table visual."""

    cases: Sequence[Row] = ()
    measures: Sequence[Row] = ()
    pairs: Sequence[Row] = ()
    reliability: Sequence[Row] = ()
    second: Sequence[Row] = ()
    visual: Sequence[Row] = ()

    def write(self, folder: Path) -> dict[str, Any]:
        """Write the tables that there are into `folder`; returns what summary.json holds of them."""
        found = {
            "rater_cases": self.cases,
            "rater_masks": self.measures,
            "raters": self.pairs,
            "rater_reliability": self.reliability,
            "second_rater": self.second,
            "visual_scores": self.visual,
        }
        for name, rows in found.items():
            if rows:
                write_csv(folder / f"{name}.csv", rows)
        tables: list[tuple[str, list[list[str]], Sequence[str], int]] = (
            [("Agreement of visual scores.", _visual_table(self.visual), (), 3)]
            if self.visual
            else [("Agreement of raters.", _pair_table(self.pairs), NOTES, 2 + self._by_region)]
        )
        if self.reliability:
            table = _reliability_table(self.reliability)
            tables.append(("Agreement of all raters.", table, (), 1 + self._by_region))
        if self.second:
            table = _second_table(self.second)
            tables.append(("Tools beside a second rater.", table, SECOND_NOTES, 3 + self._by_region))
        texts = [markdown_table(table, notes) for _, table, notes, _ in tables]
        (folder / "raters.md").write_text("\n".join(texts), encoding="utf-8")
        texts = [latex_table(table, notes, title, words) for title, table, notes, words in tables]
        (folder / "raters.tex").write_text("\n".join(texts), encoding="utf-8")
        return {name: rows for name, rows in found.items() if rows and name != "rater_cases"}

    @property
    def _by_region(self) -> bool:
        """Whether tables of masks have a column of regions."""
        return len(regions_of(self.pairs)) > 1

    def lines(self) -> list[str]:
        """What is printed: the answer for each tool, or the raters' own agreement."""
        if self.visual:
            return [markdown_table(_visual_table(self.visual)).rstrip()]
        tables = [_pair_table(self.pairs), _reliability_table(self.reliability)]
        tables += [_second_table(self.second)] if self.second else []
        return [markdown_table(table).rstrip() for table in tables]


def rate_masks(
    raters: Sequence[MaskSource], tools: Sequence[MaskSource], maps: RegionMaps | None, warnings: list[Problem]
) -> Ratings:
    """Compare the raters' masks with each other, and the tools' with them, on the grid of the first rater.

    maps: of regions on that grid; then each of them is compared, too.

    Raises InputError as `check_cases` does, or with all problems of all cases.
    """
    cases = check_cases(raters, tools)
    names = [rater.name for rater in raters]
    pairs: list[Row] = []
    measures: list[Row] = []
    problems: list[Problem] = []
    for case in cases:
        try:
            like = read_map(raters[0].files[case])[0]
            sources = [*raters, *(tool for tool in tools if case in tool.files)]
            masks = {source.name: source.mask(case, like, warnings) for source in sources}
            regions, odd = (None, []) if maps is None else maps.read(case, like)
        except InputError as error:
            problems += error.problems
            continue
        voxel = voxel_volume(like.affine)
        warnings += odd
        found, sizes = compare_case(masks, names, voxel, regions, None if maps is None else maps.names)
        pairs += [{"case": case} | row for row in found]
        measures += [{"case": case} | row for row in sizes]
    if problems:
        raise InputError.of(problems)
    return Ratings(
        cases=pairs,
        measures=measures,
        pairs=pair_rows(pairs, measures),
        reliability=reliability_rows(measures, names),
        second=second_rater_rows(pairs, names, [tool.name for tool in tools]),
    )


def check_visual(visual: VisualScores, tools: Sequence[MaskSource], maps: RegionMaps | None) -> None:
    """Raise InputError if a tool has cases that the table lacks, or the table regions that the maps lack."""
    known = {WHOLE, *([] if maps is None else maps.names.values())}
    problems = []
    if tools and (strange := [region for region in visual.regions if region not in known]):
        hint = "name the maps with --regions, or leave the column out"
        what = "The table has regions that no map has."
        problems.append(Problem(what, str(visual.file), ", ".join(sorted(known)), few(strange), hint))
    for tool in tools:
        if absent := sorted(set(tool.files) - set(visual.cases)):
            what = "A tool has cases without a visual score."
            problems.append(Problem(what, tool.name, few(visual.cases), few(absent), "name the files after the case"))
    if problems:
        raise InputError.of(problems)


def rate_visually(
    visual: VisualScores, tools: Sequence[MaskSource], maps: RegionMaps | None, warnings: list[Problem]
) -> Ratings:
    """Compare the columns of a table of visual scores, and the tools' counts with them.

    Counts are of 26-connected clusters, in the table's regions with `maps`. Raises InputError with all problems of all
    masks.
    """
    problems: list[Problem] = []
    counts: dict[tuple[str, str, str], float] = {}
    for tool in tools:
        for case in tool.files:
            try:
                found = _counts(tool, case, maps if set(visual.regions) != {WHOLE} else None, warnings)
            except InputError as error:
                problems += error.problems
                continue
            counts |= {(tool.name, case, region): count for region, count in found.items()}
    if problems:
        raise InputError.of(problems)
    return Ratings(visual=visual_rows(visual, [tool.name for tool in tools], counts))


def _counts(tool: MaskSource, case: str, maps: RegionMaps | None, warnings: list[Problem]) -> Mapping[str, int]:
    image = read_map(tool.files[case])[0]
    labels, count = label_clusters(tool.mask(case, image, warnings))
    counts = {WHOLE: count}
    if maps is not None:
        regions, odd = maps.read(case, image)
        warnings += odd
        places = cluster_regions(labels, count, regions)
        counts |= {name: int((places == value).sum()) for value, name in maps.names.items()}
    return counts


def _pair_table(rows: Sequence[Row]) -> list[list[str]]:
    table = [["first", "second", "scans", "Dice", "cluster Dice", "volume ICC(2,1)", "count ICC(2,1)"]]
    for row in rows:
        cells = [shown(row["first"]), shown(row["second"]), str(row["scans"])]
        cells += [
            _mean_sd(row["dice_mean"], row["dice_sd"]),
            _mean_sd(row["cluster_dice_mean"], row["cluster_dice_sd"]),
        ]
        table.append([*cells, *(_number(row.get(f"{name}_icc_2_1", math.nan)) for name in ("volume_mm3", "count"))])
    return _with_regions(rows, table)


def _reliability_table(rows: Sequence[Row]) -> list[list[str]]:
    table = [["quantity", "raters", "scans", "ICC(2,1)", "ICC(3,1)"]]
    for row in rows:
        cells = [row["quantity"].partition("_")[0], str(row["raters"]), str(row["scans"])]
        for name in ("icc_2_1", "icc_3_1"):
            cells.append(_with_interval(row[name], row[f"{name}_low"], row[f"{name}_high"], ".2f"))
        table.append(cells)
    return _with_regions(rows, table)


def _second_table(rows: Sequence[Row]) -> list[list[str]]:
    table = [["tool", "score", "against", "scans", "tool mean", "rater mean", "difference", "p", "Williams index"]]
    for row in rows:
        cells = [shown(row["tool"]), row["score"].replace("_", " "), row["against"], str(row["scans"])]
        cells += [f"{row['tool_mean']:.3f}", f"{row['rater_mean']:.3f}"]
        cells += [_with_interval(row["difference"], row["low"], row["high"], "+.3f"), f"{row['p']:.3g}"]
        cells.append(_with_interval(row["williams_index"], row["williams_low"], row["williams_high"], ".3f"))
        table.append(cells)
    return _with_regions(rows, table)


def _visual_table(rows: Sequence[Row]) -> list[list[str]]:
    columns = {
        "kappa, linear": "kappa_linear",
        "kappa, quadratic": "kappa_quadratic",
        "ICC(2,1)": "icc_2_1",
        "Spearman": "spearman",
    }
    table = [["region", "first", "second", "scans", *columns]]
    for row in rows:
        cells = [_place(row), shown(row["first"]), shown(row["second"]), str(row["scans"])]
        table.append([*cells, *(_number(row.get(name, math.nan)) for name in columns.values())])
    return table


def _with_regions(rows: Sequence[Row], table: list[list[str]]) -> list[list[str]]:
    """The table of these rows with their regions in the first column, if there are several."""
    if len(regions_of(rows)) < 2:
        return table
    return [[first, *row] for first, row in zip(["region", *map(_place, rows)], table, strict=True)]


def _place(row: Row) -> str:
    return "whole" if row["region"] == WHOLE else shown(row["region"])


def _mean_sd(mean: float, sd: float) -> str:
    return _number(mean) if math.isnan(sd) else f"{mean:.2f} ({sd:.2f})"


def _with_interval(value: float, low: float, high: float, digits: str) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:{digits}}" + ("" if math.isnan(low) else f" [{low:{digits}}, {high:{digits}}]")


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"
