"""docs/evaluation.md: its commands run, its files and tests are there, its columns are those that are written."""

from __future__ import annotations

import csv
import json
import re
import shlex
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mednext_jax import main as command_line
from mednext_jax.evaluate.find_masks import find_masks
from mednext_jax.model.config import MedNeXtConfig
from mednext_jax.weights.directory import load_model, save_model
from mednext_jax.weights.names import expected_shapes, from_torch_names
from mednext_jax.weights.recipe import Recipe

pytest.importorskip("matplotlib")
pytest.importorskip("SimpleITK")
pytest.importorskip("skimage")
pytestmark = pytest.mark.core
ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "evaluation.md").read_text()
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", PAGE, re.S) for line in block.splitlines()]


def save(path, array, dtype=np.uint8, affine=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.asarray(array, dtype), np.eye(4) if affine is None else affine), path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folders that the page names, after all of its commands."""
    root = tmp_path_factory.mktemp("page")
    shape = (16, 14, 12)
    rows = ["case\tR1\tR2"]
    for number in range(4):
        case, rng = f"sub-{number}", np.random.default_rng(number)
        truth = np.zeros(shape, bool)
        for x, y in rng.integers(1, 13, (5 + number, 2)):
            truth[x, y, 2:8] = True
        p = np.clip(0.6 * truth + 0.4 * rng.random(shape) ** 8, 0, 1)
        save(root / "truth" / f"{case}.nii.gz", truth)
        save(root / "predictions" / f"{case}_probability.nii.gz", p, np.float32)
        save(root / "predictions" / f"{case}_mask.nii.gz", p > 0.5)
        turned = np.diag([-1.0, 1, 1, 1])
        turned[0, 3] = shape[0] - 1
        save(root / "shiva" / case / "pvs_map.nii.gz", p[::-1], np.float32, turned)
        for rater in ("rater1", "rater2", "rater3"):
            save(root / rater / f"{case}.nii.gz", truth & (rng.random(shape) > 0.1))
        save(root / "regions" / f"{case}.nii.gz", np.ones(shape))
        rows.append(f"{case}\t{number}\t{min(number + 1, 3)}")
    (root / "regions" / "regions.json").write_text('{"white matter": 1}')
    (root / "scores.tsv").write_text("\n".join(rows))
    config = MedNeXtConfig.variant("S", base_channels=2, in_channels=1, num_classes=2, deep_supervision=False)
    state = {key: np.ones(size, np.float32) for key, size in expected_shapes(config).items()}
    save_model(root / "model", config, from_torch_names(config, state), Recipe())
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for command in COMMANDS:
            assert command_line.main(shlex.split(command)[1:]) == 0, command
    return root


def test_every_command_writes_what_the_page_says(folder):
    assert len(COMMANDS) == 6 and all(command.startswith("mednext-jax evaluate ") for command in COMMANDS)
    said = set(re.findall(r"`([a-z_]+\.(?:json|csv|md|tex))`", PAGE.split("## What is written")[1].split("##")[0]))
    outputs = [folder / re.search(r"-o (\w+)", command)[1] for command in COMMANDS]
    written = {path.name for out in outputs for path in out.iterdir() if path.is_file()}
    assert written == said
    figures = {path.stem for out in outputs for path in out.glob("figures/*")}
    assert figures == set(re.findall(r"`([a-z_]+)`", PAGE.split("PNG and SVG: ")[1].split("|")[0]))
    # The same probabilities on a mirrored grid: equal tools.
    tools = json.loads((folder / "two" / "summary.json").read_text())["tools"]
    assert tools["mine"]["cases"] == tools["shiva"]["cases"]
    assert load_model(folder / "model").provenance["threshold"]["criterion"] == "cluster_dice"


def test_every_column_is_on_the_page(folder):
    with (folder / "sweep" / "cases.csv").open() as file:
        columns = next(csv.reader(file))
    defined = set(re.findall(r"`([a-z0-9_*]+)`", PAGE.split("## Scores of a scan")[1].split("**Empty")[0]))
    patterns = [re.compile(name.replace("*", r"\w+")) for name in defined]
    plain = {"case", "region", "tp", "fp", "fn", "volume_mm3", "reference_volume_mm3", "count", "reference_count"}
    assert [c for c in columns if c not in plain and not any(p.fullmatch(c) for p in patterns)] == []


def test_every_column_of_every_table_is_on_the_page_of_outputs(folder):
    page = (ROOT / "docs" / "outputs.md").read_text().split("## evaluate")[1].split("## report")[0]
    rows = dict(re.findall(r"^\| `([a-z_]+\.csv)` \|(.*)\|$", page, re.M))
    missing = []
    for path in sorted(set(folder.glob("*/*.csv"))):
        said = re.findall(r"`(\w+)`", rows[path.name])
        ends = {name for name in said if name.startswith("_")} | {"_low", "_high"}
        said += [name + end for name in said for end in ends]
        with path.open() as file:
            columns = next(csv.reader(file))
        if path.name != "cases.csv":  # its scores: the test above
            missing += [(path.name, name) for name in columns if name not in said]
    assert not missing


def test_every_oracle_s_test_is_there():
    rows = [line.split("|") for line in PAGE.split("## Oracles")[1].splitlines() if line.endswith(".py` |")]
    assert len(rows) >= 16
    here = {path.name for path in Path(__file__).parent.rglob("test_*.py")}
    assert {re.findall(r"`(\w+\.py)`", row[-2])[0] for row in rows} <= here


def test_the_pattern_of_the_page(folder):
    assert list(find_masks(f"{folder}/shiva/{{case}}/pvs_map.nii.gz")) == [f"sub-{number}" for number in range(4)]
