"""Checkpoints of a run: Orbax, written in the background, never in place of an earlier one, each leaf with a hash."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers

from mednext_jax.errors import InputError, WorkError, shown
from mednext_jax.io.json_file import read_json
from mednext_jax.parallel.processes import is_main_process, meet
from mednext_jax.settings import Range, integer, setting
from mednext_jax.train.state import TrainState

DAMAGED = ".damaged"  # the ending of a checkpoint's folder that was set aside


class DamagedCheckpoint(InputError):
    """A checkpoint that cannot be read, or is not as it was written."""


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """When a run is saved."""

    minutes: float = setting(15.0, Range("minutes above 0", lambda v: v > 0), "a checkpoint at least this often")
    steps: int = setting(0, integer(0), "and every so many steps; 0: only by the clock and at the end")
    keep: int = setting(2, integer(1), "the latest that are kept, besides the one with the best validation Dice")


class Checkpoints:
    """The checkpoints in `folder`: the latest `keep`, and the one with the best score.

    A checkpoint named N holds the state before step N, the configuration as JSON, and hashes of both.
    """

    def __init__(self, folder: Path, keep: int):
        self._folder = folder.absolute()
        best = checkpoint_managers.BestN(
            get_metric_fn=lambda metrics: metrics["score"], n=1, keep_checkpoints_without_metrics=False
        )
        policy = checkpoint_managers.AnyPreservationPolicy([checkpoint_managers.LatestN(keep), best])
        # Orbax logs a failed write several times over, each with its traceback, and asyncio each failed read; the
        # first of them is raised as well.
        logging.getLogger("absl").addFilter(_not_of_orbax)
        logging.getLogger("asyncio").addFilter(_no_unfinished_read)
        options = ocp.CheckpointManagerOptions(
            best_fn=lambda metrics: metrics["score"],  # has the score written with the checkpoint, for resumed runs
            preservation_policy=policy,
            cleanup_tmp_directories=True,
        )
        self._without(_without_description(self._folder))
        try:
            self._manager = ocp.CheckpointManager(self._folder, options=options)
        except (ValueError, TypeError, KeyError, AttributeError):
            # It reads the descriptions of all checkpoints at once, and fails for one.
            self._without(_without_description(self._folder, known_fields=True))
            self._manager = ocp.CheckpointManager(self._folder, options=options)

    @property
    def steps(self) -> list[int]:
        """The steps of the whole checkpoints, newest first."""
        return sorted(self._manager.all_steps(), reverse=True)

    def restore_newest(self, like: TrainState, check: Callable[[dict[str, Any]], None]) -> TrainState | None:
        """The state in the newest checkpoint that is sound, None if none was ever saved.

        Those before it in the list are set aside, with a line each. `check` gets the configuration in a checkpoint
        and may raise. Raises InputError if there are checkpoints but none is sound; then none is set aside.
        """
        damaged: dict[int, DamagedCheckpoint] = {}
        for step in self.steps:
            try:
                check(self.config(step))
                state = self.restore(step, like)
            except DamagedCheckpoint as error:
                damaged[step] = error
                continue
            if damaged:
                self._without({bad: error.problems[0].found or "" for bad, error in damaged.items()})
                self._manager.reload()
            return state
        if damaged or any(self._folder.glob(f"*{DAMAGED}")):
            first = next(iter(damaged.values()), None)
            raise InputError(
                "No checkpoint of this run is sound.",
                file=self._folder,
                found=first.problems[0].found if first else f"folders named STEP{DAMAGED}",
                hint="bring back a copy of this folder, or remove it to begin the run again",
            )
        return None

    def config(self, step: int) -> dict[str, Any]:
        """The configuration in a checkpoint; raises DamagedCheckpoint."""
        with self._reading(step):
            config = self._manager.restore(step, args=ocp.args.Composite(config=ocp.args.JsonRestore())).config
            hashes = self._hashes(step)
            if not isinstance(config, dict) or (hashes and hashes["config"] != _digest(config)):
                raise ValueError("the configuration is not as it was written")
        return config

    def restore(self, step: int, like: TrainState) -> TrainState:
        """The state in a checkpoint; `like` gives shapes, types and shardings, which may differ from those saved.

        Raises DamagedCheckpoint if the checkpoint cannot be read as such a state, or is not as it was written.
        """
        with self._reading(step):
            args = ocp.args.Composite(state=ocp.args.StandardRestore(like))
            state = self._manager.restore(step, args=args).state
        meet("restored")
        with self._reading(step):
            hashes = self._hashes(step)
            changed = [name for name, found in leaf_hashes(state).items() if hashes and hashes["leaves"][name] != found]
            if changed:
                raise ValueError(f"not as written: {', '.join(changed[:3])} and {len(changed[3:])} more")
        return state

    def save(self, step: int, state: TrainState, config: dict[str, Any], score: float | None = None) -> None:
        """Start writing; the copy from the devices is done on return, so `state` may be donated after it."""
        if step in self._manager.all_steps():
            return
        hashes = {"step": step, "config": _digest(config), "leaves": leaf_hashes(state)}
        with self._writing():
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state),
                    config=ocp.args.JsonSave(config),
                    hashes=ocp.args.JsonSave(hashes),
                ),
                metrics=None if score is None else {"score": score},
                force=True,
            )

    def preempted(self, step: int) -> bool:
        """Whether all processes agreed to stop at `step` because one was told to (multi-process runs)."""
        return self._manager.reached_preemption(step)

    def wait(self) -> None:
        """Return when everything is on disk."""
        with self._writing():
            self._manager.wait_until_finished()

    def close(self) -> None:
        self._manager.close()

    def _hashes(self, step: int) -> dict[str, Any] | None:
        """Hashes that `save` wrote beside the state; None for a checkpoint of version 0.1.0, which has none."""
        folder = self._folder / str(step) / "hashes"
        if not folder.exists():
            return None
        hashes = self._manager.restore(step, args=ocp.args.Composite(hashes=ocp.args.JsonRestore())).hashes
        if hashes["step"] != step:
            raise ValueError(f"the checkpoint of step {hashes['step']}")
        return hashes

    @contextlib.contextmanager
    def _reading(self, step: int) -> Iterator[None]:
        """Context in which a failure of any process is a DamagedCheckpoint on all."""
        found = None
        try:
            yield
        except Exception as error:  # Orbax trusts its files: a damaged one can raise anything
            found = f"{type(error).__name__}: {error}"[:500]
        if jax.process_count() > 1:
            meet("read")
            sound = multihost_utils.process_allgather(np.asarray(found is None))
            found = found if sound.all() else found or "another process could not read it"
        if found is not None:
            raise DamagedCheckpoint(
                f"The checkpoint of step {step} cannot be read.",
                file=self._folder / str(step),
                found=found,
                hint="remove this folder to continue from the checkpoint before it",
            )

    def _without(self, damaged: Mapping[int, str]) -> None:
        """Set checkpoints aside: step -> why."""
        if is_main_process():
            for step, found in damaged.items():
                self._set_aside(step, found)
        meet("set aside")

    def _set_aside(self, step: int, found: str) -> None:
        """Rename a checkpoint, so that nothing takes it for one, and say so in a line."""
        folder = self._folder / str(step)
        aside = next(
            path
            for number in range(1000)
            if not (path := folder.with_name(f"{step}{f'.{number}' if number else ''}{DAMAGED}")).exists()
        )
        folder.rename(aside)
        what = f"The checkpoint of step {step} is damaged and set aside as {aside}: {_line(found)}"
        print(shown(what), file=sys.stderr)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """A full disk, met here or by the writer in the background, ends the run as such."""
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:
            raise WorkError(
                f"A checkpoint cannot be written to {self._folder}: {_line(str(error))}. "
                "The earlier ones are as they were; the same command continues from the newest of them."
            ) from error


def leaf_hashes(state: Any) -> dict[str, str]:
    """Name of each leaf -> 64-bit hash of its bits, the same however the leaf is spread over devices.

    Every process must call it. One flipped bit, or two elements in each other's place, give another hash.
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    words = jax.device_get([_hash(leaf) for _, leaf in leaves])
    return {jax.tree_util.keystr(path): f"{a:08x}{b:08x}" for (path, _), (a, b) in zip(leaves, words, strict=True)}


@jax.jit
def _hash(leaf: jax.Array) -> jax.Array:
    """Two sums (2,) uint32 over mixtures of each element's bits with its place: order of summation does not matter."""
    kind = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[leaf.dtype.itemsize]
    bits = jax.lax.bitcast_convert_type(leaf, kind).astype(jnp.uint32)
    place = jax.lax.iota(jnp.uint32, math.prod(leaf.shape)).reshape(leaf.shape)
    seeds = (0x9E3779B9, 0x85EBCA6B)
    return jnp.stack([jnp.sum(_mixed(bits ^ _mixed(place + jnp.uint32(s))), dtype=jnp.uint32) for s in seeds])


def _mixed(x: jax.Array) -> jax.Array:
    """MurmurHash3's last step: every bit of a uint32 depends on every other."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def _digest(config: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


# What Orbax 0.12 writes into the description of a checkpoint.
DESCRIPTION = "_CHECKPOINT_METADATA"
FIELDS: dict[str, Any] = {
    **dict.fromkeys(("init_timestamp_nsecs", "commit_timestamp_nsecs"), int | None),
    **dict.fromkeys(("metrics", "performance_metrics", "custom_metadata"), dict | None),
    "item_handlers": dict | str | None,
}


def _without_description(folder: Path, *, known_fields: bool = False) -> dict[int, str]:
    """Step -> why the small files that Orbax reads of every checkpoint are damaged, for those where they are.

    With `known_fields`, a field of another name or type is damage, too.
    """
    found = {}
    for path in sorted(folder.glob("*") if folder.is_dir() else ()):
        if not (path.name.isdecimal() and path.is_dir()):
            continue
        try:
            fields = read_json(path / DESCRIPTION)
            score = read_json(path / "metrics" / "metrics") if (path / "metrics").exists() else None
        except InputError as error:
            problem = error.problems[0]
            found[int(path.name)] = f"{problem.file}: {problem.found or problem.what}"
            continue
        if not isinstance(fields, dict) or not _is_time(fields.get("commit_timestamp_nsecs")):
            found[int(path.name)] = f"{DESCRIPTION} without a time"
        elif score is not None and not (isinstance(score, dict) and isinstance(score.get("score"), float)):
            found[int(path.name)] = "metrics without a score"
        elif known_fields and not all(name in FIELDS and isinstance(v, FIELDS[name]) for name, v in fields.items()):
            found[int(path.name)] = f"{DESCRIPTION} with other fields"
    return found


def _is_time(value: Any) -> bool:
    return value is None or (isinstance(value, int) and 0 <= value < 2**62)


def _line(text: str) -> str:
    return " ".join(text.split())[:300]


def _not_of_orbax(record: logging.LogRecord) -> bool:
    return "orbax" not in Path(record.pathname).parts


def _no_unfinished_read(record: logging.LogRecord) -> bool:
    """Whether `record` is anything but asyncio's report of one of many reads of a damaged checkpoint."""
    message = record.getMessage()
    return "was never retrieved" not in message or not any(name in message for name in ("orbax", "OCDBT"))
