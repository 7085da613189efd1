"""Every command and the Python of the README run, on a small data set and few steps."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mednext_jax import main as command_line
from mednext_jax.weights.directory import load_models

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()

# The README's values, made small: what is left of a command stays as it is written there.
SMALLER = {
    "--subjects 20": "--subjects 2 --voxel-size 2",
    "--sites 3": "--sites 2",
    "--spacing 0.8": "--spacing none",
    "--splits kfold:5": "--splits kfold:2",
    "configs/": f"{ROOT}/configs/",
}
TINY_TRAINING = (
    "--config.patch_size=(16,16,16) --config.batch_size=1 --config.steps=2 --config.steps_per_epoch=2 "
    "--config.validation_steps=1 --config.model.base_channels=2 --config.model.expansion_ratios=(1,1,1,1,1,1,1,1,1) "
    "--config.model.block_counts=(1,1,1,1,1,1,1,1,1) --config.model.encoder_kernel_size=3 "
    "--config.model.decoder_kernel_size=3 --config.model.dtype=float32"
)


def blocks(language, page=README):
    return re.findall(rf"```{language}\n(.*?)```", page, re.S)


def commands(page=README):
    lines = "".join(blocks("bash", page)).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith("mednext-jax ")]


def run(command, capsys):
    for written, smaller in SMALLER.items():
        command = command.replace(written, smaller)
    if " train " in command:
        command += " " + TINY_TRAINING
    status = command_line.main(shlex.split(command)[1:])
    captured = capsys.readouterr()
    assert status == 0, f"{command}\n{captured.out}\n{captured.err}"
    return captured.out


def starting(prefix):
    found = [line for line in commands() if line.startswith(prefix)]
    assert found, prefix
    return found


def test_the_readme_s_path_from_simulation_to_scores(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for prefix in ("mednext-jax simulate", "mednext-jax prepare", "mednext-jax train"):
        for command in starting(prefix):
            run(command, capsys)
    for command in starting("mednext-jax predict -i dataset"):
        run(command, capsys)
    for command in starting("mednext-jax evaluate"):
        assert "white matter" in run(command, capsys)
    # The lab with a model: the same commands on plain scans.
    shutil.copytree("folds/fold_0/model", "model")
    Path("scans").mkdir()
    shutil.copy(sorted(Path("dataset/imagesTr").iterdir())[0], "scans/sub-01_T2w.nii.gz")
    for command in starting("mednext-jax predict -i scans"):
        run(command, capsys)
    assert nib.load("segmented/sub-01_T2w_mask.nii.gz").get_data_dtype() == np.uint8
    for command in starting("mednext-jax quantify"):
        assert " PVS, " in run(command, capsys)
    for page in ("report.md", "cohorts.md"):
        for command in commands((ROOT / "docs" / page).read_text()):
            run(command, capsys)
    assert Path("parts/volumes.tsv").is_file()
    assert "sub-01_T2w_report.html" in Path("segmented/report.html").read_text()
    assert Path("segmented/sub-01_T2w_report.html").is_file()
    (python,) = blocks("python")[:1]
    space: dict = {}
    exec(compile(python, "README.md", "exec"), space)
    assert [head.shape[1] for head in space["logits"]] == [32, 16, 8, 4, 2]
    assert space["result"].mask.shape == nib.load("scans/sub-01_T2w.nii.gz").shape


def test_the_readme_s_conversions(tmp_path, monkeypatch, capsys):
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    for folder in (".", "fold_0", "TRAINER__PLANS/fold_0", "TRAINER__PLANS/fold_1"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        for name in ("model_final_checkpoint.model", "model_final_checkpoint.model.pkl"):
            shutil.copy(ROOT / "tests" / "data" / "torch_files" / name, f"{folder}/{name}")
    for command in commands():
        if command.startswith(("mednext-jax info", "mednext-jax convert")):
            run(command, capsys)
    assert Path("weights.pt").is_file()
    assert len(load_models("mednet_pvs_t2w")) == 2


def test_the_commands_with_mednet_pvs_s_weights(tmp_path, monkeypatch, capsys):
    """On files of the released form, small: the tree of its README, with the plans beside each checkpoint."""
    page = (ROOT / "docs" / "models.md").read_text()
    (block,) = blocks("bash", page.split("<!-- mednet-pvs -->")[1])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for task in ("Task004_3DStratifiedSplits", "Task019_HCP_T2w"):
        fold = tmp_path / "MedNet-PVS_weights/nnUNet_trained_models/nnUNet/3d_fullres" / task / "fold_0"
        fold.mkdir(parents=True)
        for name in ("model_final_checkpoint.model", "model_final_checkpoint.model.pkl"):
            shutil.copy(ROOT / "tests" / "data" / "torch_files" / name, fold)
    rng = np.random.default_rng(0)
    for contrast in ("T1w", "T2w"):
        scan = nib.Nifti1Image(rng.normal(300, 80, (20, 18, 16)).astype(np.int16), np.eye(4))
        Path(f"scans_{contrast}").mkdir()
        nib.save(scan, f"scans_{contrast}/sub-01_{contrast}_0000.nii.gz")
    for command in commands(f"```bash\n{block}```"):
        run(command + (" --no-tta" if " predict " in command else ""), capsys)
        assert "Task0" in command
    assert Path("segmented_T1w/sub-01_T1w_mask.nii.gz").is_file()
    assert Path("segmented_T2w/sub-01_T2w_mask.nii.gz").is_file()


def test_links_of_pages_lead_somewhere():
    for page in (ROOT / "README.md", ROOT / "AGENTS.md", ROOT / "docs" / "models.md"):
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
            assert target.startswith("https://") or (page.parent / target).exists(), target
