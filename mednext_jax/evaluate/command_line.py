"""The options of `mednext-jax evaluate`, and the call that they make."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TypeVar

from mednext_jax.errors import InputError

T = TypeVar("T")


def add_evaluate(evaluate: argparse.ArgumentParser) -> None:
    """Give the parser of the command its options."""
    masks = "a folder, a file, or a pattern such as out/{case}/pvs_map.nii.gz"
    evaluate.add_argument(
        "-p",
        "--predictions",
        type=_named,
        action="append",
        default=None,
        metavar="[NAME=]MASKS",
        help=f"{masks}; repeat with names for several tools (default: none; then --raters)",
    )
    evaluate.add_argument(
        "-r",
        "--references",
        type=Path,
        default=None,
        metavar="MASKS",
        help=f"{masks} (default: none; then --raters)",
    )
    evaluate.add_argument(
        "-o",
        "--out",
        type=Path,
        default=None,
        metavar="OUT",
        help="a new folder (needed; default with --cv: see there)",
    )
    evaluate.add_argument(
        "--regions",
        type=Path,
        default=None,
        metavar="MASKS",
        help="region maps, with regions.json (default: the whole scan alone)",
    )
    evaluate.add_argument("--no-figures", action="store_true", help="tables only (default: PNG and SVG, too)")
    evaluate.add_argument(
        "--cv",
        type=Path,
        default=None,
        metavar="DIR",
        help="instead of masks: the table of the folds that were trained into DIR/* (default of OUT: "
        "DIR/cross_validation)",
    )
    reading = evaluate.add_argument_group("how maps are read")
    reading.add_argument(
        "--threshold",
        type=_named_probability,
        action="append",
        default=None,
        metavar="[NAME=]T",
        help="a probability above T (0 to 1) is PVS (default: probability maps are refused); of one tool: NAME=T",
    )
    reading.add_argument(
        "--labels",
        type=_named_labels,
        action="append",
        default=None,
        metavar="[NAME=]N,N",
        help="values of label maps that are PVS (default: all above 0); of one tool, rater or `reference`: NAME=N,N",
    )
    reading.add_argument(
        "--resample", action="store_true", help="bring maps of other grids onto the reference's (default: refused)"
    )
    reading.add_argument(
        "--ignore-label",
        type=int,
        default=None,
        metavar="N",
        help="value of the references that does not count (default: that of their dataset.json)",
    )
    raters = evaluate.add_argument_group("raters")
    raters.add_argument(
        "--raters",
        type=_named,
        nargs="+",
        default=None,
        metavar="[NAME=]MASKS",
        help="masks of two raters or more, or one table (.tsv, .csv) of visual scores; -r may be left out "
        "(default: none)",
    )
    thresholds = evaluate.add_argument_group("choosing a threshold, on validation scans")
    thresholds.add_argument(
        "--sweep",
        nargs="?",
        choices=("dice", "cluster_dice"),
        const="dice",
        default=None,
        help="score thresholds of probability maps from 0.01 to 0.99, and choose by this score (default: dice)",
    )
    thresholds.add_argument(
        "--write-threshold",
        type=Path,
        default=None,
        metavar="MODEL",
        help="write the chosen threshold into this model directory (default: it is only told)",
    )


def run_evaluate(options: argparse.Namespace) -> None:
    """Run what the options say."""
    from mednext_jax.evaluate.cross_validation import evaluate_cross_validation
    from mednext_jax.evaluate.evaluate import evaluate

    if options.cv is not None:
        others = ("predictions", "references", "regions", "threshold", "labels", "ignore_label", "raters", "sweep")
        if any(getattr(options, name) is not None for name in (*others, "write_threshold")) or options.resample:
            raise InputError("--cv reads the scores of the folds; of the other options it takes only -o.")
        evaluate_cross_validation(options.cv, options.out)
        return
    if options.out is None or (options.raters is None and None in (options.predictions, options.references)):
        raise InputError("Nothing says what to evaluate.", expected="-p, -r and -o together, --raters and -o, or --cv")
    evaluate(
        _sources(options.predictions, "--predictions"),
        options.references,
        options.out,
        regions=options.regions,
        ignore_label=options.ignore_label,
        threshold=_options(options.threshold, "--threshold"),
        labels=_options(options.labels, "--labels"),
        resample=options.resample,
        raters=_sources(options.raters, "--raters"),
        sweep=options.sweep,
        write_threshold=options.write_threshold,
        figures=not options.no_figures,
    )


def _named(text: str) -> tuple[str | None, str]:
    """NAME=VALUE; a path that exists is one, whatever it is called."""
    name, equals, value = text.partition("=")
    if not equals or Path(text).exists():
        return None, text
    if not name or not value:
        raise argparse.ArgumentTypeError(f"expected VALUE or NAME=VALUE, found {text!r}")
    return name, value


def _named_probability(text: str) -> tuple[str | None, float]:
    name, value = _named(text)
    try:
        return name, float(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected T or NAME=T with T from 0 to 1, found {text!r}") from None


def _named_labels(text: str) -> tuple[str | None, tuple[int, ...]]:
    name, value = _named(text)
    if not re.fullmatch(r"\d{1,5}(,\d{1,5})*", value):
        raise argparse.ArgumentTypeError(f"expected N,N or NAME=N,N with whole numbers, found {text!r}")
    return name, tuple(map(int, value.split(",")))


def _sources(given: list[tuple[str | None, str]] | None, what: str) -> str | dict[str, str] | None:
    """One path, or several by name; a path without a name is called like its folder."""
    if given is None or (len(given) == 1 and given[0][0] is None):
        return None if given is None else given[0][1]
    return _as_mapping([(name or Path(value).name, value) for name, value in given], what)


def _options(given: list[tuple[str | None, T]] | None, what: str) -> T | dict[str, T] | None:
    """One value for all, or values by name."""
    if given is None or (len(given) == 1 and given[0][0] is None):
        return None if given is None else given[0][1]
    if any(name is None for name, _ in given):
        raise InputError(f"{what} is given for all and again.", expected="one value, or one for each name")
    return _as_mapping([(name or "", value) for name, value in given], what)


def _as_mapping(pairs: list[tuple[str, T]], what: str) -> dict[str, T]:
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        raise InputError(f"{what}: a name is there twice.", found=", ".join(names), hint="give names: NAME=...")
    return dict(pairs)
