"""The contrast of a scan, as its name, its data set or its header tells it: T1w, T2w, FLAIR, PD, T2star."""

from __future__ import annotations

import functools
import os
import re
from pathlib import Path

from mednext_jax.errors import InputError
from mednext_jax.io.json_file import read_json
from mednext_jax.io.nifti_names import stem
from mednext_jax.io.nnunet_raw import JSON_LIMIT, channels_of

# Words of file names and of sequences, without their case.
_WORDS = {
    "T1w": {"t1", "t1w", "mprage", "mp2rage", "mpr", "spgr", "bravo", "tfl", "unit1"},
    "T2w": {"t2", "t2w"},
    "FLAIR": {"flair", "t2flair"},
    "PD": {"pd", "pdw"},
    "T2star": {"t2star", "t2starw", "swi", "gre"},
}
CONTRASTS = tuple(_WORDS)
# Echo times in ms that no T1w scan of the brain is made with, and no T2w or FLAIR (MPRAGE 2 to 5, SPACE 90 to 600).
LONGEST_T1, SHORTEST_T2 = 20.0, 50.0


def contrast_in(name: str) -> str | None:
    """The only contrast that the words of a name tell; None if they tell none or several.

    Words are separated by anything but letters and digits; a FLAIR may be called T2 as well.
    """
    words = {word.casefold() for word in re.split(r"[^A-Za-z0-9]+", name)}
    found = {contrast for contrast, theirs in _WORDS.items() if words & theirs}
    if "FLAIR" in found:
        found -= {"T2w"}
    return found.pop() if len(found) == 1 else None


def scan_contrast(file: str | os.PathLike) -> str | None:
    """The contrast of a scan's file by its name, or else by the name of its channel in nnU-Net's dataset.json.

    That lies beside the file, or beside its folder (imagesTr, imagesTs); the channel is the number at the name's end.
    """
    path = Path(file)
    if (named := contrast_in(stem(path))) is not None:
        return named
    number = re.search(r"_(\d{4})$", stem(path))
    for folder in (path.parent, path.parent.parent):
        names = _channel_names(folder / "dataset.json")
        channel = int(number[1]) if number else 0
        if channel < len(names) and (number or len(names) == 1):
            return contrast_in(names[channel])
    return None


def _channel_names(file: Path) -> tuple[str, ...]:
    try:
        return _read_channel_names(file, file.stat().st_mtime_ns)
    except (InputError, OSError):
        return ()


@functools.lru_cache(maxsize=8)
def _read_channel_names(file: Path, _: int) -> tuple[str, ...]:
    return channels_of(read_json(file, limit=JSON_LIMIT))


def echo_time(description: str) -> float | None:
    """The echo time in ms that dcm2niix writes into a NIfTI header's `descrip` ("TE=2.98;Time=..."), if it is there."""
    match = re.search(r"(?:^|[;\s])TE=([0-9]{1,5}(?:\.[0-9]{1,6})?)(?![0-9.])", description)
    return float(match[1]) if match and float(match[1]) > 0 else None


def echo_contradicts(contrast: str | None, milliseconds: float | None) -> bool:
    """Whether no scan of this contrast has such an echo time."""
    if milliseconds is None:
        return False
    return (contrast == "T1w" and milliseconds > LONGEST_T1) or (
        contrast in ("T2w", "FLAIR") and milliseconds < SHORTEST_T2
    )
