"""What `predict` writes: masks, probabilities, side-cars, the table of volumes, and how it was done.

A scan appears as a whole: its files are written into a hidden folder, then they and its row take their places together.
So the table always tells what is there, and a run that was stopped continues after the scans in it.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import json
import math
import os
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mednext_jax.errors import InputError, Problem, WorkError, shown
from mednext_jax.inference.predictor import Predictor, Segmentation
from mednext_jax.inference.scans import Scan
from mednext_jax.io.atomic import refuse_existing
from mednext_jax.io.geometry import voxel_volume
from mednext_jax.io.json_file import read_json
from mednext_jax.io.lock import locked
from mednext_jax.io.nifti import image_like, write_image
from mednext_jax.io.scan_list import ListedScan, write_scan_list
from mednext_jax.io.table_cell import quoted, unquoted
from mednext_jax.io.table_file import read_table
from mednext_jax.measure.clusters import label_clusters
from mednext_jax.quantify.members import Members
from mednext_jax.quantify.scan_tables import ScanTables, table_texts
from mednext_jax.quantify.tables import TableFiles, cohort_text, dictionaries, labels_image, read_rows, read_tables
from mednext_jax.version import __version__
from mednext_jax.weights.directory import DESCRIPTION

COLUMNS = ("scan", "count", "volume_mm3", "seconds")
BIDS_VERSION = "1.10.0"
# What BIDS has no names for.
_BIDS_IGNORES = "volumes*.tsv\npvs*\nclusters.json\nprediction*.json\nscans*.json\n*_stats.tsv\n*.html\n"
_RECORDS = "prediction*.json"
_HIDDEN = ".predict"  # how the names of lock files and of the hidden folder begin
_BUSY = "Another predict writes into this folder."
_EXISTS = "The output exists already and is not overwritten"
_ELSEWHERE = "name another output, or remove this one first"
# What may differ between two starts of one run, or is compared by itself.
_NOT_COMPARED = ("device", "models", "part")
_CLAIM_TIMEOUT = 60.0  # seconds that other parts of the cohort may take to claim theirs


class Outputs:
    """The claimed output folder of one run, from `open_outputs`; `rows` are those of the table, in the scans' order."""

    def __init__(
        self,
        folder: Path,
        hidden: Path,
        scans: Sequence[Scan],
        settings: Mapping[str, Any],
        rows: dict[str, Any],
        tables: ScanTables | None = None,
    ):
        self._folder, self._hidden, self._settings, self._rows = folder, hidden, settings, rows
        self._new = not table_paths(folder, settings["part"])[1].exists()
        self._scans = scans
        self._numbers = {scan.case: number for number, scan in enumerate(scans)}
        self._placing = threading.Lock()
        self._closed = False
        self._tables = tables
        self._table_files = {scan.case: table_files(scan) for scan in scans}
        # (case, problem) of scans whose tables are without regions, because there are none that fit.
        self.without_regions: list[tuple[str, Problem]] = []

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows of volumes.tsv."""
        return sorted(self._rows.values(), key=lambda row: self._numbers.get(row["scan"], -1))

    def has(self, scan: Scan) -> bool:
        """Whether a start before this one has segmented the scan."""
        return scan.case in self._rows

    def is_older(self, scan: Scan) -> bool:
        """Whether a file of the scan has changed since a start before this one segmented it."""
        written = os.stat(self._folder / scan.mask).st_mtime_ns
        return any(os.stat(file).st_mtime_ns > written for file in scan.files)

    def write(self, scan: Scan, result: Segmentation, members: Members | None = None) -> dict[str, Any]:
        """Write mask, probability, tables (BIDS: side-cars) and row of one scan, all or none; returns the row.

        members: what the models and mirrors find one by one, for tables with intervals and maps.

        The row: scan, count of 26-connected clusters, their volume in mm3, and the seconds spent on the scan.
        May be called by several threads. Raises OSError.
        """
        mask = np.asarray(result.mask.dataobj) > 0
        volume = float(mask.sum()) * voxel_volume(result.mask.affine)
        row = {
            "scan": scan.case,
            "count": label_clusters(mask)[1],
            "volume_mm3": round(volume, 3),
            "seconds": round(sum(result.seconds.values()), 3),
        }
        # Short names: one that is too long, or that the file system refuses, is found when the files are renamed.
        waiting = self._hidden / str(self._numbers[scan.case])
        files: dict[Path, Path] = {}  # the mask last: where it is, its probability is
        for target, image in ((scan.probability, result.probability), (scan.mask, result.mask)):
            files[self._folder / target] = waiting.with_name(f"{waiting.name}_{len(files)}.nii.gz")
            write_image(files[self._folder / target], image)
        texts = {target: _json_text(about) for target, about in self._side_cars(scan).items()}
        if self._tables is not None:
            voxels = np.asarray(result.probability.dataobj)
            found, problems = self._tables.measure(scan.case, result.mask, voxels, scan.files[0], members)
            self.without_regions += [(scan.case, problem) for problem in problems]
            for note in found.warnings:
                print(shown(note), flush=True)
            targets = self._table_files[scan.case]
            labelled = waiting.with_name(f"{waiting.name}_{len(files)}.nii.gz")
            write_image(labelled, labels_image(found, result.mask))
            # Before the mask, for where it is, all else of the scan is.
            files = {self._folder / targets.labels: labelled} | files
            for name, values in ({} if members is None else members.maps).items():
                path = waiting.with_name(f"{waiting.name}_{len(files)}.nii.gz")
                write_image(path, image_like(values, result.mask, np.float32))
                files = {self._folder / targets.map_of(name): path} | files
                if scan.bids_sources:
                    side_car = self._folder / _side_car(targets.map_of(name))
                    sources = [f"bids:raw:{path}" for path in scan.bids_sources]
                    texts[side_car] = _json_text({"Sources": sources, "SpatialReference": "orig", "Label": "PVS"})
            texts |= {self._folder / p: text for p, text in table_texts(targets, found, scan.bids_sources).items()}
        for target, text in texts.items():
            files[target] = waiting.with_name(f"{waiting.name}_{len(files)}.txt")
            files[target].write_text(text, encoding="utf-8", errors="surrogateescape", newline="")
        try:
            self._place(files, row, bool(scan.bids_sources))
        finally:
            for path in files.values():
                path.unlink(missing_ok=True)
        return row

    def list_scans(self, problems: Mapping[str, str]) -> None:
        """Write scans.json (io.scan_list): the scans of this part; `problems` says why a case has no outputs."""
        listed = {
            scan.case: ListedScan(
                scan.case,
                tuple(path.resolve().as_posix() for path in scan.files),
                scan.mask.as_posix(),
                scan.probability.as_posix(),
            )
            for scan in self._scans
        }
        failed = {c: dataclasses.replace(listed.get(c, ListedScan(c)), problem=text) for c, text in problems.items()}
        written = self._hidden / "scans"
        write_scan_list(written, (listed | failed).values())
        os.replace(written, _list_path(self._folder, self._settings["part"]))

    def close(self) -> None:
        """Write nothing more but the table of the cohort's PVS, and leave nothing behind but what is whole."""
        try:
            with self._placing:
                self._closed = True
                if self._tables is not None and self._rows:
                    self._gather()
        finally:
            for _ in range(2):  # a thread may just have made a file there
                shutil.rmtree(self._hidden, ignore_errors=True)
        part = self._settings["part"]
        if self._new and not self._rows:
            for path in (*table_paths(self._folder, part), _list_path(self._folder, part)):
                path.unlink(missing_ok=True)

    def _place(self, files: Mapping[Path, Path], row: dict[str, Any], of_bids: bool) -> None:
        with self._placing:
            if self._closed:
                raise WorkError("The run was stopped.")
            placed = []
            try:
                for target, written in files.items():
                    target.parent.mkdir(parents=True, exist_ok=True)
                    os.replace(written, target)
                    placed.append(target)
                self._rows[row["scan"]] = row
                self._write_table()
                if of_bids and not (about := self._folder / "dataset_description.json").exists():
                    (self._folder / ".bidsignore").write_text(_BIDS_IGNORES)
                    _write_json(about, _derivative(self._settings["inputs"]))
            except BaseException:
                self._rows.pop(row["scan"], None)
                for target in placed:
                    target.unlink(missing_ok=True)
                raise

    def _gather(self) -> None:
        """pvs.tsv: the tables of the regions of all scans as one, and the dictionaries of all columns.

        A part of a cohort writes its own; that which finds the tables of all parts there makes them one.
        """
        part = self._settings["part"]
        cases = [row["scan"] for row in self.rows if row["scan"] in self._table_files]
        paths = {case: self._folder / self._table_files[case].regions for case in cases}
        written = self._hidden / "pvs"
        texts = {f"pvs{_suffix(part)}.tsv": cohort_text((c, read_rows(p)) for c, p in paths.items())}
        others = [self._folder / f"pvs{_suffix((k, part[1]))}.tsv" for k in range(1, part[1] + 1) if k != part[0]]
        if others and all(path.is_file() for path in others):
            tables = [path.read_text(encoding="utf-8", errors="surrogateescape") for path in others]
            header, *rows = texts[f"pvs{_suffix(part)}.tsv"].splitlines()
            rows += [row for table in tables for row in table.splitlines()[1:]]
            # Python's sort keeps the order of a scan's rows.
            texts["pvs.tsv"] = "\n".join([header, *sorted(rows, key=lambda row: row.split("\t")[0]), ""])
        for name, text in (texts | dictionaries()).items():
            written.write_text(text, encoding="utf-8", errors="surrogateescape", newline="")
            os.replace(written, self._folder / name)

    def _write_table(self) -> None:
        written = self._hidden / "table"
        with open(written, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            writer = csv.DictWriter(file, COLUMNS, delimiter="\t", lineterminator="\n")
            writer.writeheader()
            writer.writerows(row | {"scan": quoted(row["scan"])} for row in self.rows)
        os.replace(written, table_paths(self._folder, self._settings["part"])[0])

    def _side_cars(self, scan: Scan) -> dict[Path, dict[str, Any]]:
        """The side-cars of a scan from a BIDS data set."""
        if not scan.bids_sources:
            return {}
        about = {
            "Sources": [f"bids:raw:{path}" for path in scan.bids_sources],
            "SpatialReference": "orig",
            "Label": "PVS",
        }
        mask, probability = (self._folder / path for path in (scan.mask, scan.probability))
        return {
            _side_car(probability): about,
            _side_car(mask): {**about, "Type": "ROI", "Threshold": self._settings["threshold"]},
        }


@contextlib.contextmanager
def open_outputs(
    folder: Path, scans: Sequence[Scan], settings: dict[str, Any], tables: ScanTables | None = None
) -> Iterator[Outputs]:
    """Claim `folder` for the part of a cohort that `settings` (`describe_run`) say, and write prediction.json.

    Parts of one cohort may share a folder, each with its own table. Where the same part was begun with the same
    settings, its scans that have files and a row stay as they are. Anything else that is there already is refused.
    Raises InputError, also if another process works on the part or the folder cannot be written.
    """
    part = settings["part"]
    table, record = table_paths(folder, part)
    hidden = folder / f"{_HIDDEN}{_suffix(part)}"
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    with contextlib.ExitStack() as stack:
        stack.callback(_remove_empty, made)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with locked(folder / f"{_HIDDEN}-claim.lock", _BUSY, wait=_CLAIM_TIMEOUT):
                stack.enter_context(locked(hidden.with_name(f"{hidden.name}.lock"), _BUSY))
                rows = _rows_before(folder, scans, settings)
                shutil.rmtree(hidden, ignore_errors=True)  # of a process that was killed
                hidden.mkdir()
                outputs = Outputs(folder, hidden, scans, settings, rows, tables)
                stack.callback(outputs.close)
                _write_json(hidden / "record", settings)
                os.replace(hidden / "record", record)
                outputs.list_scans({})
        except OSError as error:
            raise InputError(
                "The output folder cannot be written.",
                file=folder,
                found=error.strerror or str(error),
                hint="name a folder on a disk with space, where you may write",
            ) from error
        yield outputs


def refuse_output(folder: Path, part: Sequence[int]) -> None:
    """Raise InputError for a folder that no run of this part can write into, before anything is loaded."""
    if part[1] == 1 and not table_paths(folder, part)[1].is_file():
        if folder.is_dir() and all(path.name.startswith(_HIDDEN) for path in folder.iterdir()):
            return
        refuse_existing(folder)


def table_paths(folder: Path, part: Sequence[int]) -> tuple[Path, Path]:
    """The table of volumes and the description of the run; parts of a cohort have their own."""
    return folder / f"volumes{_suffix(part)}.tsv", folder / f"prediction{_suffix(part)}.json"


def _list_path(folder: Path, part: Sequence[int]) -> Path:
    return folder / f"scans{_suffix(part)}.json"


def table_files(scan: Scan) -> TableFiles:
    """Where the tables of a scan lie in the output folder."""
    return TableFiles.bids(scan.mask.parent, scan.case) if scan.bids_sources else TableFiles.plain(scan.case)


def describe_run(
    predictor: Predictor,
    inputs: Path,
    part: tuple[int, int],
    brain_masks: str | Path | None = None,
    tables: ScanTables | None = None,
) -> dict[str, Any]:
    """How the outputs come about: models with their checksums, settings, software, device."""
    models = []
    for path in predictor.paths:
        stored = {} if path is None else read_json(path / DESCRIPTION)
        about = {"path": str(path), "sha256": stored.get("weights", {}).get("sha256")}
        models.append(about | {"spacing": predictor.recipe.spacing, "orientation": predictor.recipe.orientation})
    return {
        "inputs": inputs.resolve().as_posix(),
        "models": models,
        "threshold": predictor.threshold,
        "mirror_axes": list(predictor.window.mirror_axes),
        "step": predictor.window.step,
        "skip_background": predictor.skip_background,
        "brain_masks": None if brain_masks is None else Path(brain_masks).resolve().as_posix(),
        "background": predictor.background,
        "part": list(part),
        "tables": None if tables is None else tables.about,
        "software": {"mednext_jax": __version__, "jax": jax.__version__},
        "device": jax.devices()[0].device_kind,
    }


def _rows_before(folder: Path, scans: Sequence[Scan], settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Case -> row of what this run did before it was stopped; raises InputError for outputs of any other run,
    and for tables that cannot become part of pvs.tsv.
    """
    table, record = table_paths(folder, settings["part"])
    refuse_output(folder, settings["part"])
    for path in sorted(folder.glob(_RECORDS)):
        _require_same(settings, path, same_part=path == record)
    if not record.is_file():
        for path in (table, *(folder / p for scan in scans for p in (scan.mask, scan.probability))):
            with contextlib.suppress(OSError):  # a name that is too long is its scan's failure
                refuse_existing(path)
        return {}
    elsewhere = {case for path in folder.glob("volumes_part-*.tsv") if path != table for case in _read_table(path)}
    if moved := sorted(elsewhere & {scan.case for scan in scans}):
        raise InputError(
            f"{_EXISTS}: the cohort has changed since.",
            file=folder,
            expected="the same scans in each part as before",
            found=f"{len(moved)} scans in the tables of two parts: {', '.join(map(repr, moved[:4]))}",
            hint=_ELSEWHERE,
        )
    if settings.get("tables"):
        read_tables({scan.case: folder / table_files(scan).regions for scan in scans})
    lost = {s.case for s in scans if not all(os.path.isfile(folder / p) for p in _files_of(s, settings))}
    return {case: row for case, row in _read_table(table).items() if case not in lost}


def _files_of(scan: Scan, settings: Mapping[str, Any]) -> tuple[Path, ...]:
    """The files by which a scan is known to be done."""
    return (scan.mask, scan.probability, *((table_files(scan).regions,) if settings.get("tables") else ()))


def _require_same(settings: Mapping[str, Any], record: Path, same_part: bool) -> None:
    before = read_json(record)

    def compared(value: Any) -> dict[str, Any]:
        # A run of release 0.1.0 says nothing of tables: its scans are done again, with theirs.
        known = [name for name in settings if name not in _NOT_COMPARED and (name != "tables" or name in before)]
        found = {name: value.get(name) for name in known}
        part = list(value["part"]) if same_part else value["part"][1]
        return found | {"models": [model["sha256"] for model in value["models"]], "part": part}

    try:
        ours, theirs = compared(settings), compared(before)
    except (AttributeError, IndexError, KeyError, TypeError):
        raise InputError(f"{_EXISTS}: predict cannot read what it is.", file=record, hint=_ELSEWHERE) from None
    if differing := [name for name in ours if ours[name] != theirs.get(name)]:
        name = differing[0]
        raise InputError(
            f"{_EXISTS}: it was made with other settings ({', '.join(differing)}).",
            file=record,
            expected=f"{name} {json.dumps(ours[name])}",
            found=json.dumps(theirs[name])[:300],
            hint=_ELSEWHERE,
        )


def _read_table(path: Path) -> dict[str, dict[str, Any]]:
    """Case -> row of a table of volumes, {} if there is none; a row that cannot be read is left out."""
    if not path.is_file():
        return {}
    columns, lines = read_table(path, errors="surrogateescape")
    if columns != COLUMNS:
        raise InputError(f"{_EXISTS}: predict cannot read the table.", file=path, expected=", ".join(COLUMNS))
    rows = {}
    for line in lines:
        with contextlib.suppress(ValueError):
            case, count = unquoted(line["scan"]), int(line["count"])
            volume, seconds = float(line["volume_mm3"]), float(line["seconds"])
            if count >= 0 and 0 <= volume < math.inf and 0 <= seconds < math.inf:
                rows[case] = {"scan": case, "count": count, "volume_mm3": volume, "seconds": seconds}
    return rows


def _suffix(part: Sequence[int]) -> str:
    return "" if tuple(part) == (1, 1) else f"_part-{part[0]}-of-{part[1]}"


def _derivative(inputs: str) -> dict[str, Any]:
    return {
        "Name": "Perivascular spaces",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "mednext-jax", "Version": __version__}],
        "DatasetLinks": {"raw": inputs},
    }


def _side_car(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(".nii.gz") + ".json")


def _remove_empty(folders: Sequence[Path]) -> None:
    for path in folders:
        with contextlib.suppress(OSError):
            path.rmdir()


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(_json_text(value), encoding="utf-8")


def _json_text(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=2, allow_nan=False) + "\n"
