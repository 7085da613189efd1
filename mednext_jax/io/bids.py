"""BIDS: the anatomical scans of a data set, and label maps for them in a derivatives folder."""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path

from mednext_jax.errors import InputError, Problem
from mednext_jax.io.absent import dangling_folders, is_named, refuse_no_folder
from mednext_jax.io.bids_selection import BidsSelection, entities_of
from mednext_jax.io.brain_masks import is_brain_mask
from mednext_jax.io.nifti_names import few, files_below, files_in, is_nifti_name, left_out, stem
from mednext_jax.io.raw_dataset import (
    BACKGROUND,
    LabelValue,
    RawCase,
    RawDataset,
    read_participants,
    subject_of,
)
from mednext_jax.io.table_file import read_table

SUFFIXES = ("T1w", "T2w", "FLAIR")
NO_SCANS = ("mask", "dseg", "probseg")  # suffixes of derivatives
# How the labelled clusters that `predict` writes beside a mask end: each PVS has a value of its own.
CLUSTERS_ENDING = "_seg-PVS_dseg"
DESCRIPTION, IGNORES = "dataset_description.json", ".bidsignore"
# Entities that tell scans of one subject apart; a derivative that names another value belongs to another scan.
SCAN_ENTITIES = ("ses", "acq", "run", "rec", "ce", "part", "echo")


@dataclasses.dataclass(frozen=True)
class BidsScan:
    """One anatomical scan; `id` is its name without the suffix, such as sub-01_ses-2."""

    id: str
    path: Path
    subject: str
    suffix: str


def is_bids(root: str | os.PathLike) -> bool:
    """Whether a folder is a BIDS data set: it describes itself, or has sub-*/[ses-*/]anat."""
    root = Path(root)
    described = is_named(root / DESCRIPTION) and any(root.glob("sub-*"))
    return described or any(root.glob("sub-*/anat")) or any(root.glob("sub-*/ses-*/anat"))


def bids_scans(
    root: str | os.PathLike, suffix: str | None = None, chosen: BidsSelection | None = None
) -> tuple[BidsScan, ...]:
    """The scans sub-*/[ses-*/]anat/*_SUFFIX.nii[.gz] of a BIDS data set, sorted by name.

    Without `suffix`, the only one of T1w, T2w and FLAIR that is there; `chosen`: only these. Raises InputError if there
    is none, if several are there and none is chosen, or if a scan is there twice (.nii and .nii.gz).
    """
    root = Path(root)
    scans: dict[str, list[BidsScan]] = {}
    not_chosen: list[str] = []
    for path in anatomical_files(root):
        match = re.fullmatch(r"(sub-.+)_([A-Za-z0-9]+)", stem(path)) if is_nifti_name(path) else None
        if match and match[2] in (SUFFIXES if suffix is None else (suffix,)):
            if chosen is not None and not chosen.takes(path, match[2]):
                not_chosen.append(path.name)
                continue
            scan = BidsScan(match[1], path, subject_of(match[1]), match[2])
            scans.setdefault(match[2], []).append(scan)
    if not scans and (absent := absent_subjects(root)):
        raise InputError.of(absent)
    if not scans and not_chosen:
        raise InputError(
            "No scan of the selection is in the BIDS data set.",
            file=root,
            expected=f"some of {few(not_chosen)}",
            found="none that is selected",
            hint="check --participant-label, --session-id and --bids-filter-file",
        )
    if len(scans) != 1:
        others = sorted({name for path in anatomical_files(root) if (name := _suffix(path))})
        choices = sorted(scans) or [name for name in others if name not in NO_SCANS]
        raise InputError(
            "No scan was found in the BIDS data set." if not scans else "The BIDS data set has several contrasts.",
            file=root,
            expected=f"sub-*/[ses-*/]anat/*_{suffix or 'T2w'}.nii.gz",
            found=", ".join(f"{len(found)} {name}" for name, found in sorted(scans.items()))
            or (f"only {', '.join(others)}" if others else "nothing"),
            hint=f"choose with --suffix one of {', '.join(choices)}"
            if choices
            else "name the data set itself, whose scans lie in sub-*/anat or sub-*/ses-*/anat",
        )
    (found,) = scans.values()
    names = [scan.id for scan in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError("A scan is there twice.", file=root, found=few(twice), hint="keep one of .nii, .nii.gz")
    return tuple(sorted(found, key=lambda scan: scan.id))


def suffixes_of(text: str) -> list[str]:
    """The contrasts that --suffix names, one a channel: "T1w,FLAIR"; raises InputError for what is no such list."""
    names = [name.strip() for name in text.split(",")]
    if not all(re.fullmatch(r"[A-Za-z0-9]+", name) for name in names) or len(set(names)) < len(names):
        expected = "such as T2w, or T1w,FLAIR for two channels"
        raise InputError("The suffix does not name contrasts, each once.", expected=expected, found=f"--suffix {text}")
    return names


def anatomical_files(root: Path) -> list[Path]:
    """What lies in the folders sub-*/[ses-*/]anat of a BIDS data set, links to subjects followed."""
    folders = sorted([*root.glob("sub-*/anat"), *root.glob("sub-*/ses-*/anat")])
    return [path for folder in folders if folder.is_dir() for path in files_in(folder)]


def absent_subjects(root: Path) -> list[Problem]:
    """An error for each subject, session or anat of a BIDS data set that is a link to nowhere."""
    folders = [*sorted(root.glob("sub-*")), *sorted(root.glob("sub-*/ses-*"))]
    return dangling_folders([*folders, *(folder / "anat" for folder in folders)], "E")


def read_bids(root: str | os.PathLike, labels: str | os.PathLike, suffix: str | None = None) -> RawDataset:
    """List a BIDS data set with the label maps of a derivatives folder `labels`.

    `suffix`: which contrast, or several with commas (T1w,T2w), which are the channels of one case. A scan sub-01_T2w
    takes the one file sub-01[_...]_mask or _dseg (brain masks left out). What the values mean is read from a dseg.tsv
    (columns index, name) at the top of `labels`; without one, 1 is "pvs".
    Raises InputError as `bids_scans` does; missing and ambiguous label maps are collected in `problems`.
    """
    root, labels = Path(root), Path(labels)
    refuse_no_folder(labels, "The folder of label maps is missing.", hint="check --labels")
    below = files_below(labels)
    files = [path for path in below if path.name.startswith("sub-") and is_nifti_name(path)]
    channels = [bids_scans(root, one) for one in ([None] if suffix is None else suffixes_of(suffix))]
    names = tuple(scans[0].suffix for scans in channels)
    by_id = [{scan.id: scan for scan in scans} for scans in channels]
    cases = []
    problems = [*left_out(anatomical_files(root), root), *left_out(below, labels)]
    problems += [*absent_subjects(root), *dangling_folders(below)]
    for case in sorted(set().union(*by_id)):
        there = [scans[case] for scans in by_id if case in scans]
        scan = there[0]
        if len(there) < len(channels):
            what, hint = "A case does not have every channel.", "add the scan, or take the case out"
            listed = ", ".join(scan.path.name for scan in there)
            problems.append(Problem(what, str(scan.path.parent), ", ".join(names), listed, hint))
            continue
        found = [path for path in files if _belongs(path, scan)]
        if len(found) == 1:
            cases.append(RawCase(case, tuple(scan.path for scan in there), found[0], scan.subject))
            continue
        problems.append(
            Problem(
                f"A scan has {'several label maps' if found else 'no label map'}.",
                str(scan.path),
                expected=f"one {scan.id}[_label-pvs]_mask.nii.gz or _dseg.nii.gz below {labels}",
                found=few([path.name for path in found]) or "nothing",
                hint="keep one label map for each scan",
            )
        )
    participants, warnings = read_participants(root, [case.id for case in cases])
    return RawDataset(
        name=root.resolve().name,
        root=root,
        channel_names=names,
        labels=_lookup(labels),
        ignore_label=None,
        regions_class_order=None,
        cases=tuple(cases),
        participants=participants,
        problems=(*problems, *warnings),
    )


def _suffix(path: Path) -> str | None:
    """sub-01_T2w.nii.gz -> T2w; None for other files."""
    return stem(path).rpartition("_")[2] if is_nifti_name(path) and "_" in path.name else None


def _belongs(path: Path, scan: BidsScan) -> bool:
    """Whether a derivative is a label map of the scan: same subject, and no other session, run, ..."""
    name = stem(path)
    if not re.search(r"_(mask|dseg)$", name) or name.endswith(CLUSTERS_ENDING) or is_brain_mask(path):
        return False
    ours, theirs = entities_of(scan.path), entities_of(path)
    return all(theirs.get(name) == ours.get(name) for name in ("sub", *SCAN_ENTITIES))


def _lookup(labels: Path) -> dict[str, LabelValue]:
    """Label names from the BIDS lookup table of a derivatives folder."""
    tables = sorted(labels.glob("*dseg.tsv"))
    if not tables:
        return {BACKGROUND: 0, "pvs": 1}
    _, rows = read_table(tables[0])
    try:
        found: dict[str, LabelValue] = {row["name"]: int(row["index"]) for row in rows}
        if negative := [value for value in found.values() if isinstance(value, int) and value < 0]:
            raise ValueError(f"the index {negative[0]}")
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            "The lookup table of the labels is not understood.",
            file=tables[0],
            expected="tab-separated columns index (whole numbers) and name",
            found=str(error),
            hint="see the BIDS specification of dseg.tsv",
        ) from error
    return {BACKGROUND: 0} | {name: value for name, value in found.items() if value != 0}
