"""Which scans are to be segmented, and what their outputs are called: one file, a folder, or a BIDS data set."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Sequence
from pathlib import Path

from mednext_jax.errors import InputError, Problem
from mednext_jax.io import bids
from mednext_jax.io.absent import is_named, refuse_no_folder
from mednext_jax.io.bids_selection import BidsSelection
from mednext_jax.io.nifti_names import few, files_in, is_scan_name, left_out, stem, walk
from mednext_jax.io.scan_formats import SCAN_ENDINGS
from mednext_jax.io.voxels import open_voxels

LOOKED_AT = 10_000  # files of folders below, where none of a folder is a scan
CHANNEL = re.compile(r"(.+)_([0-9]{4})")  # nnU-Net: CASE_0000.nii.gz, CASE_0001.nii.gz, ...


@dataclasses.dataclass(frozen=True)
class Scan:
    """One scan: its files in the order of the model's channels, and the paths of its outputs in the output folder."""

    case: str
    files: tuple[Path, ...]
    mask: Path
    probability: Path
    bids_sources: tuple[str, ...] = ()  # paths in the BIDS data set
    brain: Path | None = None  # its brain mask

    @property
    def inputs(self) -> tuple[Path, ...]:
        """All files that the outputs are made from."""
        return self.files if self.brain is None else (*self.files, self.brain)


def find_scans(
    source: str | Path,
    channel_names: Sequence[str],
    suffix: str | None = None,
    chosen: BidsSelection | None = None,
) -> tuple[list[Scan], list[tuple[str, Problem]]]:
    """All scans of `source`, sorted by case, and what keeps others from being segmented, as (case, problem).

    A file CASE.nii.gz (or CASE_0000.nii.gz, with its siblings _0001, ... for more channels); a folder of such files; or
    a BIDS data set, where a channel's name (T1w, T2w, FLAIR) chooses the scans, or `suffix` does: "T1w", or "T1w,FLAIR"
    in the order of the channels; `chosen`: only these. With a model of one channel, names that end in four digits are
    cases of their own (002_S_0413, subject_0001) unless a file of the folder is called CASE_0000.
    A scan with a missing or surplus channel, or with a wrong header, is among the problems. Raises InputError if there
    is no scan at all, or none without a problem (then with all of them).
    """
    source = Path(source)
    if suffix is not None and not (source.is_dir() and bids.is_bids(source)):
        raise InputError(
            "A suffix chooses among the scans of a BIDS data set, and the input is none.",
            file=source,
            expected="a folder with sub-*/[ses-*/]anat",
            hint="leave --suffix out",
        )
    if is_named(source) and not source.is_dir():  # what is no file is told when its header is read
        scans, problems = _plain_scans(_siblings(source, len(channel_names)), source, channel_names)
    elif not source.is_dir():
        refuse_no_folder(source, "The input does not exist.", expected="a scan, a folder or a BIDS data set")
    elif bids.is_bids(source):
        scans, problems = _bids_scans(source, channel_names, suffix, chosen)
    else:
        scans, problems = _plain_scans([p for p in files_in(source) if is_scan_name(p)], source, channel_names)
    wrong = {scan.case: found for scan in scans if (found := _header_problems(scan))}
    problems += [(case, problem) for case, found in wrong.items() for problem in found]
    scans = [scan for scan in scans if scan.case not in wrong]
    if not scans:
        raise InputError.of(problem for _, problem in problems)
    return sorted(scans, key=lambda scan: scan.case), sorted(problems, key=lambda bad: bad[0])


def images_left_out(source: str | Path) -> list[Problem]:
    """A warning that names the images of `source` in formats that are not read; a BIDS data set has NIfTI alone."""
    source = Path(source)
    if not source.is_dir():
        return []
    if bids.is_bids(source):
        return left_out(bids.anatomical_files(source), source)
    return left_out(files_in(source), source, SCAN_ENDINGS)


def _siblings(file: Path, channels: int) -> list[Path]:
    """The files of the scan that `file` is a channel of; it alone for a model of one channel."""
    numbered = _channel_of(file)
    if channels == 1 or numbered is None:
        return [file]
    return [p for p in files_in(file.parent) if (other := _channel_of(p)) and other[0] == numbered[0]]


def _plain_scans(
    files: list[Path], source: Path, channel_names: Sequence[str]
) -> tuple[list[Scan], list[tuple[str, Problem]]]:
    if not files:
        others = images_left_out(source)
        found = others[0].found if others else "no file of a scan"
        hint = others[0].hint if others else None
        if not others and (below := next(filter(is_scan_name, itertools.islice(walk(source), LOOKED_AT)), None)):
            found = f"none in the folder itself, but below it, such as {below.relative_to(source)}"
            hint = "name the folder that holds them, or the whole of a BIDS data set"
        expected = "CASE.nii.gz or CASE_0000.nii.gz"
        raise InputError("There are no scans in the folder.", file=source, expected=expected, found=found, hint=hint)
    wanted = list(range(len(channel_names)))
    numbers = {part[1] for p in files if (part := _channel_of(p))}
    numbered = len(wanted) > 1 or 0 in numbers  # else four digits at the end belong to the name
    cases: dict[str, dict[int, Path]] = {}
    problems: dict[str, Problem] = {}
    for path in sorted(files):
        case, channel = (_channel_of(path) if numbered else None) or (stem(path), 0)
        other = cases.setdefault(case, {}).setdefault(channel, path)
        if other != path:
            problems[case] = Problem("Two files are of one scan and channel.", str(path), found=str(other))
    for case, channels in cases.items():
        if sorted(channels) == wanted or case in problems:
            continue
        hint = "name the files CASE_0000.nii.gz, CASE_0001.nii.gz, ... in the order of the model's channels"
        if len(wanted) == 1:
            hint = "if these are scans of their own, give them names that do not end in four digits"
        problems[case] = Problem(
            "A scan has not the channels of the model.",
            file=str(source),
            expected=", ".join(f"{case}_{c:04d} ({channel_names[c]})" for c in wanted),
            found=few([path.name for _, path in sorted(channels.items())]),
            hint=hint,
        )
    scans = [
        Scan(case, tuple(channels[c] for c in wanted), *_outputs(Path(), case, "mask", "probability"))
        for case, channels in cases.items()
        if case not in problems
    ]
    return scans, list(problems.items())


def _bids_scans(
    root: Path, channel_names: Sequence[str], suffix: str | None, chosen: BidsSelection | None
) -> tuple[list[Scan], list[tuple[str, Problem]]]:
    suffixes = [_bids_suffix(name) for name in channel_names]
    if suffix is not None:
        suffixes = list(bids.suffixes_of(suffix))
        if len(suffixes) != len(channel_names):
            raise InputError(
                "The suffixes are not as many as the channels of the model.",
                expected=f"{len(channel_names)}, for {', '.join(channel_names)}",
                found=f"--suffix {suffix}",
                hint="name one suffix per channel, with commas: T1w,FLAIR",
            )
    if len(suffixes) == 1:
        channels = [bids.bids_scans(root, suffixes[0], chosen)]  # without a contrast in the name: the only one there is
    else:
        channels = [bids.bids_scans(root, s or n, chosen) for s, n in zip(suffixes, channel_names, strict=True)]
    if len({scans[0].suffix for scans in channels}) < len(channels):
        raise InputError(
            "Several channels of the model would be one and the same scan.",
            file=root,
            found=", ".join(f"{name}: {scans[0].suffix}" for name, scans in zip(channel_names, channels, strict=True)),
            hint="name one suffix per channel, with commas: --suffix T1w,FLAIR",
        )
    found = [{scan.id: scan.path for scan in channel} for channel in channels]
    scans = []
    problems = [(Path(problem.file or "").name, problem) for problem in bids.absent_subjects(root)]
    for case in sorted(set().union(*found)):
        if not all(case in files for files in found):
            there = ", ".join(files[case].name for files in found if case in files)
            expected = ", ".join(f"{case}_{s or n}" for s, n in zip(suffixes, channel_names, strict=True))
            what = "A scan has not the channels of the model."
            problems.append((case, Problem(what, str(root), expected=expected, found=there)))
            continue
        paths = tuple(files[case].relative_to(root) for files in found)
        names = _outputs(paths[0].parent, f"{case}_space-orig_label-PVS", "mask", "probseg")
        scans.append(Scan(case, tuple(root / p for p in paths), *names, tuple(p.as_posix() for p in paths)))
    return scans, problems


def _bids_suffix(channel_name: str) -> str | None:
    """The BIDS suffix that a channel's name means, if any; nnU-Net data sets say T1 or T2 where BIDS says T1w, T2w."""
    name = channel_name.casefold()
    return next((s for s in bids.SUFFIXES if name in (s.casefold(), s.casefold().removesuffix("w"))), None)


def _outputs(folder: Path, name: str, mask: str, probability: str) -> tuple[Path, Path]:
    return folder / f"{name}_{mask}.nii.gz", folder / f"{name}_{probability}.nii.gz"


def _channel_of(path: Path) -> tuple[str, int] | None:
    match = CHANNEL.fullmatch(stem(path)) if is_scan_name(path) else None
    return (match[1], int(match[2])) if match else None


def _header_problems(scan: Scan) -> list[Problem]:
    """Problems that headers show, of all files, before the first scan is computed."""
    problems: list[Problem] = []
    for path in scan.files:
        try:
            open_voxels(path)
        except InputError as error:
            problems += error.problems
    return problems
