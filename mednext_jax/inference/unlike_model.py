"""Scans that by their names or headers are of another contrast, or of more channels, than the model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from mednext_jax.errors import InputError, Problem
from mednext_jax.inference.scans import CHANNEL, Scan
from mednext_jax.io.contrast import LONGEST_T1, SHORTEST_T2, contrast_in, echo_contradicts, echo_time, scan_contrast
from mednext_jax.io.nifti_names import stem
from mednext_jax.io.voxels import open_voxels
from mednext_jax.weights.recipe import Recipe
from mednext_jax.weights.threshold_table import ThresholdRow, contrasts_of


def unlike_model(
    scans: Iterable[Scan], recipe: Recipe, thresholds: Sequence[ThresholdRow] | None = None
) -> list[Problem]:
    """Warnings of what the scans' names and headers contradict in the recipe.

    A file whose name, or whose header's echo time, tells another contrast than its channel's; nothing is said where the
    channel's name tells none ("MRI", "channel_0"), or the file does not. A file of nnU-Net's numbering whose other
    channels the model does not see. A scan in no contrast of the model's table of thresholds, or, where this table
    decides (`thresholds`, by default the recipe's), one whose contrast is not known.
    """
    scans = list(scans)
    decides = bool(recipe.thresholds if thresholds is None else thresholds)
    return [
        *_other_contrasts(scans, recipe),
        *_more_channels(scans, recipe),
        *(problem for scan in scans if (problem := _without_row(scan, recipe, decides)) is not None),
    ]


def is_foreign(contrast: str | None, recipe: Recipe) -> bool:
    """Whether a scan is of a contrast that the model's table of thresholds does not know."""
    known = contrasts_of(recipe.thresholds)
    return bool(known) and contrast is not None and contrast not in known


def _other_contrasts(scans: Sequence[Scan], recipe: Recipe) -> list[Problem]:
    wanted = [contrast_in(name) for name in recipe.channel_names]
    pairs = ((file, channel) for scan in scans for file, channel in zip(scan.files, wanted, strict=True))
    return [problem for file, channel in pairs if (problem := contradiction(file, channel)) is not None]


def _more_channels(scans: Sequence[Scan], recipe: Recipe) -> list[Problem]:
    found = []
    for scan in scans if len(recipe.channel_names) == 1 else ():
        match = CHANNEL.fullmatch(stem(scan.files[0]))
        second = scan.files[0].with_name(scan.files[0].name.replace("_0000", "_0001"))
        if match and int(match[2]) == 0 and second.exists():
            names, there = ", ".join(recipe.channel_names), f"{scan.files[0].name}, {second.name}"
            what, hint = "The scan has more channels than the model, which sees the first.", "take a model of them all"
            found.append(Problem(what, str(scan.files[0]), f"1: {names}", f"at least 2: {there}", hint, "W"))
    return found


def _without_row(scan: Scan, recipe: Recipe, decides: bool) -> Problem | None:
    known = contrasts_of(recipe.thresholds)
    if not known or len(scan.files) != 1:
        return None
    contrast, file = scan_contrast(scan.files[0]), str(scan.files[0])
    if is_foreign(contrast, recipe):
        what = "The scan is in no contrast that the model knows; its result may be meaningless."
        hint = f"its threshold is the model's general one, {recipe.threshold:g}" if decides else None
        return Problem(what, file, ", ".join(known), contrast, hint, "W")
    if contrast is None and decides:
        what = f"No name tells the scan's contrast; the model's general threshold, {recipe.threshold:g}, is taken."
        return Problem(what, file, f"a name such as CASE_{known[0]}.nii.gz", severity="W")
    return None


def contradiction(file: Path, channel: str | None) -> Problem | None:
    """A warning if the name of a file, or its header, tells another contrast than `channel`; None fits everything."""
    if channel is None:
        return None
    named = contrast_in(stem(file))
    if named is not None:
        found = f"{named}, by the file's name" if named != channel else None
    else:
        found = _echo_of_another(file, channel)
    if found is None:
        return None
    what = "The scan seems to be of another contrast than the model was trained on; its result may be meaningless."
    return Problem(
        what, str(file), channel, found, "take a model of this contrast, or name the file as what it is", "W"
    )


def _echo_of_another(file: Path, channel: str) -> str | None:
    try:
        echo = echo_time(open_voxels(file).header["descrip"].item().decode("latin-1"))
    except (InputError, KeyError, ValueError):  # told when the voxels are read
        return None
    limit = f"at most {LONGEST_T1:g}" if channel == "T1w" else f"at least {SHORTEST_T2:g}"
    return (
        f"an echo time of {echo:g} ms in the header ({channel}: {limit} ms)"
        if echo_contradicts(channel, echo)
        else None
    )
