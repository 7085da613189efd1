"""The model card: what a person must know before using a trained model, as text beside its weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from mednext_jax.data.prepared import PreparedMeta
from mednext_jax.errors import shown
from mednext_jax.evaluate.case import Scores
from mednext_jax.evaluate.cohort import summarise
from mednext_jax.io.geometry import in_mm
from mednext_jax.model.config import MedNeXtConfig
from mednext_jax.weights.recipe import Recipe

_SCORES = {
    "voxel Dice": "dice",
    "voxel precision": "precision",
    "voxel recall": "recall",
    "cluster Dice": "cluster_dice",
    "cluster precision": "cluster_precision",
    "cluster recall": "cluster_recall",
}


def model_card(
    architecture: MedNeXtConfig,
    recipe: Recipe,
    meta: PreparedMeta,
    *,
    training_cases: Sequence[str],
    steps: int,
    scores: Mapping[str, Scores] | None,
) -> str:
    """Markdown: data, recipe, scores on the validation scans (None: not scored), limits."""
    spacing = "each scan's own" if recipe.spacing is None else in_mm(reversed(recipe.spacing))
    cleaned = [f"- cleaned by {', '.join(recipe.optional_steps)}"] if recipe.optional_steps else []
    subjects = len({meta.subjects.get(case, case) for case in training_cases})
    lines = [
        f"# {architecture.variant_name or 'MedNeXt'} for {', '.join(n for n, v in recipe.labels.items() if v)}",
        "",
        "Research software: not a medical device, not for clinical use.",
        "",
        "## Data",
        "",
        f"- {meta.name}: {len(training_cases)} scans of {subjects} subjects",
        f"- channels: {', '.join(recipe.channel_names)}; voxel size (x, y, z): {spacing}; orientation RAS",
        *cleaned,
        f"- normalisation: {', '.join(recipe.normalisation)}",
        "",
        "## Training",
        "",
        f"- {steps} steps; the full configuration is in `model.json` under `provenance`",
        f"- patch {' x '.join(map(str, recipe.patch_size))} voxels",
        "",
        "## Scores",
        "",
        *_score_lines(scores),
        "",
        "## Limits",
        "",
        "- Known only for scans like those above: other scanners, contrasts, ages and diseases are untested.",
        "- PVS narrower than a voxel, and their look-alikes (lacunes, hyperintensities, sulci), are where it errs.",
    ]
    return "\n".join(shown(line) for line in lines) + "\n"


def _score_lines(scores: Mapping[str, Scores] | None) -> list[str]:
    if not scores:
        return ["Not scored at the end of training."]
    summary = summarise(list(scores.values()))
    lines = [
        f"{len(scores)} validation scans, on the prepared grid, mean (SD); clusters: 26-connected, any overlap.",
        "",
    ]
    lines += ["| | |", "| --- | --- |"]
    for title, name in _SCORES.items():
        mean, deviation = summary[name]["mean"], summary[name]["sd"]
        spread = "" if math.isnan(deviation) else f" ({deviation:.3f})"
        lines.append(f"| {title} | {'-' if math.isnan(mean) else f'{mean:.3f}'}{spread} |")
    return lines
