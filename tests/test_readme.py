"""Every command of every page and help runs: here on a small data set and few steps, or where `ELSEWHERE` says."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mednext_jax import main as command_line
from mednext_jax.parser import build_parser
from mednext_jax.weights import packaged
from mednext_jax.weights.directory import load_models
from tools.command_reference import commands as parsers

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "launch/README.md", "mednext_jax/kernels/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]

# In the order in which they run: what one writes, the next may read.
LABELLED = (
    "mednext-jax simulate --out dataset --subjects 20 --contrast T2w --sites 3",
    "mednext-jax prepare dataset --out prepared --spacing 0.8 --splits kfold:5",
    "mednext-jax train --config mednet_pvs_t2w --workdir folds/fold_0 --config.data=prepared --config.fold=0",
    "mednext-jax predict -i dataset/imagesTr -o predictions -m folds/fold_0/model",
    "mednext-jax evaluate -p predictions -r dataset/labelsTr -o evaluation --regions dataset/regions",
    "mednext-jax evaluate --cv folds",
    "mednext-jax train --config mednet_pvs_t2w --cv --workdir folds --config.data=prepared",
    "mednext-jax train --config mednet_pvs_t2w --workdir runs/t2w --config.data=prepared "
    "--config.optimiser.learning_rate=1e-3",
    "mednext-jax prepare dataset --out prepared_few --spacing 1 --splits kfold:5",
    "mednext-jax train --config fine_tune --workdir tuned --config.data=prepared_few",
)
SCANS = (
    "mednext-jax predict -i scans -o first_look --report",
    "mednext-jax predict -i scans -o tuned_masks -m tuned",
    "mednext-jax predict -i scans -o segmented -m model",
    "mednext-jax quantify -i segmented -o measured",
    "mednext-jax report segmented",
    "mednext-jax predict -i scans -o segmented -m model --report",
    "mednext-jax predict -i scans -o ensemble -m folds/fold_0 -m folds/fold_1 --no-tta",
    "mednext-jax predict -i bids -o derivatives --suffix T2w -m model",
    "mednext-jax predict -i scans -o masks -m model --dry-run",
    "mednext-jax predict -i scans -o masks -m model",
    "mednext-jax predict -i scans -o parts -m model --part 1/2",
    "mednext-jax predict -i scans -o parts -m model --part 2/2",
    "mednext-jax gather parts",
    "mednext-jax bids bids derivative participant -m model",
    "mednext-jax bids bids derivative group",
    "mednext-jax predict -i scans -o sure -m model --uncertainty",
)
CONVERSIONS = (
    "mednext-jax info model_final_checkpoint.model",
    "mednext-jax convert model_final_checkpoint.model model",
    "mednext-jax convert model weights.pt --to mic",
    "mednext-jax convert fold_0/model_final_checkpoint.model mednet_pvs_fold_0",
    "mednext-jax convert TRAINER__PLANS mednet_pvs_t2w",
    "mednext-jax convert mednet_pvs_fold_0 mednet_pvs_k7 --upkern 7",
)
SETS = "MedNet-PVS_weights/nnUNet_trained_models/nnUNet/3d_fullres"
MEDNET_PVS = (
    f"mednext-jax predict -i scans_T2w -o segmented_T2w -m {SETS}/Task019_HCP_T2w",
    f"mednext-jax predict -i scans_T1w -o segmented_T1w -m {SETS}/Task004_3DStratifiedSplits",
)
# What runs in another test or in CI: the file, and words in it that show so.
ELSEWHERE = {
    "mednext-jax demo --workdir demo": (".ci/run", "demo_command"),
    "mednext-jax predict -i dicom -o segmented -m model --dicom-seg": (
        "tests/dicom/test_around_predict.py",
        '"--dicom-seg"',
    ),
    **dict.fromkeys(MEDNET_PVS, ("tests/test_readme.py", "test_the_commands_with_mednet_pvs_s_weights")),
    "mednext-jax models": ("tests/hub/test_list_models.py", 'main(["models"])'),
    "mednext-jax simulate --anatomy labelmaps --subjects 12 -o heads": (
        "tests/simulate/test_heads.py",
        '"simulate", "--anatomy", "labelmaps", "--subjects"',
    ),
    "mednext-jax simulate --anatomy kept --contrast T1w --subjects 3 --seed 77 -o simulated_T1w": (
        "tests/simulate/test_heads.py",
        '"simulate", "--anatomy", "labelmaps", "--subjects"',
    ),
    "mednext-jax train --config without_labels:small --workdir from_maps --config.generator.anatomy=labelmaps": (
        "tests/train/test_generated.py",
        "without_labels:small",
    ),
    "mednext-jax train --config without_labels:small --workdir longer --config.generator.anatomy=labelmaps "
    "--config.init_from=from_maps/model --config.generator.lesions_as_output=False "
    "--config.optimiser.learning_rate=2e-3": (
        "tests/train/test_generated.py",
        "goes_on_from",
    ),
    "mednext-jax train --config without_labels:small --workdir ablated --config.generator.anatomy=labelmaps "
    "--config.steps=2500 --config.optimiser.ema=0.99 --config.generator.texture=False": (
        "tests/train/test_generated.py",
        "without_labels:small",
    ),
    "mednext-jax simulate --on scans --regions maps -o painted": (
        "tests/simulate/test_on_scans.py",
        '["simulate", "--on"',
    ),
    "mednext-jax check-device": ("tests/kernels/test_check_device.py", 'main(["check-device"])'),
}
# Pages whose commands all run in a test of their own.
PAGES_ELSEWHERE = {
    "docs/evaluation.md": "tests/evaluate/test_page.py",
    "docs/models.md": "tests/test_readme.py",
    "docs/measures.md": "tests/quantify/test_quantify.py",
    "launch/README.md": "tests/launch/test_files.py",
}
# The pages' values, made small: what is left of a command stays as it is written there.
SMALLER = {
    "--subjects 20": "--subjects 2 --voxel-size 2",
    "--sites 3": "--sites 2",
    "--spacing 0.8": "--spacing 4",
    "prepared_few --spacing 1": "prepared_few --spacing 4",
    "--splits kfold:5": "--splits kfold:2",
}
RATE = "--config.optimiser.learning_rate=1e-3"
# Two mirrors instead of eight: validation and prediction take most of the time.
OF_THE_RUN = (
    "--config.patch_size=(16,16,16) --config.batch_size=1 --config.steps=2 --config.steps_per_epoch=2 "
    "--config.validation_steps=1 --config.augment.mirror_axes=2,"
)
TINY_TRAINING = (
    f"{OF_THE_RUN} --config.model.base_channels=2 --config.model.expansion_ratios=(1,1,1,1,1,1,1,1,1) "
    "--config.model.block_counts=(1,1,1,1,1,1,1,1,1) --config.model.encoder_kernel_size=3 "
    "--config.model.decoder_kernel_size=3 --config.model.dtype=float32"
)


def blocks(language, page):
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.S)


def commands(page):
    lines = "".join(blocks("bash", page)).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith("mednext-jax ")]


def run(command, capsys):
    for written, smaller in SMALLER.items():
        command = command.replace(written, smaller)
    if " train " in command:
        command += " " + (TINY_TRAINING if "fine_tune" not in command else OF_THE_RUN)
        if RATE not in command:  # one program for all, which is compiled once
            command += " " + RATE
    status = command_line.main(shlex.split(command)[1:])
    captured = capsys.readouterr()
    assert status == 0, f"{command}\n{captured.out}\n{captured.err}"
    return captured.out


def test_every_command_of_a_page_or_a_help_is_run_somewhere():
    helps = [p.epilog.removeprefix("example: ") for p in parsers(build_parser()).values()]
    pages = {page.relative_to(ROOT).as_posix(): commands(page) for page in PAGES}
    said = {command for page, lines in pages.items() if page not in PAGES_ELSEWHERE for command in lines} | {*helps}
    here = {*LABELLED, *SCANS, *CONVERSIONS}
    assert said == here | set(ELSEWHERE)
    assert all(pages[page] for page in PAGES_ELSEWHERE)


@pytest.mark.parametrize("file", [*(file for file, _ in ELSEWHERE.values()), *PAGES_ELSEWHERE.values()])
def test_what_runs_elsewhere_is_there(file):
    text = (ROOT / file).read_text()
    assert all(words in text for named, words in ELSEWHERE.values() if named == file)
    assert all(Path(page).name in text for page, named in PAGES_ELSEWHERE.items() if named == file)


@pytest.mark.usefixtures("quickly_compiled")
def test_the_commands_of_the_pages_from_simulation_to_pages(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(packaged, "FOLDER", tmp_path / "folds" / "fold_0" / "model")  # a small one, in its place
    printed = {command: run(command, capsys) for command in LABELLED}
    assert all("white matter" in out for command, out in printed.items() if "evaluate" in command)
    # The lab with a model: parts of the same scans, as plain files and as a BIDS data set.
    shutil.copytree("folds/fold_0/model", "model")
    Path("bids/sub-01/anat").mkdir(parents=True)
    Path("bids/dataset_description.json").write_text('{"Name": "one", "BIDSVersion": "1.10.0"}')
    Path("scans").mkdir()
    for number, path in enumerate(sorted(Path("dataset/imagesTr").iterdir())[:2], 1):
        nib.save(nib.load(path).slicer[20:52, 20:52, 20:52], f"scans/sub-0{number}_T2w.nii.gz")
    shutil.copy("scans/sub-01_T2w.nii.gz", "bids/sub-01/anat")
    printed = {command: run(command, capsys) for command in SCANS}
    assert " PVS, " in printed["mednext-jax quantify -i segmented -o measured"]
    assert nib.load("segmented/sub-01_T2w_mask.nii.gz").get_data_dtype() == np.uint8
    assert "sub-01_T2w_report.html" in Path("segmented/report.html").read_text()
    assert Path("segmented/sub-01_T2w_report.html").is_file()
    assert Path("derivatives/sub-01/anat/sub-01_space-orig_label-PVS_mask.nii.gz").is_file()
    assert len(Path("parts/pvs.tsv").read_text().splitlines()) == 3
    assert Path("sure/sub-01_T2w_entropy.nii.gz").is_file()
    (python,) = blocks("python", ROOT / "docs" / "python.md")
    space: dict = {}
    exec(compile(python, "python.md", "exec"), space)
    assert [head.shape[1] for head in space["logits"]] == [32, 16, 8, 4, 2]
    assert space["result"].mask.shape == nib.load("scans/sub-01_T2w.nii.gz").shape


def test_the_commands_of_conversion(tmp_path, monkeypatch, capsys):
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    for folder in (".", "fold_0", "TRAINER__PLANS/fold_0", "TRAINER__PLANS/fold_1"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        for name in ("model_final_checkpoint.model", "model_final_checkpoint.model.pkl"):
            shutil.copy(ROOT / "tests" / "data" / "torch_files" / name, f"{folder}/{name}")
    for command in CONVERSIONS:
        run(command, capsys)
    assert Path("weights.pt").is_file()
    assert len(load_models("mednet_pvs_t2w")) == 2


def test_the_commands_with_mednet_pvs_s_weights(tmp_path, monkeypatch, capsys):
    """On files of the released form, small: the tree of its README, with the plans beside each checkpoint."""
    page = (ROOT / "docs" / "models.md").read_text()
    (block,) = re.findall(r"<!-- mednet-pvs -->\n```bash\n(.*?)```", page, re.S)
    assert set(MEDNET_PVS) < set(block.splitlines())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for task in ("Task004_3DStratifiedSplits", "Task019_HCP_T2w"):
        fold = tmp_path / SETS / task / "fold_0"
        fold.mkdir(parents=True)
        for name in ("model_final_checkpoint.model", "model_final_checkpoint.model.pkl"):
            shutil.copy(ROOT / "tests" / "data" / "torch_files" / name, fold)
    rng = np.random.default_rng(0)
    for contrast in ("T1w", "T2w"):
        scan = nib.Nifti1Image(rng.normal(300, 80, (20, 18, 16)).astype(np.int16), np.eye(4))
        Path(f"scans_{contrast}").mkdir()
        nib.save(scan, f"scans_{contrast}/sub-01_{contrast}_0000.nii.gz")
    for command in block.splitlines():
        run(command + (" --no-tta" if " predict " in command else ""), capsys)
        assert "Task0" in command
    assert Path("segmented_T1w/sub-01_T1w_mask.nii.gz").is_file()
    assert Path("segmented_T2w/sub-01_T2w_mask.nii.gz").is_file()
