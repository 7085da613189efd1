"""The whole way in one command: simulate PVS in a template brain, train, segment held-out scans, score, report."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from mednext_jax.errors import WorkError, shown
from mednext_jax.io.atomic import refuse_existing

TRAINING_SUBJECTS = 8
HELD_OUT_SUBJECTS = 2
# Far below what the demo reaches, far above what a network scores that has not learned.
LOWEST_DICE = 0.5


def run_demo(workdir: Path) -> dict:
    """Run every stage into `workdir` (a new folder) and print its progress; minutes on a two-core CPU.

    Writes `simulated/` (training scans), `held_out/` (other subjects, other seed), `prepared/`, `training/` (with the
    model directory), `predictions/` (with `report.html`) and `evaluation/`. Returns the summary of `evaluate`.
    Raises InputError if `workdir` holds something already, or if the `demo` extra is not installed; WorkError if the
    voxel or the cluster Dice stays below `LOWEST_DICE`.
    """
    from mednext_jax.evaluate.evaluate import evaluate
    from mednext_jax.inference.predict import predict
    from mednext_jax.prepare.prepare import prepare
    from mednext_jax.report.report import report
    from mednext_jax.simulate.placement import PvsDistribution
    from mednext_jax.simulate.simulate import simulate
    from mednext_jax.train.train import train

    refuse_existing(workdir)
    start = time.perf_counter()
    with _stage(1, f"simulate {TRAINING_SUBJECTS} + {HELD_OUT_SUBJECTS} subjects in a template brain"):
        # So few subjects, so short a training: each brain carries many PVS.
        pvs = PvsDistribution(white_matter=(150, 400), basal_ganglia=(10, 60))
        simulate(workdir / "simulated", TRAINING_SUBJECTS, "T2w", seed=0, pvs=pvs)
        simulate(workdir / "held_out", HELD_OUT_SUBJECTS, "T2w", seed=1, pvs=pvs)
    with _stage(2, "prepare: verify, crop, normalise, split"):
        prepare(workdir / "simulated", workdir / "prepared", spacing=None, splits="kfold:4")
    with _stage(3, "train a small MedNeXt"):
        train("demo", workdir / "training", overrides={"data": str(workdir / "prepared")})
    with _stage(4, "segment the held-out scans"):
        predict(
            workdir / "held_out" / "imagesTr",
            workdir / "predictions",
            [workdir / "training" / "model"],
            regions=workdir / "held_out" / "regions",
        )
    with _stage(5, "evaluate on the held-out scans (simulated data)"):
        summary = evaluate(
            workdir / "predictions",
            workdir / "held_out" / "labelsTr",
            workdir / "evaluation",
            regions=workdir / "held_out" / "regions",
        )
    with _stage(6, "report: a page for each scan, and one for all"):
        page = report(workdir / "predictions")
    scores = summary["regions"]["all"]
    voxel, cluster = scores["dice"]["mean"], scores["cluster_dice"]["mean"]
    print(
        f"demo: voxel Dice {voxel:.3f}, cluster Dice {cluster:.3f} on held-out simulated scans; "
        f"{time.perf_counter() - start:.0f} s; open {shown(page)} in a browser"
    )
    if not min(voxel, cluster) >= LOWEST_DICE:  # NaN, too
        raise WorkError(f"The network has not learned: voxel and cluster Dice should be at least {LOWEST_DICE}.")
    return summary


@contextlib.contextmanager
def _stage(number: int, title: str) -> Iterator[None]:
    print(f"demo [{number}/6] {title}", flush=True)
    start = time.perf_counter()
    yield
    print(f"demo [{number}/6] {time.perf_counter() - start:.0f} s", flush=True)
