"""The notebooks run from the first cell to the last, on a tiny model and scan, and are stored without outputs."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

ROOT = Path(__file__).parents[1]
NOTEBOOKS = ROOT / "docs" / "notebooks"


def execute(name, folder, monkeypatch):
    """The notebook after a run in `folder`; an error of a cell is one of the test."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])))
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder)}})
    return client.execute()


def shown(notebook, kind):
    """The outputs of one kind, in their order."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return [output["data"][kind] for output in outputs if kind in output.get("data", {})]


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_is_stored_without_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert cells and not any(cell.outputs or cell.execution_count for cell in cells)


def test_a_scan_becomes_a_table_and_a_picture(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    pytest.importorskip("pandas")
    import nibabel as nib

    from mednext_jax.model.config import MedNeXtConfig
    from mednext_jax.weights.directory import save_model
    from mednext_jax.weights.names import expected_shapes, from_torch_names
    from mednext_jax.weights.recipe import Recipe

    config = MedNeXtConfig.variant(
        "S", base_channels=2, expansion_ratios=(1,) * 9, block_counts=(1,) * 9, in_channels=1, num_classes=2
    )
    draw = np.random.default_rng(0)
    state = {k: draw.normal(0, 0.3, shape).astype(np.float32) for k, shape in expected_shapes(config).items()}
    recipe = Recipe(channel_names=("T2w",), patch_size=(16, 16, 16), threshold=0.45)
    save_model(tmp_path / "demo" / "training" / "model", config, from_torch_names(config, state), recipe)
    scan = tmp_path / "demo" / "held_out" / "imagesTr" / "sub-01_0000.nii.gz"
    scan.parent.mkdir(parents=True)
    nib.save(nib.Nifti1Image(draw.normal(100, 20, (24, 22, 20)).astype(np.int16), np.diag([-1.0, 1, 1, 1])), scan)
    notebook = execute("scan_to_table", tmp_path, monkeypatch)
    assert "volume_mm3" in shown(notebook, "text/html")[0] and "x_mm" in shown(notebook, "text/html")[1]
    assert len(shown(notebook, "image/png")) == 1
    assert (tmp_path / "segmented" / "report.html").is_file()


def test_weights_go_in_and_out(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    for name in ("model_final_checkpoint.model", "model_final_checkpoint.model.pkl"):
        shutil.copy(ROOT / "tests" / "data" / "torch_files" / name, tmp_path / name)
    notebook = execute("pytorch_weights", tmp_path, monkeypatch)
    assert "Recipe(" in shown(notebook, "text/plain")[0]
    assert (tmp_path / "weights.pt").is_file()
