"""What is said while a cohort is segmented: a line for each scan, bars on a terminal, a log file.

The time that is left is reckoned from the first scan's end, and within a scan from its first round of tiles: before
them stands the compiler.
"""

from __future__ import annotations

import contextlib
import datetime
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from mednext_jax.errors import Problem, in_groups, shown
from mednext_jax.inference.failures import Failure
from mednext_jax.inference.scans import Scan
from mednext_jax.inference.stream import Done
from mednext_jax.io.nifti_names import few

QUIET, USUAL, VERBOSE = range(3)


class CohortProgress:
    """Says what happens to `count` scans, of which `before` are done already.

    log: the file that gets a line for each scan; None for none. level: `QUIET`, nothing on the standard output;
    `VERBOSE`, the time of each stage too. bars: whether the standard error is a terminal, by default.
    """

    def __init__(
        self,
        count: int,
        before: int = 0,
        *,
        log: Path | None = None,
        level: int = USUAL,
        bars: bool | None = None,
    ):
        self._count, self._done, self._written, self._failed, self._busy = count, before, 0, 0, 0.0
        self._log, self._level = log, level
        self._start = time.perf_counter()
        self._first: float | None = None  # when the first scan was done, which waited for the compiler
        self._bars = level != QUIET and (sys.stderr.isatty() if bars is None else bars)
        self._around = contextlib.ExitStack()
        self._scans: Any = None
        self._tiles: Any = None

    def begin(self, how: str, left_out: Sequence[str] = ()) -> None:
        """Say how many scans there are, how they are done, and the cases that are left out."""
        before, count = self._done, self._count
        self.say(
            f"{count} scan{'s' * (count != 1)}, {how}; "
            + (f"{before} done before; " if before else "")
            + ("the first scan of a size waits for the compiler" if before < count else "nothing is left to do")
        )
        if left_out:
            self.say(f"left out, for reasons that come at the end: {shown(few(left_out))}")
        if self._bars and before < count:
            self._around.enter_context(logging_redirect_tqdm())  # warnings stand above the bars
            # smoothing 0: the mean pace since `initial`, not that of the last scans
            self._scans = tqdm(total=count, initial=before, unit="scan", desc="scans", smoothing=0, position=0)

    def take(self, scan: Scan, outcome: Done | Failure) -> None:
        """One scan is done, or failed."""
        self._done += 1
        if isinstance(outcome, Failure):
            self._failed += 1
            text = f"failed ({outcome.stage})"
        else:
            self._written += 1
            self._busy += outcome.seconds.get("device", 0.0)
            text = f"{outcome.written.pvs}, {outcome.written.row['seconds']:.1f} s"
            if flags := outcome.written.row["flags"]:
                text += f", look at it: {flags}"
        line = f"[{self._done}/{self._count}] {shown(scan.case)}: {text}"
        details = ""
        if self._level == VERBOSE and isinstance(outcome, Done):
            stages = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in outcome.seconds.items())
            details = f" ({outcome.tiles} tiles; {stages})"
        rest = self._rest()
        self._print(line + details + rest)
        self._write(line + details)
        if isinstance(outcome, Done):
            for note in outcome.written.notes:
                self._print(shown(note))
        if self._scans is not None:
            self._scans.update()
            if self._written == 1 and isinstance(outcome, Done):  # the pace is that of the scans after the first
                self._scans.initial, self._scans.start_t = self._scans.n, time.time()

    def tiles(self, done: int, count: int) -> None:
        """So many tiles of the scan on the device are computed."""
        if not self._bars:
            return
        if self._tiles is None or done < self._tiles.n:
            self._end_tiles()
            # It begins with the first round, which waited for the compiler.
            self._tiles = tqdm(
                total=count, initial=done, unit="tile", desc="tiles", smoothing=0, position=1, leave=False
            )
        self._tiles.update(done - self._tiles.n)
        if done == count:
            self._end_tiles()

    @property
    def shows_tiles(self) -> bool:
        """Whether `tiles` shows anything."""
        return self._bars

    def say(self, text: str) -> None:
        """Print a line, and write it into the log."""
        self._print(text)
        self._write(text)

    def warn(self, problems: Sequence[Problem]) -> None:
        """Print warnings, those of one kind together."""
        if problems:
            self._print(in_groups(problems))

    def end(self) -> None:
        """Say the speed."""
        self.close()
        seconds = time.perf_counter() - self._start
        pace = 3600 * self._written / seconds
        speed = f"{pace:.0f} scans an hour, device idle {max(0, 1 - self._busy / seconds):.0%}"
        if self._written or self._failed:
            self.say(f"{self._count - self._failed} of {self._count} scans in {seconds:.1f} s: {speed}")

    def close(self) -> None:
        """Leave the terminal as a line of its own."""
        self._end_tiles()
        self._around.close()
        if self._scans is not None:
            self._scans.close()
            self._scans = None

    def _end_tiles(self) -> None:
        if self._tiles is not None:
            self._tiles.close()
            self._tiles = None

    def _rest(self) -> str:
        """How long the rest will take at the pace since the first written scan."""
        now = time.perf_counter()
        if not self._written or self._done == self._count:
            return ""
        if self._first is None:
            self._first, self._done_by_first = now, self._done
            return ""
        pace = (now - self._first) / (self._done - self._done_by_first)
        return f", ETA {pace * (self._count - self._done):.0f} s"

    def _print(self, text: str) -> None:
        if self._level == QUIET:
            return
        if self._scans is not None:
            tqdm.write(text, file=sys.stdout)
        else:
            print(text)
        sys.stdout.flush()

    def _write(self, text: str) -> None:
        if self._log is not None:
            now = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
            with (
                contextlib.suppress(OSError),
                open(self._log, "a", encoding="utf-8", errors="backslashreplace") as file,
            ):
                file.write(f"{now} {text}\n")
