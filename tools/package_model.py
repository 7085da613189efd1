"""Make a model directory the packaged one: float16 weights, the line that `predict` says of it, and its model card.

    python -m tools.package_model MODEL [--anatomies TEXT] [--figures FILE.json ...] [--real FOLDER] [--scans TEXT]

Replaces mednext_jax/weights/without_labels: model.safetensors, model.json (provenance without the paths of the
training's machine), README.md (the card), figures.json, and reliability.png where there is a table to draw it from
(which takes matplotlib). The card shows the tables of MODEL/calibration.json (`tools.calibrate_model`), of the other
files (`tools.tables`) and of what `tools.bench_real` wrote into FOLDER, and no row that none of them holds.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any

from mednext_jax.convert.architecture import describe
from mednext_jax.convert.sources import count
from mednext_jax.errors import InputError
from mednext_jax.io.absent import refuse_absent
from mednext_jax.io.geometry import in_mm
from mednext_jax.weights.directory import WEIGHTS, Model, load_model, save_model
from mednext_jax.weights.packaged import FOLDER, LARGEST, NAME
from mednext_jax.weights.recipe import Recipe
from mednext_jax.weights.threshold_table import contrasts_of
from tools.arguments import told_in_words, without_matplotlib
from tools.tables import CALIBRATION, RELIABILITY, Table, as_json, read_tables

CARD, FIGURES, PICTURE = "README.md", "figures.json", "reliability.png"
# Columns of the summary of `tools.bench_real` that the card shows.
_OF_A_SCAN = (
    *("case", "threshold", "clusters", "misplaced", "not_deep", "in_lesions", "recall"),
    *("recall_below_5", "recall_5_to_15", "recall_above_15", "recall_untouched"),
)


def package(
    model: Path,
    figures: Sequence[Path] = (),
    anatomies: str | None = None,
    target: Path = FOLDER,
    *,
    real: Path | None = None,
    scans: str = "",
) -> Path:
    """Do what the module says into the folder `target`; raises InputError for a model that does not fit."""
    loaded = load_model(model)
    recipe = loaded.recipe
    if len(recipe.channel_names) != 1 or recipe.decision_threshold is None:
        raise InputError(
            "The packaged model takes any single scan.",
            file=model,
            expected="one channel, background and PVS",
            found=f"{', '.join(recipe.channel_names)}; {', '.join(recipe.labels)}",
        )
    own = model / CALIBRATION
    files = [*([own] if own.is_file() else []), *figures]
    tables = [table for file in files for table in read_tables(file)]
    tables += [] if real is None else list(_of_real_scans(real, scans))
    about: dict[str, Any] = {**_without_paths(dict(loaded.provenance)), "notice": notice(recipe)}
    if anatomies is not None:
        about["anatomies"] = anatomies
    new = target.with_name(f"{target.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    save_model(new, loaded.config, loaded.params, recipe, about, half=True)
    try:
        size = (new / WEIGHTS).stat().st_size
        if size > LARGEST:
            raise InputError(
                "The model is too large for the package.",
                file=model,
                expected=f"at most {LARGEST / 1e6:g} MB in float16",
                found=f"{size / 1e6:.1f} MB",
            )
        for table in tables:
            if table.title == RELIABILITY:
                _draw(new / PICTURE, table)
        (new / CARD).write_text("\n".join(card(load_model(new), size, tables)))
        if tables:
            (new / FIGURES).write_text(as_json(tables))
        shutil.rmtree(target, ignore_errors=True)
        new.rename(target)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return target


def notice(recipe: Recipe) -> str:
    """The line on what the model is: its training, that it is not validated, its contrasts and voxel sizes."""
    named = ", ".join(contrasts_of(recipe.thresholds) or recipe.channel_names)
    sizes = [row["largest_voxel"] for row in recipe.thresholds if row["largest_voxel"] is not None]
    voxels = f", voxels up to {max(sizes):g} mm" if sizes else ""
    if recipe.spacing is not None:
        voxels += f", computed at {in_mm(reversed(recipe.spacing))}"
    return f"trained on simulated PVS only, not validated on patients; for {named}{voxels}"


def card(model: Model, size: int, tables: Sequence[Table]) -> Iterator[str]:
    """The lines of the model card of the packaged `model`, whose weights take `size` bytes."""
    recipe, told = model.recipe, model.provenance
    spacing = "each scan's own" if recipe.spacing is None else in_mm(reversed(recipe.spacing))
    yield from (
        f"# {NAME}: the packaged model",
        "",
        f"What `predict` takes without `-m`: {notice(recipe)}.",
        "",
        "Research software: not a medical device, not for clinical use.",
        "",
        "## What it is for",
        "",
        "- A first look at scans in a lab without labels and weights: where to look, what a rater may correct.",
        "- A start for [fine-tuning](../../../docs/without_labels.md#fine-tune-it) on a few scans that you label.",
        "",
        "## What it is not for",
        "",
        "- Counts or volumes of people that nobody has checked: no patient's scan was used to train or to choose",
        "  anything, and no rater has judged what it finds. Compare it with a rater's masks of your own scans first.",
        "- Figures on simulated scans mean nothing for patients. A replication of the DoRA-PVS challenge 2026 reports",
        "  an AUPRC of 0.88 on its own simulated scans; the best of the challenge's networks that were trained by",
        "  simulation alone has a median of 0.26 over twelve cohorts of real ones",
        "  ([source, second-hand](https://github.com/Sahillatif0/dora_pvs_replication)).",
        "- Look-alikes: sulci, vessels, lacunes and hyperintensities are where it errs most.",
        "",
        "## The model",
        "",
        f"- {describe(model.config)}, {count(model.params):,} parameters, {size / 1e6:.1f} MB in float16",
        f"- channel {recipe.channel_names[0]}, normalisation {recipe.normalisation[0]}; voxel size {spacing}; "
        f"patch {' x '.join(map(str, recipe.patch_size))} voxels",
        *_training(told),
        "",
    )
    curve = (
        f"![The share of PVS among voxels over their probability, before and after the temperature]({PICTURE})\n\n"
        "Below the diagonal fewer voxels are PVS than their probability says."
    )
    for table in tables:
        yield from table.markdown(curve if table.title == RELIABILITY else "")
    yield from (
        "## Licence",
        "",
        "The weights are under the project's licence, Apache-2.0."
        + (f" Anatomies that PVS were simulated in: {told['anatomies']}." if "anatomies" in told else ""),
        "",
    )


def _draw(path: Path, table: Table) -> None:
    try:
        from tools.reliability_picture import draw_reliability
    except ImportError:
        raise without_matplotlib("The card's reliability curve cannot be drawn.") from None
    draw_reliability(path, table)


def _of_real_scans(folder: Path, scans: str) -> Iterator[Table]:
    """The summary and the agreement that `tools.bench_real` wrote; `scans`: whose they are."""
    names, rows = _read_tsv(folder / "summary.tsv")
    shown = [index for index, name in enumerate(names) if name in _OF_A_SCAN]
    yield Table(
        "Real scans, of which nobody knows the PVS",
        f"{scans + '. ' if scans else ''}By `tools.bench_real`: of the clusters in the scan as it is, the shares that "
        "lie where no PVS are (misplaced), not deep in tissue, in lesions; of the tubes painted into it, the share "
        "found, by volume (mm3), and the share of their places that are marked without them. The tool averages "
        "over no mirrors unless it is told to, `predict` does unless it is told not to. No rater has marked these "
        "scans.",
        tuple(names[index].replace("_", " ") for index in shown),
        [tuple(row[index] for index in shown) for row in rows],
    )
    file = folder / "agreement.tsv"
    if file.is_file() and file.read_bytes().strip():  # empty without two contrasts of one person
        names, rows = _read_tsv(file)
        yield Table(
            "Agreement between contrasts of one person",
            "Of clusters that are not misplaced, the share found in the other contrast at the same place, each way, "
            "beside that of randomly moved ones.",
            tuple(names),
            [tuple(row) for row in rows],
        )


def _read_tsv(file: Path) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of a table of `tools.bench_real`; raises InputError for another file."""
    refuse_absent(file, "table", "what tools.bench_real wrote: summary.tsv, agreement.tsv")
    names, *rows = [line.split("\t") for line in file.read_text(errors="replace").splitlines()]
    if names[0] != "case" or any(len(row) != len(names) for row in rows):
        raise InputError(
            "The table is none of tools.bench_real.",
            file=file,
            expected="the column case, and as many cells in each row",
            found=f"{', '.join(names)[:100]}; {len(rows)} rows",
        )
    return names, rows


def _training(told: Any) -> list[str]:
    data, config, steps = told.get("data_set"), told.get("config"), told.get("steps")
    name = data.get("name") if isinstance(data, dict) else None
    start = config.get("init_from") if isinstance(config, dict) else None
    if start == NAME:
        start = "the model that was packaged before"
    lines = [f"- trained on {name}"] if name else []
    if isinstance(steps, int):
        lines.append(f"- {steps:,} steps" + (f", from the weights of {start}" if start else ""))
    return lines


def _without_paths(value: Any) -> Any:
    """JSON values in which an absolute path is its last part."""
    if isinstance(value, dict):
        return {name: _without_paths(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_without_paths(one) for one in value]
    return PurePath(value).name if isinstance(value, str) and value.startswith("/") else value


def main() -> None:
    """Read the arguments, package, say where."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, metavar="MODEL")
    parser.add_argument("--figures", type=Path, nargs="+", default=[], metavar="FILE.json")
    parser.add_argument("--real", type=Path, default=None, metavar="FOLDER", help="that tools.bench_real wrote into")
    parser.add_argument("--scans", default="", metavar="TEXT", help="whose the real scans are, and their licence")
    parser.add_argument("--anatomies", default=None, metavar="TEXT", help="what PVS were simulated in, and its licence")
    options = parser.parse_args()
    with told_in_words("package_model"):
        print(package(options.model, options.figures, options.anatomies, real=options.real, scans=options.scans))


if __name__ == "__main__":
    main()
