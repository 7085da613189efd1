"""What a prediction says of its scans: its files, where its outputs are, what failed, what decided.

volumes.tsv tells the scans that are done; what shows a mask on its scan, or says why there is none, reads scans.json.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from mednext_jax.errors import InputError
from mednext_jax.io.json_file import read_json

LISTED, RECORD, VOLUMES = "scans.json", "prediction.json", "volumes.tsv"
SCAN_RECORDS = "records"  # the folder with a record of each scan that is done
LIST_LIMIT = 2**28  # bytes; 10,000 scans take some MiB


@dataclasses.dataclass(frozen=True)
class ListedScan:
    """One case: the scan's files (one a channel), the outputs relative to their folder, and why there are none.

    A case whose files are not known has none; `problem` is "" for one that did not fail.
    """

    case: str
    files: tuple[str, ...] = ()
    mask: str = ""
    probability: str = ""
    problem: str = ""


def records_in(folder: Path) -> list[Path]:
    """The descriptions of all runs of `predict` in a folder: of one, or of the parts of a cohort."""
    return sorted(folder.glob("prediction*.json"))


def scan_record_path(case: str) -> Path:
    """Where the record of a case lies in the output folder."""
    return Path(SCAN_RECORDS, f"{case}.json")


def decided_by(folder: Path, case: str, record: Mapping[str, Any]) -> Any:
    """The threshold that made a scan's mask: that of the run's `record`, or of a model with a table the scan's own.

    None: the most probable class, or it is not known.
    """
    if not record.get("thresholds"):
        return record.get("threshold")
    try:
        own = read_json(folder / scan_record_path(case))
    except (InputError, OSError):
        return None
    return own.get("threshold") if isinstance(own, dict) else None


def write_scan_list(path: Path, scans: Iterable[ListedScan]) -> None:
    """Write the list as JSON."""
    content = {"scans": [dataclasses.asdict(scan) for scan in scans]}
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read_scan_list(path: Path) -> list[ListedScan]:
    """The scans of a list; raises InputError for another file, and for outputs outside their folder."""
    content = read_json(path, limit=LIST_LIMIT)
    try:
        scans = [ListedScan(**(row | {"files": tuple(row["files"])})) for row in content["scans"]]
        named = [text for s in scans for text in (s.case, *s.files, s.mask, s.probability, s.problem)]
        if not all(isinstance(text, str) for text in named):
            raise TypeError("a value that is no text")
    except (KeyError, TypeError) as error:
        raise InputError("The list of scans is not understood.", file=path, found=str(error)) from None
    for scan in scans:
        for output in (scan.mask, scan.probability):
            if PurePosixPath(output).is_absolute() or ".." in PurePosixPath(output).parts:
                raise InputError("An output lies outside its folder.", file=path, found=output)
    return scans
