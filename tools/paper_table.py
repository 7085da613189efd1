"""The paper's table from a small version of both of its designs, end to end on simulated scans on a CPU.

    python tools/paper_table.py --workdir FOLDER [--out docs/paper_table.md]

Simulates 40 T1w scans of seven sites and 40 T2w scans, prepares them, trains a small network for every fold of
five-fold (both contrasts) and leave-one-site-out cross-validation (T1w), and writes the table of `mednext-jax evaluate
--cv`. The same command continues where it stopped. Needs the `demo` extra.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import platform
import subprocess
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

from ml_collections import ConfigDict

ROOT = Path(__file__).resolve().parents[1]
SUBJECTS = 40
SITES = {"T1w": 7, "T2w": 1}
SPACING = 1.25  # mm; the paper's 0.8 has four times the voxels
STEPS, PATCH = 120, 32


@dataclasses.dataclass(frozen=True)
class Design:
    """One cross-validation: which scans, and how they are split."""

    contrast: str
    splits: str

    @property
    def name(self) -> str:
        return f"{self.contrast}_{self.splits.partition(':')[0]}"


DESIGNS = (Design("T1w", "kfold:5"), Design("T1w", "loso:site"), Design("T2w", "kfold:5"))


def recipe(data: Path) -> ConfigDict:
    """The demo's small network, changed to learn in so few small steps; every fold's scans are scored at the end."""
    from mednext_jax.train.recipes import load_config

    c = load_config("demo")
    c.data = str(data)
    c.final_validation = True
    c.steps = c.steps_per_epoch = STEPS
    c.validation_steps = 2
    c.patch_size = (PATCH,) * 3
    c.foreground_fraction = 0.5  # one patch of two lies anywhere, or all outside the regions looks like PVS
    c.augment.mirror_axes = ()  # eight times the cost of the final validation
    c.model.deep_supervision = False  # coarser heads see next to nothing of lines one voxel wide
    # Cross entropy first drives every voxel to background, which takes hundreds of steps to leave; Dice alone does not.
    c.loss.cross_entropy, c.loss.batch_dice = 0.0, True
    c.augment.gamma = c.augment.contrast = 0.0  # too few steps to profit
    c.optimiser.schedule, c.optimiser.warmup_steps = "constant", 10  # and to fall
    c.optimiser.learning_rate, c.optimiser.epsilon = 4e-3, 1e-7  # the paper's 1e-4 is above most of these gradients
    return c


class Stages:
    """The seconds that each stage took, kept on disk: a run that was continued knows its whole time."""

    def __init__(self, file: Path):
        self.file = file
        self.seconds: dict[str, dict[str, float]] = json.loads(file.read_text()) if file.is_file() else {}

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        print(f"[{time.strftime('%H:%M:%S')}] {name}", flush=True)
        wall, processor = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            before = self.seconds.get(name, {"wall": 0.0, "processor": 0.0})
            self.seconds[name] = {
                "wall": before["wall"] + time.perf_counter() - wall,
                "processor": before["processor"] + time.process_time() - processor,
            }
            self.file.write_text(json.dumps(self.seconds, indent=1) + "\n")

    def total(self, kind: str) -> float:
        """Minutes of all stages: `wall` by the clock, `processor` over all cores."""
        return sum(seconds[kind] for seconds in self.seconds.values()) / 60


def run(workdir: Path, out: Path) -> None:
    """Every stage that is not there yet, then the table into `out`."""
    workdir.mkdir(parents=True, exist_ok=True)
    # Every fold compiles the same programs. Set before JAX is imported.
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(workdir / "compiled"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    from mednext_jax.evaluate.cross_validation import markdown, read_cross_validation
    from mednext_jax.prepare.prepare import prepare
    from mednext_jax.simulate.simulate import simulate
    from mednext_jax.train.folds import cross_validate

    stage = Stages(workdir / "stages.json")
    for seed, (contrast, sites) in enumerate(SITES.items()):
        if not (workdir / contrast).exists():
            with stage(f"simulate {contrast}"):
                simulate(workdir / contrast, SUBJECTS, contrast, sites=sites, seed=seed)
    for design in DESIGNS:
        prepared = workdir / f"{design.name}_prepared"
        if not (prepared / "prepared.json").is_file():
            with stage(f"prepare {design.name}"):
                prepare(workdir / design.contrast, prepared, spacing=SPACING, splits=design.splits)
        with stage(f"train {design.name}"):
            if cross_validate(recipe(prepared), workdir / design.name) is None:
                raise SystemExit("stopped; the same command continues")
    table = markdown([read_cross_validation(workdir / design.name) for design in DESIGNS])
    out.write_text(page(table, stage))
    print(f"{table}\n{out}: {stage.total('wall'):.0f} min")


def page(table: str, stage: Stages) -> str:
    """The document around the table."""
    names = ("jax", "flax", "numpy", "scipy")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    sites = " and ".join(f"{SUBJECTS} {contrast} scans ({n} site{'s' * (n > 1)})" for contrast, n in SITES.items())
    minutes = f"{stage.total('wall'):.0f} minutes by the clock, {stage.total('processor'):.0f} of processor time"
    return f"""# The paper's table, on simulated scans

**SIMULATED. Every scan is a template brain with perivascular spaces (PVS) drawn into it by `mednext-jax simulate`. No
figure here says how well anything works on people.** The table shows that both designs of MedNet-PVS (Low et al. 2025),
five-fold (5FCV) and leave-one-site-out cross-validation (LOSOCV), run from raw scans to scores in one command on a
small computer.

{table}
## How it was made

```bash
python tools/paper_table.py --workdir paper_table
```

- {time.strftime("%Y-%m-%d")}; mednext_jax at commit {_commit()}; Python {platform.python_version()}, {versions}.
- {_processor()}, {os.cpu_count()} cores: {minutes}.
- Data: {sites}, with `simulate`'s own ranges; prepared and scored at {SPACING:g} mm.
- Training: each of the {_folds(stage)} folds {STEPS} steps of two patches of {PATCH}³ voxels; MedNeXt with 8 base
  channels, expansion 2 and one block per stage, one head; Dice loss alone; no mirroring. The paper: MedNeXt-L with
  kernel 5, 125,000 steps of two patches (128³ is MedNeXt's default), scans at 0.8 mm, mirroring.

| stage | minutes | processor minutes |
| --- | --- | --- |
{_rows(stage)}

## What it does not show

- Nothing about real scans. The contrast, noise and lesions are simulated; all brains are one template, deformed; the
  reference is exact, where a rater's is not.
- Nothing about the paper's network, which has far more parameters and was trained a thousand times longer on finer
  scans. The small one has hardly begun to learn: a comparison with the paper's figures would say nothing.
- The rows `whole` also count what was found outside of both regions, much of it false.
- Nothing about scans that the settings never saw: no fold's model saw the scans it is scored on, but steps, loss,
  learning rate and where patches lie were chosen by looking at scores of these same 40 scans (five tries on one fold of
  T1w, then two whole tables, of which neither was better in every row and the second was kept). The figures flatter
  the recipe.
- Sites differ in voxel size, noise, shading and contrast only as `simulate` draws them, so the difference between 5FCV
  and LOSOCV is not that of real scanners. A site has five or six scans.
- One run with one seed on 40 scans: a difference of a few hundredths between rows is within chance.
"""


def _rows(stage: Stages) -> str:
    rows: Sequence[tuple[str, dict[str, float]]] = tuple(stage.seconds.items())
    return "\n".join(f"| {name} | {s['wall'] / 60:.1f} | {s['processor'] / 60:.1f} |" for name, s in rows)


def _folds(stage: Stages) -> int:
    folder = stage.file.parent
    return sum(len(json.loads((folder / f"{d.name}_prepared" / "splits.json").read_text())) for d in DESIGNS)


def _commit() -> str:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "paper_table.md")
    arguments = parser.parse_args()
    run(arguments.workdir, arguments.out)


if __name__ == "__main__":
    main()
