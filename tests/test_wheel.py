"""What is installed without a clone: the package and its recipes."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from mednext_jax.train.recipes import recipe_names
from mednext_jax.version import __version__
from mednext_jax.weights.packaged import FOLDER

pytestmark = pytest.mark.core

ROOT = Path(__file__).parents[1]


def test_the_recipes_are_part_of_the_package():
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel == {"packages": ["mednext_jax"], "force-include": {"configs": "mednext_jax/configs"}}


def test_the_packaged_model_is_part_of_the_package():
    """Hatchling takes what git does not ignore."""
    files = [path.relative_to(ROOT).as_posix() for path in FOLDER.iterdir()]
    assert "mednext_jax/weights/without_labels/model.safetensors" in files
    ignored = subprocess.run(["git", "check-ignore", *files], cwd=ROOT, capture_output=True, text=True)
    assert ignored.returncode in (1, 128), ignored.stdout  # 128: no clone


def test_the_citation_names_the_version():
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text()


@pytest.mark.slow
def test_a_wheel_finds_its_recipes_and_its_model_by_name_anywhere(tmp_path):
    """Builds with pip, which fetches the build's backend."""
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    code = (
        "import sys; from mednext_jax.main import main; "
        "print([main(['train', '--config', name, '--workdir', 'run']) for name in sys.argv[1:]]); "
        "main(['info', 'without_labels'])"
    )
    command = [sys.executable, "-c", code, *recipe_names(), "configs/mednet_pvs_t2w.py"]
    environ = {**os.environ, "PYTHONPATH": str(tmp_path / "installed")}
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True)
    statuses, *told = done.stdout.strip().splitlines()
    assert statuses == str([2] * (len(recipe_names()) + 1)), done.stderr
    assert "simulated PVS only" in "".join(told)  # the packaged model
    assert done.stderr.count("config.data is not valid") == len(recipe_names())  # read, and only the data is missing
    assert "did you mean --config mednet_pvs_t2w?" in done.stderr
