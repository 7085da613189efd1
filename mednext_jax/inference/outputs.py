"""What `predict` writes of each scan: masks, probabilities, side-cars, tables, and the record that says they are done.

A scan appears as a whole: its files are written into a hidden folder, then they take their places together, and their
record comes last. A run that was stopped continues after the scans that have one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from mednext_jax.errors import WorkError
from mednext_jax.inference import derivative
from mednext_jax.inference.cohort_tables import FAILED, failed_text, volumes_text
from mednext_jax.inference.failures import Failure
from mednext_jax.inference.flags import EDGE, SEPARATOR, edge_flag, training_flags, with_cohort_flags
from mednext_jax.inference.gather import write_failed
from mednext_jax.inference.predictor import Segmentation
from mednext_jax.inference.run_record import of_a_scan, part_name, record_path
from mednext_jax.inference.scan_record import FileState, ScanRecord
from mednext_jax.inference.scans import Scan
from mednext_jax.io.bids import DESCRIPTION, IGNORES
from mednext_jax.io.geometry import voxel_volume
from mednext_jax.io.nifti import image_like, write_image
from mednext_jax.io.scan_list import (
    LISTED,
    RECORD,
    SCAN_RECORDS,
    VOLUMES,
    ListedScan,
    scan_record_path,
    write_scan_list,
)
from mednext_jax.measure.clusters import label_clusters
from mednext_jax.quantify.members import Members
from mednext_jax.quantify.scan_tables import ScanTables, table_texts
from mednext_jax.quantify.tables import COHORT, cohort_text, dictionaries, labels_image, read_rows

LOG = "predict.log"
_OF_BIDS = (DESCRIPTION, IGNORES)


@dataclasses.dataclass(frozen=True)
class Written:
    """What became of a scan: its row of volumes.tsv, its PVS in words, what its tables lack, what else is to say."""

    row: dict[str, Any]
    pvs: str
    lacks: tuple[Failure, ...] = ()
    notes: tuple[str, ...] = ()


class Outputs:
    """The output folder of one run, claimed by `open_outputs`.

    before: case -> the row of each scan that a start before this one has done.
    """

    def __init__(
        self,
        folder: Path,
        hidden: Path,
        scans: Sequence[Scan],
        settings: Mapping[str, Any],
        before: Mapping[str, dict[str, Any]],
        tables: ScanTables | None = None,
    ):
        self._folder, self._hidden, self._settings = folder, hidden, settings
        self._rows = dict(before)
        self._part = settings["part"]
        self._new = not record_path(folder, self._part).exists()
        self._scans = scans
        self._numbers = {scan.case: number for number, scan in enumerate(scans)}
        self._placing = threading.Lock()
        self._closed = False
        self._tables = tables
        self._failures: list[Failure] = []

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows of volumes.tsv, in the scans' order."""
        return with_cohort_flags(self._rows_now())

    @property
    def failures(self) -> list[Failure]:
        """What failed, in the order of the cases."""
        return list(self._failures)

    @property
    def log(self) -> Path:
        """The file with a line for each scan."""
        return self._path(LOG)

    def has(self, scan: Scan) -> bool:
        """Whether the scan is done."""
        return scan.case in self._rows

    def write(
        self,
        scan: Scan,
        result: Segmentation,
        members: Members | None = None,
        *,
        inputs: Sequence[FileState] = (),
        flags: Sequence[str] = (),
        training: Sequence[Mapping[str, Any]] = (),
        brain: tuple[nib.Nifti1Image, str] | None = None,
    ) -> Written:
        """Write all files of one scan, its record and its row, all or none.

        members: what the models and mirrors find one by one, for tables with intervals and maps. inputs: what the files
        of the scan held. flags: what asks for a look. training: as `training_flags`. brain: the mask that a tool made,
        and the tool's name.

        The row: scan, count of 26-connected clusters, their volume in mm3, the seconds spent on the scan, and flags.
        A scan whose regions are not there or do not fit has tables without them and no record: the next start does it
        again. May be called by several threads. Raises OSError.
        """
        mask = np.asarray(result.mask.dataobj) > 0
        labels, count = label_clusters(mask)
        inside = result.inside
        edge = inside is not None and edge_flag(labels, inside) is not None
        row: dict[str, Any] = {
            "scan": scan.case,
            "count": count,
            "volume_mm3": round(float(mask.sum()) * voxel_volume(result.mask.affine), 3),
            "seconds": round(sum(result.seconds.values()), 3),
        }
        row["flags"] = SEPARATOR.join([*flags, *([EDGE] if edge else []), *training_flags(row, training)])
        images = {scan.probability: result.probability, scan.mask: result.mask}  # where the mask is, all else is
        texts: dict[Path, str] = {}
        pvs = "{count} PVS, {volume_mm3:.1f} mm3".format(**row)
        lacks: list[Failure] = []
        notes: tuple[str, ...] = ()
        maps = {} if members is None else members.maps
        if self._tables is not None:
            voxels = np.asarray(result.probability.dataobj)
            found, problems = self._tables.measure(scan.case, result.mask, voxels, scan.files[0], members)
            if problems:
                lacks = [Failure(scan.case, "regions", tuple(problems), by_input=True)]
            pvs, notes = found.in_words(), found.warnings
            targets = derivative.table_files(scan)
            of_maps = {targets.map_of(n): image_like(v, result.mask, np.float32) for n, v in maps.items()}
            images = {targets.labels: labels_image(found, result.mask)} | of_maps | images
            texts |= table_texts(targets, found, scan.bids_sources)
        side_cars = derivative.side_cars(scan, result.threshold, maps)
        if brain is not None:
            images = {derivative.brain_path(scan): brain[0]} | images
            side_cars |= derivative.brain_side_car(scan, brain[1])
        texts |= {path: _json_text(about) for path, about in side_cars.items()}
        # Short names: one that is too long, or that the file system refuses, is found when the files are renamed.
        waiting = self._hidden / str(self._numbers[scan.case])
        files: dict[Path, Path] = {}
        try:
            for target, text in texts.items():
                files[target] = waiting.with_name(f"{waiting.name}_{len(files)}.txt")
                _write(files[target], text)
            for target, image in images.items():
                files[target] = waiting.with_name(f"{waiting.name}_{len(files)}.nii.gz")
                write_image(files[target], image)
            if not lacks:
                states = {target.as_posix(): FileState.of(path) for target, path in sorted(files.items())}
                made_with = of_a_scan(self._settings)
                record = ScanRecord(scan.case, tuple(inputs), made_with, states, row, result.threshold)
                files[scan_record_path(scan.case)] = waiting
                _write(waiting, record.text())
            self._place(scan, files, row)
        finally:
            for path in files.values():
                path.unlink(missing_ok=True)
        return Written(row, pvs, tuple(lacks), notes)

    def take(self, failures: Iterable[Failure]) -> None:
        """Add to failed.tsv, if that can be written: a full disk is told at the end, and stops no scan."""
        with self._placing:
            self._failures += failures
            self._failures.sort(key=lambda failure: failure.case)
            if not self._closed and self._failures:
                with contextlib.suppress(OSError):
                    self._replace(FAILED, failed_text(self._failures))

    def describe(self) -> None:
        """Write prediction.json."""
        self._replace(RECORD, _json_text(self._settings))

    def list_scans(self) -> None:
        """Write scans.json (io.scan_list): the scans of this part, and why a case has no outputs."""
        listed = {
            scan.case: ListedScan(
                scan.case,
                tuple(path.resolve().as_posix() for path in scan.files),
                scan.mask.as_posix(),
                scan.probability.as_posix(),
            )
            for scan in self._scans
        }
        for failure in self._failures:
            if failure.case not in self._rows:
                known = listed.get(failure.case, ListedScan(failure.case))
                listed[failure.case] = dataclasses.replace(known, problem=str(failure))
        written = self._hidden / "scans"
        write_scan_list(written, listed.values())
        os.replace(written, self._path(LISTED))

    def close(self) -> None:
        """Write nothing more but the tables of the cohort, and leave nothing behind but what is whole.

        What cannot be written is among the failures.
        """
        with self._placing:
            self._closed = True
            nothing = not self._rows and (not self._failures or len(self._scans) == self._part[1] == 1)
            useless = self._new and nothing and bool(self._scans or self._part[1] == 1)
            try:
                if not useless:
                    self._write_tables()
            except OSError as error:
                self._failures.append(Failure.of_tables(self._folder, error))
        for _ in range(2):  # a thread may just have made a file there
            shutil.rmtree(self._hidden, ignore_errors=True)
        if useless:
            names = (RECORD, VOLUMES, LISTED, FAILED, LOG)
            for path in (*map(self._path, names), *(self._folder / name for name in _OF_BIDS)):
                path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            (self._folder / SCAN_RECORDS).rmdir()

    def _write_tables(self) -> None:
        self.list_scans()
        self._replace(VOLUMES, volumes_text(self.rows))
        if self._tables is not None and self._rows:
            self._gather()
        if self._failures:
            self._replace(FAILED, failed_text(self._failures))
        else:
            write_failed(self._path(FAILED), None)

    def _path(self, name: str) -> Path:
        return self._folder / part_name(name, self._part)

    def _replace(self, name: str, text: str) -> None:
        written = self._hidden / "table"
        _write(written, text)
        os.replace(written, self._path(name))

    def _place(self, scan: Scan, files: Mapping[Path, Path], row: dict[str, Any]) -> None:
        with self._placing:
            if self._closed:
                raise WorkError("The run was stopped.")
            if scan.bids_sources and not (self._folder / DESCRIPTION).exists():
                self._describe_derivative()
            (self._folder / scan_record_path(scan.case)).unlink(missing_ok=True)
            placed = []
            try:
                for target, written in files.items():
                    (self._folder / target).parent.mkdir(parents=True, exist_ok=True)
                    os.replace(written, self._folder / target)
                    placed.append(self._folder / target)
                self._rows[row["scan"]] = row
                self._replace(VOLUMES, volumes_text(self._rows_now()))
            except BaseException:
                self._rows.pop(row["scan"], None)
                for target in placed:
                    target.unlink(missing_ok=True)
                raise

    def _rows_now(self) -> list[dict[str, Any]]:
        """The rows without the flags of a scan among the others, which are known at the end."""
        return sorted(self._rows.values(), key=lambda row: self._numbers.get(row["scan"], -1))

    def _describe_derivative(self) -> None:
        about = _json_text(derivative.describe_derivative(self._settings["inputs"]))
        for name, text in ((IGNORES, derivative.BIDS_IGNORES), (DESCRIPTION, about)):
            _write(self._hidden / "about", text)
            os.replace(self._hidden / "about", self._folder / name)

    def _gather(self) -> None:
        """pvs.tsv: the tables of the regions of all scans as one, and the dictionaries of all columns."""
        paths = {scan.case: self._folder / derivative.table_files(scan).regions for scan in self._scans}
        done = [row["scan"] for row in self._rows_now() if row["scan"] in paths]
        self._replace(COHORT, cohort_text((case, read_rows(paths[case])) for case in done))
        for name, text in dictionaries().items():
            _write(self._hidden / "about", text)
            os.replace(self._hidden / "about", self._folder / name)


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", errors="surrogateescape", newline="")


def _json_text(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=2, allow_nan=False) + "\n"
