"""The masks or probability maps of a tool: which file is of which case."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from mednext_jax.errors import InputError, Problem, in_groups
from mednext_jax.io.absent import dangling_folders, refuse_no_folder
from mednext_jax.io.brain_masks import is_brain_mask
from mednext_jax.io.nifti_names import case_of, files_below, is_nifti_name, left_out, stem

CASE = "{case}"  # in a pattern: where the case's name stands
_PROBABILITY = re.compile(r"_(probability|probseg)$")


def find_masks(source: str | Path, *, probabilities: bool = False) -> dict[str, Path]:
    """Case -> label map, sorted, for a folder (with subfolders, links followed), one file, or a pattern with {case}.

    A pattern such as `out/{case}/pvs_map.nii.gz` finds the files of tools that name the case in a folder. Brain masks
    are left out, and a line is printed for images of other formats. Where a folder holds CASE_mask and CASE_probability
    files, the masks are taken, or with `probabilities` the others. Raises InputError if there is no map, or several of
    one case.
    """
    if CASE in str(source):
        return _of_pattern(str(source))
    source = Path(source)
    if not source.is_dir():
        if source.exists():  # what is no file is told when it is read
            return {case_of(source): source}
        refuse_no_folder(source, "There are no label maps.", expected="a folder or a NIfTI file")
    files = files_below(source)
    maps = [p for p in files if is_nifti_name(p) and not is_brain_mask(p)]
    masks = [p for p in maps if stem(p).endswith("_mask")]
    likely = [p for p in maps if _PROBABILITY.search(stem(p))]
    maps = (likely or masks or maps) if probabilities else (masks or [p for p in maps if p not in likely] or maps)
    others = [*left_out(files, source), *dangling_folders(files)]
    if not maps:
        raise InputError(
            "There are no label maps.",
            file=source,
            expected="a folder with CASE.nii.gz or CASE_mask.nii.gz",
            found=others[0].found if others else "a folder without NIfTI files other than brain masks",
            hint=others[0].hint if others else None,
        )
    if others:
        print(in_groups(others))
    return _one_each([(case_of(path), path) for path in maps])


def _of_pattern(pattern: str) -> dict[str, Path]:
    """The files of a pattern in which {case} stands for one name of a folder or file, or a part of one."""
    parts = Path(pattern).parts
    first = next(i for i, part in enumerate(parts) if CASE in part)
    root = Path(*parts[:first]) if first else Path()
    inside = "/".join(parts[first:])
    escaped = re.escape(inside).split(re.escape(CASE))
    wanted = re.compile(f"{escaped[0]}(?P<case>[^/]+){'(?P=case)'.join(escaped[1:])}")
    found = []
    for path in files_below(root) if root.is_dir() else []:
        match = wanted.fullmatch(path.relative_to(root).as_posix())
        if match and is_nifti_name(path):
            found.append((match["case"], path))
    if not found:
        raise InputError(
            "No file fits the pattern.",
            file=pattern,
            expected=f"NIfTI files, {CASE} being the name of a case",
            found="nothing" if root.is_dir() else f"no folder {root}",
        )
    return _one_each(found)


def _one_each(found: Sequence[tuple[str, Path]]) -> dict[str, Path]:
    cases: dict[str, Path] = {}
    problems = []
    for case, path in found:
        other = cases.setdefault(case, path)
        if other != path:
            hint = (
                "keep one of them, or name a folder with the label maps alone, such as labelsTr, or those that count "
            )
            hint += f"by a pattern such as FOLDER/{CASE}/pvs_map.nii.gz"
            problems.append(Problem("Two label maps are of one case.", str(path), found=str(other), hint=hint))
    if problems:
        raise InputError.of(problems)
    return cases
