"""Kill the commands that write but `predict` (`tools.kill_predict`) at random moments; nothing half-written may stay.

    python -m tools.kill_commands MODEL [--kills 10] [--seed 0] [--only convert,evaluate]

Each command is run once undisturbed; then, `kills` times, into a fresh place, where `kill -9` ends it at a random part
of the undisturbed run's time, and the same command is given again. The second run must end with status 0, or find the
first one's output whole; the output must equal the undisturbed run's, file by file, and no hidden name may stay.
Prints one row per command; ends with status 1 at the first that does anything else. MODEL is a model directory.
"""

from __future__ import annotations

import argparse
import dataclasses
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tools.arguments import some_of
from tools.kill_predict import differences

COMMANDS = ("simulate", "prepare", "convert", "quantify", "report", "evaluate")


@dataclasses.dataclass(frozen=True)
class Command:
    """One command of the product: its arguments, with OUT for its output, and the files that it starts from."""

    arguments: tuple[str, ...]
    copied: Path | None = None  # a folder that the command writes into: a fresh copy is OUT

    def run(self, out: Path, kill_after: float | None = None) -> tuple[int, str]:
        """The exit status (-9 if killed) and the last words."""
        command = [sys.executable, "-m", "mednext_jax", *(str(out) if a == "OUT" else a for a in self.arguments)]
        with tempfile.TemporaryFile("w+") as words:
            process = subprocess.Popen(command, stdout=words, stderr=words)
            try:
                process.wait(kill_after)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
            words.seek(0)
            return process.returncode, words.read()[-2000:]

    def fresh(self, out: Path) -> None:
        if self.copied is not None:
            shutil.copytree(self.copied, out)


def commands(work: Path, model: str) -> dict[str, Command]:
    """The commands in the order in which each needs what the one before wrote."""
    data, masks = str(work / "simulate"), str(work / "predict")
    scans, labels = f"{data}/imagesTr", f"{data}/labelsTr"
    return {
        "simulate": Command(("simulate", "--out", "OUT", "--subjects", "3", "--contrast", "T2w")),
        "prepare": Command(("prepare", data, "--out", "OUT", "--spacing", "2", "--splits", "kfold:2")),
        "convert": Command(("convert", model, "OUT", "--upkern", "5")),
        "predict": Command(("predict", "-i", scans, "-o", "OUT", "-m", model, "--no-tta")),
        "quantify": Command(("quantify", "-i", masks, "-o", "OUT")),
        "report": Command(("report", "OUT", "--scans", scans), work / "predict"),
        "evaluate": Command(("evaluate", "-p", masks, "-r", labels, "-o", "OUT")),
    }


def try_kills(command: Command, name: str, work: Path, kills: int, rng: random.Random) -> str:
    """A row of the table; raises RuntimeError with what went wrong."""
    whole = work / name
    command.fresh(whole)
    began = time.monotonic()
    status, said = command.run(whole)
    took = time.monotonic() - began
    if status != 0:
        raise RuntimeError(f"{name}: the undisturbed run ended with {status}: {said}")
    killed = found_whole = 0
    for _ in range(kills):
        with tempfile.TemporaryDirectory(dir=work) as folder:
            out = Path(folder) / name
            command.fresh(out)
            killed += command.run(out, rng.uniform(0.3, 1.0) * took)[0] == -signal.SIGKILL
            status, said = command.run(out)
            found_whole += status == 2
            if status not in (0, 2):
                raise RuntimeError(f"{name}: after the kill, the same command ended with {status}: {said}")
            if wrong := differences(whole, out):
                raise RuntimeError(f"{name}: differ, or hidden: {wrong}; the second run: {said}")
    return f"{name:10} {killed:4} killed, {kills - killed} had finished; {found_whole} found whole by the second run"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=some_of(COMMANDS), default=list(COMMANDS))
    args = parser.parse_args()
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        for name, command in commands(Path(folder), args.model).items():
            if name not in args.only:
                command.run(Path(folder) / name)  # the others start from what it writes
                continue
            try:
                print(try_kills(command, name, Path(folder), args.kills, rng), flush=True)
            except RuntimeError as error:
                print(error)
                return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
