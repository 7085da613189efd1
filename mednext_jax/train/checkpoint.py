"""Checkpoints of a run: Orbax, written in the background, never in place of an earlier one."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from mednext_jax.errors import InputError, WorkError
from mednext_jax.settings import Range, integer, setting
from mednext_jax.train.state import TrainState


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """When a run is saved."""

    minutes: float = setting(15.0, Range("minutes above 0", lambda v: v > 0), "a checkpoint at least this often")
    steps: int = setting(0, integer(0), "and every so many steps; 0: only by the clock and at the end")
    keep: int = setting(2, integer(1), "the latest that are kept, besides the one with the best validation Dice")


class Checkpoints:
    """The checkpoints in `folder`: the latest `keep`, and the one with the best score.

    A checkpoint named N holds the state before step N and the configuration as JSON.
    """

    def __init__(self, folder: Path, keep: int):
        best = checkpoint_managers.BestN(
            get_metric_fn=lambda metrics: metrics["score"], n=1, keep_checkpoints_without_metrics=False
        )
        policy = checkpoint_managers.AnyPreservationPolicy([checkpoint_managers.LatestN(keep), best])
        # Orbax logs a failed write several times over, each with its traceback; it is raised as well.
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        options = ocp.CheckpointManagerOptions(preservation_policy=policy, cleanup_tmp_directories=True)
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

    @property
    def latest(self) -> int | None:
        """The step of the newest whole checkpoint, None if there is none."""
        return self._manager.latest_step()

    def config(self, step: int) -> dict[str, Any]:
        """The configuration in a checkpoint."""
        return self._manager.restore(step, args=ocp.args.Composite(config=ocp.args.JsonRestore())).config

    def restore(self, step: int, like: TrainState) -> TrainState:
        """The state in a checkpoint; `like` gives shapes, types and shardings, which may differ from those saved.

        Raises InputError if the checkpoint cannot be read as such a state.
        """
        try:
            args = ocp.args.Composite(state=ocp.args.StandardRestore(like))
            return self._manager.restore(step, args=args).state
        except (ValueError, OSError, KeyError) as error:
            raise InputError(
                f"The checkpoint of step {step} cannot be read.",
                file=self._manager.directory / str(step),
                found=str(error)[:500],
                hint="remove this folder to continue from the checkpoint before it",
            ) from error

    def save(self, step: int, state: TrainState, config: dict[str, Any], score: float | None = None) -> None:
        """Start writing; the copy from the devices is done on return, so `state` may be donated after it."""
        if step in self._manager.all_steps():
            return
        with self._writing():
            self._manager.save(
                step,
                args=ocp.args.Composite(state=ocp.args.StandardSave(state), config=ocp.args.JsonSave(config)),
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

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """A full disk, met here or by the writer in the background, ends the run as such."""
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:
            raise WorkError(
                f"A checkpoint cannot be written to {self._manager.directory}: {str(error)[:500]}. "
                "The earlier ones are as they were; the same command continues from the newest of them."
            ) from error

    def close(self) -> None:
        self._manager.close()
