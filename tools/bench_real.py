"""What a model, or masks, do on real scans without labels: painted recall, misplaced clusters, agreement, lesions.

    python -m tools.bench_real SCANS -m MODEL -o OUT
    python -m tools.bench_real SCANS --masks FOLDER -o OUT --regions OUT/tissue

SCANS: files or folders of brain-extracted scans whose names tell person and contrast (ms07_T1.nii.gz, ms07_T2.nii.gz);
PERSON_lesions.nii.gz beside them are masks of lesions. Nothing else is read. -m can be given several times: a scan is
segmented by the first model that takes its contrast, as its channel or its table of thresholds tells.

* painted recall: tubes painted by `simulate.painting` into white matter, basal ganglia, hippocampus and brainstem, of
  all, by volume (below 5, 5 to 15, above 15 mm3) and by strength (weak below 0.4, strong from 0.6);
  recall_untouched is how many of these places the mask of the untouched scan marks already. recall_at_N: at the
  threshold from which on the untouched scan never has more than N clusters.
* misplaced: the share of clusters of the untouched scan of which at least half lies in cortex, cerebellum, sulci,
  ventricles, outside of the brain or in its outer 2 mm. not_deep: of which not half lies deeper than 2 mm in white
  matter or a nucleus; that is stricter, since real PVS reach the edge of white matter, too. tubes_misplaced and
  tubes_not_deep are these shares of the painted tubes' own labels: what a perfect mask would have.
* agreement: between contrasts of one person on one grid, of clusters that are not misplaced, and the ratio to that of
  randomly moved clusters. in_lesions: the share of clusters of which at least half lies in the lesion mask.

`--regions MAPS` are region maps as for `quantify`; without them `real_tissue` estimates them (its docstring says what
that gets wrong), and OUT/tissue keeps them for the next call. OUT gets summary.tsv, agreement.tsv, curves.tsv (over
thresholds), curves.png, pictures/CASE.png (above untouched: green deep, orange at an edge, red misplaced; below
painted: green found, magenta missed), and painted/CASE_painted.nii.gz. Masks of other tools are measured with --masks:
CASE_mask and CASE_probability.nii.gz, and CASE_painted_mask and CASE_painted_probability.nii.gz of these. In Python:
`bench_real`.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mednext_jax.errors import InputError
from mednext_jax.io.absent import refuse_no_folder
from mednext_jax.io.atomic import replace_text
from mednext_jax.io.contrast import contrast_in
from mednext_jax.io.nifti import image_like, write_image
from mednext_jax.measure.parcellation import Parcellation
from mednext_jax.quantify.region_source import open_regions
from mednext_jax.simulate.dataset_files import refuse_wrong_number
from mednext_jax.simulate.on_scans import find_cases, random_of
from mednext_jax.simulate.painting import PaintedScan, paint_scan
from mednext_jax.simulate.placement import PvsDistribution
from tools.arguments import above_zero, told_in_words, whole, without_matplotlib
from tools.real_measures import Found, Point, Tissue, agreement, at_count, curve, find, hit, recalls
from tools.real_scans import BEST, Case, ask_model, brains_of, cut_to_brain, open_cases, read_answer, same_grid, tell

# Enough tubes for a share of each kind, fewer than crowd a brain.
TUBES = PvsDistribution(white_matter=(110, 110), basal_ganglia=(25, 25), hippocampus=(3, 3), brainstem=(2, 2))
THRESHOLDS = (0.02, 0.05, *(round(0.1 * k, 2) for k in range(1, 10)), 0.95, 0.98, 0.99, 0.995, 0.999)
COUNTS = (25, 50, 100, 200)
_NOTHING, _SCANS = "No scan could be measured.", "brain-extracted T1w, T2w or FLAIR scans"


@dataclasses.dataclass(frozen=True)
class Measured:
    """One scan with all that was measured on it."""

    case: Case
    tissue: Tissue
    painted: PaintedScan
    row: dict[str, Any]
    found: Found | None
    hits: np.ndarray | None
    points: list[Point]


def bench_real(
    scans: str | Path | Sequence[str | Path],
    out: str | Path,
    models: str | Path | Sequence[str | Path] = (),
    masks: str | Path | None = None,
    regions: str | Path | None = None,
    *,
    seed: int = 0,
    min_voxels: int = 1,
    tta: bool = False,
    step: float = 0.5,
    pictures: bool = True,
) -> list[dict[str, Any]]:
    """The rows of summary.tsv, one for each scan and the means of each contrast; writes the files into `out`.

    A scan that cannot be read or painted, and one that no model takes, is told and left out. Raises InputError if none
    is left, or for a wrong argument.
    """
    refuse_wrong_number("seed", seed, 0, 2**63 - 1)
    if masks is not None:
        refuse_no_folder(masks, "There is no folder of masks.", expected="CASE_mask.nii.gz of each scan")
    if pictures:
        _require_pictures()
    cases = open_cases(_files_of([scans] if isinstance(scans, str | Path) else scans))
    if not cases:
        raise InputError(_NOTHING, expected=_SCANS)
    predictors = _predictors([models] if isinstance(models, str | Path) else models, tta, step)
    source = None if regions is None else open_regions(Path(regions), single=len(cases) == 1)
    out = Path(out)
    for folder in ("tissue", "painted", "pictures"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    measured: list[Measured] = []
    between: list[dict[str, Any]] = []
    for person in dict.fromkeys(case.person for case in cases):
        theirs = [case for case in cases if case.person == person]
        brains = brains_of(theirs, source, out / "tissue")
        here = []
        for case in theirs:
            start = time.perf_counter()
            try:
                if case.name not in brains:
                    continue
                here.append(_measure(case, brains[case.name], predictors, masks, out, seed, min_voxels))
            except InputError as error:
                tell(error)
                continue
            if pictures:
                from tools.real_pictures import draw_scan

                one = here[-1]
                draw_scan(
                    out / "pictures" / f"{case.name}.png", case.array, one.painted, one.tissue, one.found, one.hits
                )
            print(f"{case.name}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
        between += _agreements(here, seed)
        measured += here
    if not measured:
        raise InputError(_NOTHING, expected=_SCANS)
    rows = [one.row for one in measured if len(one.row) > 2]
    rows += [_mean_row(rows, contrast) for contrast in BEST if any(row["contrast"] == contrast for row in rows)]
    curves = [_curve_row(one.case.name, point) for one in measured for point in one.points]
    for name, table in (("summary", rows), ("agreement", between), ("curves", curves)):
        replace_text(out / f"{name}.tsv", _tsv(table))
    if pictures and curves:
        from tools.real_pictures import draw_curves

        draw_curves(out / "curves.png", {one.case.name: one.points for one in measured if one.points})
    return rows


def _files_of(sources: Sequence[str | Path]) -> dict[str, Path]:
    """Case -> file of several files or folders; raises InputError for two of one name."""
    found: dict[str, Path] = {}
    for source in sources:
        for name, path in find_cases(source).items():
            if found.setdefault(name, path) != path:
                raise InputError("Two scans have one name.", file=path, found=str(found[name]), hint="rename one")
    return found


def _require_pictures() -> None:
    try:
        import tools.real_pictures  # noqa: F401
    except ImportError:
        raise without_matplotlib("No pictures can be drawn.", otherwise=", or --no-pictures") from None


def _predictors(models: Sequence[str | Path], tta: bool, step: float) -> list[Any]:
    if not models:
        return []
    from mednext_jax.compilation_cache import use_compilation_cache
    from mednext_jax.inference.predictor import Predictor

    use_compilation_cache()
    return [Predictor([model], tta=tta, step=step) for model in models]


def _takes(predictor: Any, contrast: str) -> bool:
    """Whether a model is for this contrast, as its table of thresholds or its channel tells; else it is for any."""
    table = {row["contrast"] for row in getattr(predictor.recipe, "thresholds", ())}
    channel = contrast_in(predictor.recipe.channel_names[0])
    named = table or ({channel} if channel else set())
    return not named or None in named or contrast in named


def _measure(
    case: Case,
    brain: Parcellation,
    predictors: Sequence[Any],
    masks: str | Path | None,
    out: Path,
    seed: int,
    min_voxels: int,
) -> Measured:
    brain = cut_to_brain(brain, case)
    painted = paint_scan(case.scan, brain, case.contrast, random_of(seed, case.name), TUBES, file=case.path)
    whole = np.asarray(case.whole.dataobj).copy()
    whole[case.box] = painted.image
    tissue = Tissue.of(brain, case.array, case.scan.affine)
    image = image_like(whole, case.whole, np.float32)
    row: dict[str, Any] = {"case": case.name, "contrast": case.contrast}
    if masks is not None:
        before, after = (read_answer(Path(masks), case, name) for name in (case.name, f"{case.name}_painted"))
    else:
        fitting = [p for p in predictors if _takes(p, case.contrast)]
        if predictors and not fitting:
            channels = ", ".join(p.recipe.channel_names[0] for p in predictors)
            raise InputError(
                "No model takes the scan's contrast.", file=case.path, expected=channels, found=case.contrast
            )
        write_image(out / "painted" / f"{case.name}_painted.nii.gz", image)
        before, after = (ask_model(fitting[0], case, scan) if fitting else None for scan in (case.whole, image))
    if before is None:
        return Measured(case, tissue, painted, row, None, None, [])
    found = find(before.mask, tissue, case.lesions, min_voxels)
    mask = found.labels > 0
    truth = find(painted.label > 0, tissue).shares()
    row |= {
        "threshold": before.threshold,
        "clusters": found.count,
        "volume_mm3": float(mask.sum() * abs(np.linalg.det(case.scan.affine[:3, :3]))),
        **found.shares(),
        "tubes": len(painted.placed),
        "tubes_misplaced": truth["misplaced"],
        "tubes_not_deep": truth["not_deep"],
    }
    if after is None:
        return Measured(case, tissue, painted, row, found, None, [])
    hits = hit(find(after.mask, tissue, min_voxels=min_voxels).labels > 0, painted)
    row |= recalls(hits, painted) | {"recall_untouched": float(hit(mask, painted).mean())}
    points: list[Point] = []
    if before.probability is not None and after.probability is not None:
        maps = before.probability, after.probability
        points = curve(*maps, painted, tissue, case.lesions, THRESHOLDS, min_voxels)
        for count in COUNTS:
            point = at_count(points, count)
            row |= {f"recall_at_{count}": point and point.recalls["recall"]}
            row |= {f"misplaced_at_{count}": point and point.shares["misplaced"]}
    return Measured(case, tissue, painted, row, found, hits, points)


def _agreements(measured: Sequence[Measured], seed: int) -> list[dict[str, Any]]:
    """A row for each two contrasts of one person that lie on one grid."""
    rows = []
    for k, one in enumerate(measured):
        for other in measured[k + 1 :]:
            if one.found is None or other.found is None or not same_grid(one.case, other.case):
                continue
            box = tuple(
                slice(max(a.start, b.start), min(a.stop, b.stop))
                for a, b in zip(one.case.box, other.case.box, strict=True)
            )
            parts = [_within(m, box) for m in (one, other)]
            tissue = Tissue(*(getattr(one.tissue, f)[_shifted(box, one.case.box)] for f in ("inside", "wrong", "deep")))
            names = {"case": one.case.name, "other": other.case.name}
            clusters = {"clusters": int((~one.found.misplaced).sum()), "others": int((~other.found.misplaced).sum())}
            rng = random_of(seed, f"{one.case.name} {other.case.name}")
            rows.append(names | clusters | agreement(*parts, tissue, rng))
    return rows


def _shifted(box: tuple[slice, ...], inside: tuple[slice, ...]) -> tuple[slice, ...]:
    return tuple(slice(b.start - i.start, b.stop - i.start) for b, i in zip(box, inside, strict=True))


def _within(one: Measured, box: tuple[slice, ...]) -> Found:
    assert one.found is not None
    return dataclasses.replace(one.found, labels=one.found.labels[_shifted(box, one.case.box)])


def _mean_row(rows: Sequence[dict[str, Any]], contrast: str) -> dict[str, Any]:
    """The mean of the scans of a contrast, of what is known of each."""
    chosen = [row for row in rows if row["contrast"] == contrast]
    mean: dict[str, Any] = {"case": f"mean {contrast}", "contrast": contrast}
    for name in dict.fromkeys(name for row in chosen for name in row if name not in mean):
        values = [row[name] for row in chosen if row.get(name) is not None and np.isfinite(row[name])]
        mean[name] = float(np.mean(values)) if values else float("nan")
    return mean


def _curve_row(case: str, point: Point) -> dict[str, Any]:
    return {"case": case, "threshold": point.threshold, "clusters": point.count, **point.shares, **point.recalls}


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return "n/a"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _tsv(rows: Sequence[dict[str, Any]]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = ["\t".join(names), *("\t".join(_cell(row.get(name)) for name in names) for row in rows)]
    return "\n".join(lines) + "\n"


def print_table(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> None:
    """Some columns of rows, aligned."""
    cells = [[name.replace("recall_", "") for name in names]]
    cells += [[_cell(row.get(name)) for name in names] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))


PRINTED = (
    *("case", "threshold", "clusters", "misplaced", "not_deep", "in_lesions", "recall", "recall_untouched"),
    *("recall_below_5", "recall_5_to_15", "recall_above_15", "recall_weak", "recall_middle", "recall_strong"),
    *("recall_at_50", "recall_at_100", "misplaced_at_100"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scans", nargs="+", type=Path, help="files or folders")
    parser.add_argument("-o", "--out", type=Path, required=True, help="a folder; its files are written anew")
    parser.add_argument("-m", "--model", action="append", default=[], help="a model, or several of one contrast each")
    parser.add_argument("--masks", type=Path, help="a folder of masks, in place of a model")
    parser.add_argument("--regions", type=Path, help="a folder of region maps, such as OUT/tissue of an earlier call")
    parser.add_argument("--seed", type=whole(0), default=0, help="of the painted tubes (default: 0)")
    parser.add_argument("--min-voxels", type=whole(1), default=1, help="of a cluster that counts (default: 1)")
    parser.add_argument("--step", type=above_zero, default=0.5, help="of the tiles (default: 0.5)")
    parser.add_argument("--tta", action="store_true", help="average over mirrors")
    parser.add_argument("--no-pictures", action="store_true", help="tables alone")
    options = parser.parse_args(arguments)
    if options.model and options.masks:
        parser.error("a model or masks, not both")
    with told_in_words("bench_real"):
        rows = bench_real(
            options.scans,
            options.out,
            options.model,
            options.masks,
            options.regions,
            seed=options.seed,
            min_voxels=options.min_voxels,
            tta=options.tta,
            step=options.step,
            pictures=not options.no_pictures,
        )
    print_table(rows, PRINTED)
    print("\nAgreement across contrasts")
    print((options.out / "agreement.tsv").read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
