"""What a prediction folder holds: each scan's mask, probability and input, the run's record, and what failed."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath
from typing import Any

from mednext_jax.errors import InputError
from mednext_jax.io.bids import SUFFIXES
from mednext_jax.io.json_file import read_json
from mednext_jax.io.nifti_names import few, files_below, is_scan_name, stem
from mednext_jax.io.scan_list import ListedScan, decided_by, read_scan_list
from mednext_jax.io.table_cell import unquoted

TABLES, RECORDS, LISTS = "volumes*.tsv", "prediction*.json", "scans*.json"
CHANNEL_ENDING = "_0000"  # nnU-Net's first channel


@dataclasses.dataclass(frozen=True)
class PredictedScan:
    """One scan of a prediction. `image`: the first channel that was segmented, None if it was not found.

    tables: the folder that holds what `quantify` wrote of it; `record` is that of the run with the scan's
    threshold, `volumes` its row of volumes.tsv.
    """

    tables: Path
    case: str
    mask: Path
    probability: Path
    image: Path | None
    record: Mapping[str, Any]
    volumes: Mapping[str, str]

    @property
    def prefix(self) -> str:
        """What the names of the scan's files begin with."""
        return stem(self.mask).removesuffix("_mask")


@dataclasses.dataclass(frozen=True)
class PredictionFolder:
    """A folder that `predict` wrote. failed: case -> why it has no mask. record: that of the first part.

    tables: the folder with pvs.tsv and the data dictionaries of `quantify`: the same one, or one of its own.
    """

    path: Path
    tables: Path
    scans: tuple[PredictedScan, ...]
    failed: Mapping[str, str]
    record: Mapping[str, Any]

    @classmethod
    def open(
        cls, path: str | Path, scans: str | Path | None = None, tables: str | Path | None = None
    ) -> PredictionFolder:
        """List the folder `path`.

        scans: where the segmented scans lie, if not where the prediction found them. tables: the output folder of
        `quantify`, if it is another one. Raises InputError if `path` holds no prediction, if `scans` or `tables` is no
        folder, or for tables that are not understood.
        """
        path = Path(path)
        for folder, option in ((scans, "--scans"), (tables, "--tables")):
            if folder is not None and not Path(folder).is_dir():
                raise InputError("The folder does not exist.", file=folder, hint=f"check {option}")
        measured = path if tables is None else Path(tables)
        rows = {row["scan"]: row for table in sorted(path.glob(TABLES)) for row in _read_volumes(table)}
        listed = {scan.case: scan for file in sorted(path.glob(LISTS)) for scan in read_scan_list(file)}
        records = [_read_record(file) for file in sorted(path.glob(RECORDS))]
        if not rows and not listed:
            raise InputError(
                "The folder holds no prediction.",
                file=path,
                expected="volumes.tsv and CASE_mask.nii.gz, which mednext-jax predict writes",
                found="nothing of these" if path.is_dir() else "no folder",
            )
        failed = {case: scan.problem for case, scan in listed.items() if scan.problem and case not in rows}
        waiting = {case: "It has not been segmented yet." for case in listed if case not in rows and case not in failed}
        record = records[0] if records else {}
        images = _Images(path, scans, record)
        return cls(
            path,
            measured,
            tuple(
                _predicted(path, measured, case, rows[case], listed.get(case), images, record) for case in sorted(rows)
            ),
            failed | waiting,
            record,
        )


def _predicted(
    folder: Path,
    tables: Path,
    case: str,
    row: Mapping[str, str],
    listed: ListedScan | None,
    images: _Images,
    record: Mapping[str, Any],
) -> PredictedScan:
    if listed is not None and listed.mask:
        mask, probability = folder / listed.mask, folder / listed.probability
    else:
        if PurePath(case).name != case:
            raise InputError("A case's name is no file name.", file=folder, found=case)
        mask, probability = folder / f"{case}_mask.nii.gz", folder / f"{case}_probability.nii.gz"
        if not mask.exists() and (found := sorted(folder.glob(f"sub-*/**/{_literal(case)}_*PVS_mask.nii.gz"))):
            mask = found[0]
            probability = mask.with_name(f"{stem(mask).removesuffix('_mask')}_probseg.nii.gz")
    image = images.of(case, listed.files if listed is not None else ())
    tables = tables / mask.parent.relative_to(folder)
    own = {**record, "threshold": decided_by(folder, case, record)}
    return PredictedScan(tables, case, mask, probability, image, own, row)


class _Images:
    """Where a case's scan lies: as `--scans` says, else as was recorded, else below the recorded input."""

    def __init__(self, folder: Path, scans: str | Path | None, record: Mapping[str, Any]):
        self._folder, self._named = folder, scans is not None
        self._source = Path(scans) if scans is not None else Path(str(record.get("inputs") or ""))
        self._files: dict[str, list[Path]] | None = None

    def of(self, case: str, recorded: Iterable[str]) -> Path | None:
        """The first channel of a case; None if none is there. Raises InputError if several could be meant."""
        if not self._named and (there := [Path(file) for file in recorded if Path(file).is_file()]):
            return there[0]
        found = self._by_name(case)
        if len(found) > 1:
            raise InputError(
                "Several files could be a case's scan.",
                file=self._source,
                expected=f"one {case}.nii.gz or {case}{CHANNEL_ENDING}.nii.gz",
                found=few([str(path) for path in found]),
                hint="name the folder that holds only the scans that were segmented: --scans FOLDER",
            )
        return found[0] if found else None

    def _by_name(self, case: str) -> list[Path]:
        if self._files is None:
            self._files = {}
            if str(self._source) not in ("", ".") and self._source.exists():
                below = files_below(self._source) if self._source.is_dir() else [self._source]
                for path in filter(is_scan_name, below):
                    self._files.setdefault(stem(path), []).append(path)
        names = [case, f"{case}{CHANNEL_ENDING}", *(f"{case}_{suffix}" for suffix in SUFFIXES)]
        return next((found for name in names if (found := self._files.get(name))), [])


def participants_folder(folder: PredictionFolder) -> Path | None:
    """Where the participants.tsv of the segmented data set lies; None if there is none beside what was recorded."""
    source = Path(str(folder.record.get("inputs") or ""))
    places = [folder.path, source, source.parent] if source.name.startswith("images") else [folder.path, source]
    return next((place for place in places if (place / "participants.tsv").is_file()), None)


def _read_record(path: Path) -> Mapping[str, Any]:
    record = read_json(path)
    if not isinstance(record, dict):
        raise InputError("The record of the prediction is not understood.", file=path, expected="an object")
    return record


def _read_volumes(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = [{str(k): str(v or "") for k, v in row.items()} for row in csv.DictReader(file, delimiter="\t")]
    if rows and "scan" not in rows[0]:
        raise InputError("The table of volumes is not understood.", file=path, expected="a column scan")
    return [row | {"scan": unquoted(row["scan"])} for row in rows]


def _literal(text: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in text)
