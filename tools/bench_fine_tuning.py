"""What the packaged model gains a lab with a few labels: fine-tuned and from scratch, on a simulated site.

    python -m tools.bench_fine_tuning OUT [--model MODEL] [--labelled 5] [--held-out 5] [--steps 500] [--contrast T1w]

Simulates one site in the template brain, whose scans the model never saw, trains `fine_tune` on the labelled ones from
the model's weights and from scratch (same network, steps, batches; the rate of scratch is `--scratch-rate`), and scores
both, and the model as it is, on the held-out scans. Prints the table and writes it as OUT/fine_tuning.json, for
`tools.package_model --figures`. Simulated scans: the figures say nothing of patients.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from mednext_jax.evaluate.evaluate import evaluate
from mednext_jax.inference.predict import predict
from mednext_jax.io.atomic import refuse_existing
from mednext_jax.io.json_file import read_json
from mednext_jax.io.nnunet_raw import read_nnunet_raw
from mednext_jax.prepare.prepare import prepare
from mednext_jax.simulate.simulate import simulate
from mednext_jax.train.train import train
from mednext_jax.weights.directory import load_model
from mednext_jax.weights.packaged import NAME, or_packaged
from tools.arguments import above_zero, told_in_words, whole
from tools.tables import Table, as_json

SCORES = ("dice", "precision", "recall", "cluster_dice", "cluster_precision", "cluster_recall")


def bench(out: Path, options: argparse.Namespace) -> Table:
    """Do what the module says in the new folder `out`; returns the table."""
    refuse_existing(out)
    start = load_model(or_packaged(options.model))  # whether there is one, before any work
    site, unseen = out / "site", out / "unseen"
    simulate(site, options.labelled + options.held_out, options.contrast, seed=options.seed)
    cases = read_nnunet_raw(site).cases
    held_out = cases[options.labelled :]
    for case in held_out:
        for path, folder in ((case.images[0], "images"), (case.label, "labels")):
            (unseen / folder).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, unseen / folder)
    about = read_json(site / "dataset.json")
    (unseen / "dataset.json").write_text(json.dumps(about))  # which tells the contrast
    channel = start.recipe.channel_names[0]  # and this the normalisation
    (site / "dataset.json").write_text(json.dumps(about | {"channel_names": {"0": channel}}))
    folds = [{"train": [c.id for c in cases[: options.labelled]], "val": [c.id for c in held_out]}]
    (out / "splits.json").write_text(json.dumps(folds))
    prepare(site, out / "prepared", spacing=start.recipe.spacing, splits=str(out / "splits.json"))
    ways = {
        "fine-tuned": {"optimiser.learning_rate": options.rate},
        "from scratch": {"init_from": "", "optimiser.learning_rate": options.scratch_rate},
    }
    models: dict[str, Path | str] = {"as it is": options.model}
    for way, fields in ways.items():
        workdir = out / way.replace(" ", "_")
        shared = {
            "data": str(out / "prepared"),
            "steps": options.steps,
            "final_validation": False,
            "seed": options.seed,
        }
        train(f"fine_tune:{options.model}", workdir, overrides={**shared, **fields})
        models[way] = workdir / "model"
    rows = [(way, *_scores(out, way, model, tta=not options.no_tta)) for way, model in models.items()]
    return Table(
        "Fine-tuning, on a simulated site",
        f"{options.labelled} labelled {options.contrast} scans, {options.steps} steps; mean scores on "
        f"{options.held_out} held-out scans of the same simulated site. These figures mean nothing for patients.",
        ("network", *(name.replace("_", " ") for name in SCORES)),
        rows,
    )


def _scores(out: Path, way: str, model: Path | str, *, tta: bool) -> list[str]:
    name = way.replace(" ", "_")
    predict(out / "unseen" / "images", out / "masks" / name, model, tta=tta, tables=False, quiet=True)
    found = evaluate(out / "masks" / name, out / "unseen" / "labels", out / "scores" / name, figures=False)
    return [f"{found['regions']['all'][score]['mean']:.3f}" for score in SCORES]


def main() -> None:
    """Read the arguments, run, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--model", default=NAME)
    parser.add_argument("--labelled", type=whole(1), default=5)
    parser.add_argument("--held-out", type=whole(1), default=5)
    parser.add_argument("--steps", type=whole(1), default=500)
    parser.add_argument("--contrast", choices=("T1w", "T2w"), default="T1w")
    parser.add_argument("--rate", type=above_zero, default=1e-4)
    parser.add_argument("--scratch-rate", type=above_zero, default=3e-4)
    parser.add_argument("--seed", type=whole(0), default=7)
    parser.add_argument("--no-tta", action="store_true", help="predict without mirrors: an eighth of the time")
    options = parser.parse_args()
    with told_in_words("bench_fine_tuning"):
        table = bench(options.out, options)
        (options.out / "fine_tuning.json").write_text(as_json([table]))
    print("\n".join(table.markdown()))


if __name__ == "__main__":
    main()
