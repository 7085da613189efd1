"""Write launch/boutiques.json: `mednext-jax predict` as a Boutiques descriptor (schema 0.5), from the parser itself.

python -m tools.boutiques_descriptor
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

from mednext_jax.parser import EXIT_STATUS, build_parser
from mednext_jax.version import __version__

FILE = Path(__file__).parents[1] / "launch" / "boutiques.json"
COMMAND = "predict"
# Paths that are made, or that may be addresses.
NOT_FILES = {"output", "model"}
OUTPUTS = {
    "volumes.tsv": "count, volume and seconds of each scan",
    "prediction.json": "models, settings, software; at the end what the run did",
    "pvs.tsv": "counts, volumes and shapes by region, of all scans",
}


def descriptor() -> dict[str, Any]:
    """The descriptor, as JSON values."""
    (commands,) = (a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction))
    predict: argparse.ArgumentParser = commands.choices[COMMAND]
    inputs = [_input(action) for action in predict._actions if not isinstance(action, argparse._HelpAction)]
    return {
        "name": "mednext-jax predict",
        "description": f"Perivascular spaces in brain MRI: {predict.description}. Not for clinical use.",
        "schema-version": "0.5",
        "tool-version": __version__,
        "command-line": " ".join([f"mednext-jax {COMMAND}", *(one["value-key"] for one in inputs)]),
        "inputs": inputs,
        "output-files": [
            {
                "id": re.sub(r"\W", "_", name),
                "name": name,
                "description": about,
                "path-template": f"[OUTPUT]/{name}",
                "optional": True,
            }
            for name, about in OUTPUTS.items()
        ],
        "error-codes": [
            {"code": int(code), "description": about}
            for code, about in re.findall(r"(\d+) (.+?)(?=, \d+ |$)", EXIT_STATUS.partition(": ")[2])
            if code != "0"
        ],
        "tags": {"domain": ["neuroinformatics", "segmentation"], "language": "python"},
    }


def _input(action: argparse.Action) -> dict[str, Any]:
    """One option as an input; a switch that is on by itself is the flag that turns it off."""
    flag, name, turned_off = action.option_strings[0], action.dest, False
    if isinstance(action, argparse.BooleanOptionalAction) and action.default:
        flag, name, turned_off = f"--no-{flag.removeprefix('--')}", f"no_{action.dest}", True
    about: dict[str, Any] = {
        "id": name,
        "name": name.replace("_", " "),
        "type": _type(action),
        "value-key": f"[{name.upper()}]",
        "command-line-flag": flag,
        "optional": not action.required,
    }
    if action.help:
        said = action.help % {"default": action.default}
        about["description"] = f"do not: {said}" if turned_off else said
    if action.choices:
        about["value-choices"] = list(action.choices)
    if action.type is int:
        about["integer"] = True
    if isinstance(action, argparse._AppendAction):
        about |= {"list": True, "list-separator": f" {flag} "}
    return about


def _type(action: argparse.Action) -> str:
    if isinstance(action, argparse.BooleanOptionalAction) or action.nargs == 0:
        return "Flag"
    if action.type is Path and action.dest not in NOT_FILES:
        return "File"
    return "Number" if action.type in (int, float) else "String"


def text() -> str:
    """The content of the file."""
    return json.dumps(descriptor(), indent=2) + "\n"


if __name__ == "__main__":
    FILE.write_text(text())
