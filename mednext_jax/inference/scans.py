"""Which scans are to be segmented, and what their outputs are called: one file, a folder, or a BIDS data set."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

from mednext_jax.errors import InputError, Problem
from mednext_jax.io import bids
from mednext_jax.io.nifti_header import NIFTI_ENDINGS, read_declared

CHANNEL = re.compile(r"(.+)_(\d{4})")  # nnU-Net: CASE_0000.nii.gz, CASE_0001.nii.gz, ...


@dataclasses.dataclass(frozen=True)
class Scan:
    """One scan: its files in the order of the model's channels, and the paths of its outputs in the output folder."""

    case: str
    files: tuple[Path, ...]
    mask: Path
    probability: Path
    bids_sources: tuple[str, ...] = ()  # paths in the BIDS data set


def find_scans(source: str | Path, channel_names: Sequence[str]) -> list[Scan]:
    """All scans of `source`, sorted by case.

    A file CASE.nii.gz (or CASE_0000.nii.gz, with its siblings _0001, ... for more channels); a folder of such files; or
    a BIDS data set, where a channel's name (T1w, T2w, FLAIR) chooses the scans.
    Raises InputError with all problems if nothing is there, channels are missing or unknown, or a header is wrong.
    """
    source = Path(source)
    if source.is_file():
        match = CHANNEL.fullmatch(_stem(source))
        siblings = [p for p in source.parent.iterdir() if match and (m := _channel_of(p)) and m[0] == match[1]]
        scans = _plain_scans(siblings or [source], source, channel_names)
    elif not source.is_dir():
        raise InputError("The input does not exist.", file=source, expected="a scan, a folder or a BIDS data set")
    elif bids.is_bids(source):
        scans = _bids_scans(source, channel_names)
    else:
        files = [p for p in source.iterdir() if p.name.endswith(NIFTI_ENDINGS) and not p.name.startswith(".")]
        scans = _plain_scans(files, source, channel_names)
    _check_headers(scans)
    return sorted(scans, key=lambda scan: scan.case)


def _plain_scans(files: list[Path], source: Path, channel_names: Sequence[str]) -> list[Scan]:
    if not files:
        raise InputError("There are no scans in the folder.", file=source, expected="CASE.nii.gz or CASE_0000.nii.gz")
    numbered = any(_channel_of(p) for p in files)
    cases: dict[str, dict[int, Path]] = {}
    problems = []
    for path in sorted(files):
        case, channel = _channel_of(path) or (_stem(path), 0)
        other = cases.setdefault(case, {}).setdefault(channel, path)
        if other != path:
            problems.append(Problem("Two files are of one scan and channel.", str(path), found=str(other)))
    wanted = list(range(len(channel_names)))
    for case, channels in cases.items():
        if sorted(channels) != wanted:
            problems.append(
                Problem(
                    f"The scan {case} has not the channels of the model.",
                    file=str(source),
                    expected=", ".join(f"{case}_{c:04d} ({channel_names[c]})" for c in wanted),
                    found=", ".join(p.name for _, p in sorted(channels.items())),
                    hint="name the files CASE_0000.nii.gz, CASE_0001.nii.gz, ... in the order of the model's channels"
                    if numbered or len(wanted) > 1
                    else None,
                )
            )
    if problems:
        raise InputError.of(problems)
    return [
        Scan(case, tuple(channels[c] for c in wanted), *_outputs(Path(), case, "mask", "probability"))
        for case, channels in cases.items()
    ]


def _bids_scans(root: Path, channel_names: Sequence[str]) -> list[Scan]:
    suffixes = [_bids_suffix(name) for name in channel_names]
    if len(suffixes) == 1:
        channels = [bids.find_scans(root, suffixes[0])]  # without a contrast in the name: the only one there is
    else:
        channels = [bids.find_scans(root, s or n) for s, n in zip(suffixes, channel_names, strict=True)]
    found = [{scan.id: scan.path for scan in channel} for channel in channels]
    every = sorted(set().union(*found))
    problems = [
        Problem(
            f"The scan {case} has not the channels of the model.",
            file=str(root),
            expected=", ".join(channel_names),
            found=", ".join(files[case].name for files in found if case in files),
        )
        for case in every
        if not all(case in files for files in found)
    ]
    if problems:
        raise InputError.of(problems)
    scans = []
    for case in every:
        paths = tuple(files[case].relative_to(root) for files in found)
        names = _outputs(paths[0].parent, f"{case}_space-orig_label-PVS", "mask", "probseg")
        scans.append(Scan(case, tuple(root / p for p in paths), *names, tuple(p.as_posix() for p in paths)))
    return scans


def _bids_suffix(channel_name: str) -> str | None:
    """The BIDS suffix that a channel's name means, if any; nnU-Net data sets say T1 or T2 where BIDS says T1w, T2w."""
    name = channel_name.casefold()
    return next((s for s in bids.SUFFIXES if name in (s.casefold(), s.casefold().removesuffix("w"))), None)


def _outputs(folder: Path, name: str, mask: str, probability: str) -> tuple[Path, Path]:
    return folder / f"{name}_{mask}.nii.gz", folder / f"{name}_{probability}.nii.gz"


def _channel_of(path: Path) -> tuple[str, int] | None:
    match = CHANNEL.fullmatch(_stem(path)) if path.name.endswith(NIFTI_ENDINGS) else None
    return (match[1], int(match[2])) if match else None


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".nii")


def _check_headers(scans: list[Scan]) -> None:
    """What a header can tell is told for all files before the first scan is computed."""
    problems: list[Problem] = []
    for path in (path for scan in scans for path in scan.files):
        try:
            shape = read_declared(path).shape
        except InputError as error:
            problems += error.problems
            continue
        if len(shape) != 3:
            problems.append(
                Problem(
                    "The scan is not one 3-D volume.",
                    file=str(path),
                    expected="three axes",
                    found=" x ".join(map(str, shape)),
                    hint="split a 4-D file into volumes, for example with `fslsplit` or `mrconvert -coord 3 N`",
                )
            )
    if problems:
        raise InputError.of(problems)
