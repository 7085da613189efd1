"""The end of prediction.json: what a run did, for programs: state, seconds, models' sources, failures, warnings."""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mednext_jax.errors import InputError, Problem
from mednext_jax.inference.failures import Failure
from mednext_jax.inference.predictor import Predictor
from mednext_jax.io.atomic import atomic_file
from mednext_jax.io.json_file import read_json
from mednext_jax.version import commit
from mednext_jax.weights.directory import DESCRIPTION

DONE, SOME_FAILED, NONE_DONE, STOPPED = "done", "some scans failed", "no scan done", "stopped"
_BYTES = 200_000  # of warnings, and of failures: the record is read again at the next start, up to 1 MiB
_OF_SOURCE = ("source", "source_sha256", "source_kind")


class RunReport(logging.Handler):
    """A context that keeps what the package warns of, and at its end adds "run" to the description of the run.

    "run": {"state", "started", "seconds", "commit", "models": [{"given", "source", "source_sha256", "source_kind"}],
    "done" (number of scans), "failed" {case: why}, "warnings" [text]}. Nothing is added where no description is, since
    no scan was done.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.warnings: list[str] = []
        self.failed: dict[str, str] = {}
        self._record: Path | None = None
        self._rows: Sequence[Mapping[str, Any]] = ()
        self._start, self._started = time.perf_counter(), datetime.datetime.now().astimezone()

    def begin(self, record: Path, settings: Mapping[str, Any], predictor: Predictor) -> None:
        """`record` holds `settings`, as `describe_run` tells them."""
        self._record, self._settings = record, settings
        self._models = [
            {"given": given, **_source(path)} for given, path in zip(predictor.given, predictor.paths, strict=True)
        ]

    def keep(self, warnings: Sequence[Problem]) -> None:
        """Take warnings that were printed."""
        self.warnings += map(str, warnings)

    def end(self, rows: Sequence[Mapping[str, Any]], failures: Sequence[Failure]) -> None:
        """The scans that are done, and why others are not."""
        self._rows = rows
        for failure in failures:
            before = self.failed.get(failure.case)
            self.failed[failure.case] = str(failure) if before is None else f"{before}\n{failure}"

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a warning of the package, and print it as without this handler."""
        self.warnings.append(record.getMessage())
        if not logging.getLogger().handlers and logging.lastResort is not None:
            logging.lastResort.handle(record)

    def __enter__(self) -> RunReport:
        logging.getLogger("mednext_jax").addHandler(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        logging.getLogger("mednext_jax").removeHandler(self)
        if self._record is None or not self._record.is_file():
            return
        state = STOPPED if kind else DONE if not self.failed else SOME_FAILED if self._rows else NONE_DONE
        run = {
            "state": state,
            "started": self._started.isoformat(timespec="seconds"),
            "seconds": round(time.perf_counter() - self._start, 3),
            "commit": commit(),
            "models": self._models,
            "done": len(self._rows),
            "failed": dict(_within(list(self.failed.items()), ("", "{} more, in scans.json"))),
            "warnings": _within(self.warnings, "{} more"),
        }
        with contextlib.suppress(OSError), atomic_file(self._record) as written:
            written.write_text(json.dumps({**self._settings, "run": run}, indent=2, allow_nan=False) + "\n")


def _within(items: list[Any], more: Any) -> list[Any]:
    """The first of `items` whose JSON takes less than `_BYTES`, and `more`, with the number of the others."""
    total = 0
    for number, item in enumerate(items):
        total += len(json.dumps(item))
        if total > _BYTES:
            rest = str(len(items) - number)
            return [
                *items[:number],
                more.format(rest) if isinstance(more, str) else tuple(t.format(rest) for t in more),
            ]
    return items


def _source(path: Path | None) -> dict[str, Any]:
    """What a model directory says of the file that it was converted from."""
    try:
        told = {} if path is None else read_json(path / DESCRIPTION).get("provenance", {})
    except InputError:
        told = {}
    return {name: told.get(name) for name in _OF_SOURCE}
