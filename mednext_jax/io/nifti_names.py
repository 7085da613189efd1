"""The scans and NIfTI files of a folder by their names, and what else there looks like an image and is left out."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from mednext_jax.errors import Problem
from mednext_jax.io.nifti_header import NIFTI_ENDINGS
from mednext_jax.io.scan_formats import SCAN_ENDINGS

# Images of other formats, halves of a NIfTI pair and other compressions: people expect them to be read.
OTHER_IMAGES = (
    *(".mgz", ".mgh", ".nrrd", ".nhdr", ".mha", ".mhd", ".mnc", ".dcm", ".ima", ".img", ".hdr"),
    *(".img.gz", ".hdr.gz", ".nii.bz2", ".nii.zst", ".nii.xz", ".nii.zip"),
)
# What a map is, in its name.
_WHAT = re.compile(r"_(mask|dseg|probability|probseg|(space|label|seg|desc)-[a-zA-Z0-9]+)(?=_|$)")
NAMED = 5  # files that a message names


def is_nifti_name(path: Path) -> bool:
    """Whether a file is called NAME.nii or NAME.nii.gz in any letters; hidden files (macOS's ._NAME) do not count."""
    return path.name.lower().endswith(NIFTI_ENDINGS) and not path.name.startswith(".")


def is_scan_name(path: Path) -> bool:
    """Whether a file is called as a scan of a format that is read: .nii, .nii.gz, .mgz, .mgh, .nrrd, .mha."""
    return path.name.lower().endswith(SCAN_ENDINGS) and not path.name.startswith(".")


def stem(path: Path) -> str:
    """The name of a file without .nii, .nii.gz or the ending of another format of scans."""
    ending = next((e for e in SCAN_ENDINGS if path.name.lower().endswith(e)), "")
    return path.name[: len(path.name) - len(ending)]


def case_of(path: Path) -> str:
    """The case of a map: `sub-1_space-orig_label-PVS_mask.nii.gz`, `sub-1_mask.nii.gz` and `sub-1.nii` agree."""
    return _WHAT.sub("", stem(path))


def files_in(folder: Path) -> list[Path]:
    """Paths of what lies in a folder, sorted, hidden names left out."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def files_below(folder: Path) -> list[Path]:
    """The files of a folder and of all below it, sorted; links to folders are followed, hidden names left out."""
    return sorted(walk(folder))


def left_out(files: Iterable[Path], where: Path, read: tuple[str, ...] = NIFTI_ENDINGS) -> list[Problem]:
    """A warning that names the images among `files` with other endings than those that are `read` here."""
    unread = tuple(ending for ending in OTHER_IMAGES if ending not in read)
    others = [p for p in files if p.name.lower().endswith(unread) and not p.name.startswith(".")]
    if not others:
        return []
    return [
        Problem(
            f"{len(others)} image{'s' * (len(others) > 1)} of another format {'are' if len(others) > 1 else 'is'} "
            "left out.",
            str(where),
            expected=" or ".join(read),
            found=few(sorted(p.name for p in others)),
            hint="convert them, for example with mri_convert, or with nibabel's nib-convert for .img/.hdr pairs",
            severity="W",
        )
    ]


def few(names: Sequence[str]) -> str:
    """The first names of a list, and how many more there are."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def walk(folder: Path, above: frozenset[tuple[int, int]] = frozenset()) -> Iterator[Path]:
    """The files of a folder and of all below it, one after another, as `files_below` lists them.

    `above`: the folders that the walk is inside of; a link back to one of them is not followed.
    """
    status = os.stat(folder)
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    for path in files_in(folder):
        if path.is_dir():
            yield from walk(path, above | {here})
        else:
            yield path
