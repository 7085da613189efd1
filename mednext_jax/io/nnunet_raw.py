"""nnU-Net's raw data sets: dataset.json of version 2 and of version 1, imagesTr, labelsTr."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from mednext_jax.errors import InputError, Problem
from mednext_jax.io.absent import found_at, is_named
from mednext_jax.io.json_file import read_json
from mednext_jax.io.nifti_header import NIFTI_ENDINGS
from mednext_jax.io.nifti_names import files_in, stem
from mednext_jax.io.raw_dataset import (
    BACKGROUND,
    LabelValue,
    RawCase,
    RawDataset,
    read_participants,
    subject_of,
    whole_number,
)

REQUIRED = ("channel_names", "labels", "numTraining", "file_ending")
IGNORE = "ignore"
# A case list of a large cohort with explicit paths is megabytes.
JSON_LIMIT = 64 * 2**20


def read_nnunet_raw(root: str | os.PathLike) -> RawDataset:
    """List a raw data set; what is wrong with single cases is collected in `problems`.

    Understands version 1's keys (`modality`, labels from value to name, `training`), explicit file lists (`dataset`),
    several channels, the ignore label and region labels.
    Raises InputError if dataset.json cannot be understood; all of its problems together.
    """
    root = Path(root)
    file = root / "dataset.json"
    content = read_json(file, limit=JSON_LIMIT)
    if not isinstance(content, dict):
        raise InputError("dataset.json does not hold an object.", file=file, found=type(content).__name__)
    content = _as_version_2(content)
    problems = [
        Problem("A key is missing in dataset.json.", str(file), expected=key, hint="see nnU-Net's dataset format")
        for key in REQUIRED
        if key not in content
    ]
    channels = _channels(content.get("channel_names", {"0": ""}), file, problems)
    labels, ignore, order = _labels(content, file, problems)
    ending = str(content.get("file_ending", NIFTI_ENDINGS[0])).lower()
    if ending not in NIFTI_ENDINGS:
        problems.append(
            Problem(
                "The file ending is not one of NIfTI.",
                str(file),
                expected=" or ".join(NIFTI_ENDINGS),
                found=str(content["file_ending"])[:100],
                hint="convert the scans to .nii.gz",
            )
        )
    count = whole_number(content.get("numTraining"))
    if "numTraining" in content and count is None:
        what, hint = "numTraining is not a whole number.", "correct numTraining in dataset.json"
        problems.append(Problem(what, str(file), "such as 20", str(content["numTraining"])[:100], hint))
    if problems:
        raise InputError.of(problems)

    if "dataset" in content:
        cases, there = _listed_cases(root, content["dataset"], len(channels), file, problems)
    else:
        cases, there = _found_cases(root, ending, len(channels), problems)
    _check_count(content, there, file, problems)
    participants, warnings = read_participants(root, [case.id for case in cases])
    return RawDataset(
        name=str(content.get("name") or root.resolve().name),
        root=root,
        channel_names=channels,
        labels=labels,
        ignore_label=ignore,
        regions_class_order=order,
        cases=tuple(cases),
        participants=participants,
        problems=(*problems, *warnings),
    )


def read_ignore_label(folder: str | os.PathLike) -> int | None:
    """The ignore label of the data set that a folder of label maps belongs to; None without one.

    It is read from the dataset.json in the folder or beside it (beside labelsTr). Raises InputError if that cannot be
    read or its labels cannot be understood.
    """
    folder = Path(folder).absolute()
    file = next((f for f in (folder / "dataset.json", folder.parent / "dataset.json") if is_named(f)), None)
    if file is None:
        return None
    content = read_json(file, limit=JSON_LIMIT)
    content = _as_version_2(content) if isinstance(content, dict) else {}
    if not isinstance(content.get("labels"), dict) or IGNORE not in content["labels"]:
        return None
    problems: list[Problem] = []
    ignore = _labels(content, file, problems)[1]
    if problems:
        raise InputError.of(problems)
    return ignore


def _as_version_2(content: dict[str, Any]) -> dict[str, Any]:
    """Version 1 has `modality`, labels {"0": "background"}, where any name of 0 is the background, no file ending."""
    content = dict(content)
    if "channel_names" not in content and "modality" in content:
        content["channel_names"] = content["modality"]
        content.setdefault("file_ending", NIFTI_ENDINGS[0])
    labels = content.get("labels")
    if isinstance(labels, dict) and labels and all(whole_number(k) is not None for k in labels):
        names = {value: BACKGROUND if whole_number(value) == 0 else str(name) for value, name in labels.items()}
        content["labels"] = {name: whole_number(value) for value, name in names.items()}
    return content


def channels_of(content: Any) -> tuple[str, ...]:
    """The names of the channels that a dataset.json tells; none if it does not tell them."""
    if not isinstance(content, dict):
        return ()
    problems: list[Problem] = []
    names = _channels(_as_version_2(content).get("channel_names"), Path(), problems)
    return () if problems else names


def _channels(value: Any, file: Path, problems: list[Problem]) -> tuple[str, ...]:
    names = value if isinstance(value, dict) else {}
    keys = sorted(names, key=lambda key: -1 if (number := whole_number(key)) is None else number)
    if not names or keys != [str(i) for i in range(len(keys))]:
        problems.append(
            Problem(
                "The channels are not numbered 0, 1, ...",
                str(file),
                expected='channel_names such as {"0": "T2w"}',
                found=str(value)[:100],
                hint="number the channels from 0",
            )
        )
        return ("",)
    return tuple(str(names[key]) for key in keys)


def _labels(
    content: dict[str, Any], file: Path, problems: list[Problem]
) -> tuple[dict[str, LabelValue], int | None, tuple[int, ...] | None]:
    """Label names and values, the ignore value, and the class order of region labels."""
    given = content.get("labels", {BACKGROUND: 0})
    labels: dict[str, LabelValue] = {}
    ignore = None

    def wrong(what: str, expected: str, found: object) -> None:
        hint = "correct `labels` in dataset.json"
        problems.append(Problem(what, str(file), expected=expected, found=str(found)[:100], hint=hint))

    overlap = isinstance(given, dict) and any(isinstance(v, list) and len(v) > 1 for v in given.values())
    for name, value in given.items() if isinstance(given, dict) else ():
        values = tuple(
            v for item in (value if isinstance(value, list) else [value]) if (v := whole_number(item)) is not None
        )
        if not values or len(values) != (len(value) if isinstance(value, list) else 1):
            wrong(f"Label {name!r} has no valid value.", "a whole number, or a list of them", value)
        elif name == IGNORE:
            ignore = values[0]
        else:  # [1] is 1, as for nnU-Net, unless other labels are regions
            labels[name] = values if isinstance(value, list) and overlap else values[0]
    if isinstance(given, dict) and isinstance(given.get(IGNORE), list) and len(given[IGNORE]) > 1:
        wrong("The ignore label has several values.", "one value", given[IGNORE])
    if labels.get(BACKGROUND) not in (0, (0,)):
        wrong("The labels have no background.", '"background": 0', given)
    if len(labels) < 2:
        wrong("The labels have no foreground.", 'a label such as "pvs": 1', given)
    plain = [v for value in labels.values() for v in (value if isinstance(value, tuple) else (value,))]
    used = sorted({*plain, ignore} if ignore is not None else set(plain))
    if used != list(range(len(used))):
        wrong("The label values are not consecutive.", f"0 to {len(used) - 1}", used)
    if ignore is not None and used and ignore != used[-1]:
        wrong("The ignore label is not the highest value.", str(used[-1]), ignore)
    if ignore is not None and ignore in plain:
        wrong("The ignore label is also another label.", "a value of its own", ignore)
    if not any(isinstance(value, tuple) for name, value in labels.items() if name != BACKGROUND):
        if len(set(plain)) != len(plain):
            wrong("Two labels have the same value.", "a value for each label", given)
        return labels, ignore, None
    order = content.get("regions_class_order")
    numbers = tuple(v for item in (order if isinstance(order, list) else []) if (v := whole_number(item)) is not None)
    if not isinstance(order, list) or not len(numbers) == len(order) == len(labels) - 1:
        wrong("Region labels need their class order.", f"regions_class_order of {len(labels) - 1} values", order)
        return labels, ignore, None
    return labels, ignore, numbers


def _case_of(path: Path, ending: str) -> str:
    """The name of a file without `ending`, in letters of any case; empty for files of another ending."""
    return path.name[: -len(ending)] if path.name.lower().endswith(ending) else ""


def _found_cases(root: Path, ending: str, channels: int, problems: list[Problem]) -> tuple[list[RawCase], set[str]]:
    """The complete cases of imagesTr and labelsTr by their file names CASE_0000.nii.gz and CASE.nii.gz.

    Also the names of all cases that have an image.
    """
    images, labels = root / "imagesTr", root / "labelsTr"
    missing = [folder for folder in (images, labels) if not folder.is_dir()]
    if missing:
        for folder in missing:
            there, hint = found_at(folder)
            hint = hint or "see nnU-Net's dataset format"
            problems.append(Problem("A folder of the data set is missing.", str(folder), found=there, hint=hint))
        raise InputError.of(problems)
    found: dict[str, dict[int, Path]] = {}
    label_of: dict[str, Path] = {}

    def twice(path: Path, other: Path) -> None:
        what, hint = "Two files are of one case.", "keep one of them"
        problems.append(Problem(what, str(path), found=other.name, hint=hint))

    for path in files_in(images):
        match = re.fullmatch(r"(.+)_([0-9]{4})", _case_of(path, ending))
        if match is None:
            what, expected = "A file in imagesTr is not a case and is left out.", f"CASE_0000{ending}"
            problems.append(Problem(what, str(path), expected=expected, severity="W"))
        elif (other := found.setdefault(match[1], {}).setdefault(int(match[2]), path)) != path:
            twice(path, other)
    for path in files_in(labels):
        case = _case_of(path, ending)
        if not case:
            what, expected = "A file in labelsTr is not a label map and is left out.", f"CASE{ending}"
            problems.append(Problem(what, str(path), expected=expected, severity="W"))
        elif (other := label_of.setdefault(case, path)) != path:
            twice(path, other)
    cases = []
    for case, files in sorted(found.items()):
        if sorted(files) != list(range(channels)):
            expected = f"channels {', '.join(f'_{i:04d}' for i in range(channels))}"
            what = "A case does not have every channel once."
            hint = "add the missing file, or correct channel_names in dataset.json"
            names = ", ".join(path.name for path in files.values())
            problems.append(Problem(what, str(images / case), expected, names, hint))
        elif case not in label_of:
            what, hint = "A case has no label map.", "add it, or remove the image"
            problems.append(Problem(what, str(labels / f"{case}{ending}"), found="nothing", hint=hint))
        else:
            ordered = tuple(files[i] for i in range(channels))
            cases.append(RawCase(case, ordered, label_of[case], subject_of(case)))
    for case in sorted(set(label_of) - set(found)):
        what, hint = "A label map has no image.", "add the image, or remove the label map"
        problems.append(Problem(what, str(label_of[case]), f"imagesTr/{case}_0000{ending}", "nothing", hint))
    return cases, set(found)


def _listed_cases(
    root: Path, listed: Any, channels: int, file: Path, problems: list[Problem]
) -> tuple[list[RawCase], set[str]]:
    """The complete cases of `dataset`: {case: {"images": [...], "label": ...}}, and the names of all listed ones."""
    entries: dict[str, Any] = listed if isinstance(listed, dict) else {}
    if not isinstance(listed, dict):
        expected = '{CASE: {"images": [...], "label": path}, ...}'
        problems.append(Problem("`dataset` does not list cases.", str(file), expected, str(listed)[:100]))
    cases = []
    for case, entry in sorted(entries.items()):
        images = entry.get("images") if isinstance(entry, dict) else None
        label = entry.get("label") if isinstance(entry, dict) else None
        if not (
            isinstance(images, list)
            and len(images) == channels
            and all(isinstance(path, str) for path in [*images, label])
            and re.fullmatch(r"[^/\\]+", case)
        ):
            what = "A case of `dataset` is not understood."
            expected = f'{{"images": [{channels} paths], "label": path}}'
            problems.append(Problem(what, str(file), expected, f"{case!r}: {entry}"[:100]))
            continue
        paths = [root / os.path.expandvars(path) for path in [*images, label]]
        absent = [path for path in paths if not path.is_file()]
        for path in absent:
            what = "A file that dataset.json lists is missing."
            problems.append(Problem(what, str(path), f"a file of case {case}", *found_at(path)))
        if not absent:
            cases.append(RawCase(case, tuple(paths[:-1]), paths[-1], subject_of(case)))
    return cases, set(entries)


def _check_count(content: dict[str, Any], there: set[str], file: Path, problems: list[Problem]) -> None:
    listed = content.get("training")  # version 1 lists its cases
    for entry in listed if isinstance(listed, list) else ():
        case = stem(Path(str(entry.get("image", "") if isinstance(entry, dict) else entry)))
        if case not in there:
            what = "A case is listed in dataset.json but its files are not there."
            hint = "add the files, or take the case off the list"
            problems.append(Problem(what, str(file), expected=f"{case}_0000{content['file_ending']}", hint=hint))
    if whole_number(content["numTraining"]) != len(there):
        problems.append(
            Problem(
                "The number of training cases is not the one in dataset.json.",
                str(file),
                expected=f"numTraining {content['numTraining']}",
                found=f"{len(there)} cases with an image",
                hint="add the missing cases, or correct numTraining",
            )
        )
