"""Recipes: found by name or by file, read, and changed by `--config.field=value` or by a mapping."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import re
import runpy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from mednext_jax.errors import InputError
from mednext_jax.io.json_file import read_json
from mednext_jax.train.configuration import TrainConfig, changeable

Overrides = Sequence[str] | Mapping[str, Any]


def recipe_folder() -> Path:
    """Where the recipes of the package are: in an installed package beside its rooms, in a clone at the top."""
    package = Path(__file__).parents[1]
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def recipe_names() -> list[str]:
    """The names that `load_config` takes besides files."""
    return sorted(path.stem for path in recipe_folder().glob("*.py"))


def load_config(source: str | Path, overrides: Overrides = ()) -> ConfigDict:
    """Read a recipe (`NAME`, `NAME:ARGUMENT`) or a file (`FILE.py`, `FILE.py:ARGUMENT`): what its `get_config` returns.

    Or the config.json of a run.

    `overrides`: arguments `--config.field=value`, or a mapping as {"optimiser.learning_rate": 1e-3}.
    Raises InputError for a missing or failing file, an unknown field (with the nearest name) or a value of the
    wrong type.
    """
    name, _, argument = str(source).partition(":")
    config = _run(_file(name), argument)
    change(config, overrides)
    return config


def change(config: ConfigDict, overrides: Overrides) -> None:
    """Set these fields of `config`, which has no other fields from now on. Raises as `load_config`."""
    config.lock()
    if isinstance(overrides, Mapping):
        for field, value in overrides.items():
            _set(config, field, value, f"{field} = {value!r}")
    else:
        for override in overrides:
            match = re.fullmatch(r"--config\.([\w.]+)=(.*)", override, re.DOTALL)
            if match is None:
                raise InputError("unknown argument", expected="--config.field=value", found=override)
            _set(config, match[1], _Text(match[2]), override)


def _file(name: str) -> Path:
    """The file of a recipe; a file that is there goes before a recipe of the same name."""
    if Path(name).is_file():
        return Path(name)
    if name in recipe_names():
        return recipe_folder() / f"{name}.py"
    raise InputError(
        "There is no such recipe, and no such configuration file.",
        file=name,
        expected=f"one of {', '.join(recipe_names())}, or a file of your own",
        hint=_meant(name),
    )


def _meant(name: str) -> str | None:
    near = difflib.get_close_matches(Path(name).stem.lower(), recipe_names(), n=1)
    return f"did you mean --config {near[0]}?" if near else None


def _run(file: Path, argument: str) -> ConfigDict:
    if file.suffix == ".json":
        return _of_run(file)
    try:
        get_config = runpy.run_path(str(file))["get_config"]
        config = get_config(argument) if argument else get_config()
    except InputError:
        raise
    except Exception as error:  # whatever the user's file raises
        what = "has no get_config()" if isinstance(error, KeyError) else "fails"
        found = f"{type(error).__name__}: {error}"
        raise InputError(f"The configuration file {what}.", file=file, found=found) from error
    if not isinstance(config, ConfigDict):
        found = type(config).__name__
        raise InputError("get_config() does not return a ConfigDict.", file=file, found=found)
    return config


def _of_run(file: Path) -> ConfigDict:
    """The fields that a run keeps in its config.json."""
    values = read_json(file)
    if not isinstance(values, dict):
        raise InputError("The configuration is no JSON object.", file=file, expected="the config.json of a run")
    try:
        return changeable(TrainConfig.of(values))
    except InputError as error:
        raise InputError.of(dataclasses.replace(p, file=str(file)) for p in error.problems) from None


class _Text(str):
    """A value as it is written on the command line, still to be read as its field's type."""


def _set(config: ConfigDict, path: str, value: Any, said: str) -> None:
    *parents, field = path.split(".")
    node = config
    for parent in parents:
        node = _field(node, parent, said)
        if not isinstance(node, ConfigDict):
            raise InputError(f"config.{parent} has no fields.", found=said)
    present = _field(node, field, said)
    expected = "a group of fields" if isinstance(present, ConfigDict) else type(present).__name__
    try:
        setattr(node, field, _parse(value, present) if isinstance(value, _Text) else value)
    except (TypeError, ValueError, SyntaxError) as error:
        raise InputError(
            f"config.{path} has the wrong type.", expected=f"{expected}, like {present!r}", found=str(value)
        ) from error


def _field(node: ConfigDict, name: str, said: str) -> Any:
    if name in node:
        return node[name]
    near = difflib.get_close_matches(name, node.keys(), n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known fields: {', '.join(node.keys())}"
    raise InputError(f"unknown configuration field {name!r}", found=said, hint=hint)


def _parse(text: str, present: Any) -> Any:
    """`text` as a value of `present`'s type; a tuple as (1, 2, 3) or 1,2,3."""
    if isinstance(present, str):
        return str(text)
    if isinstance(present, bool):
        return {"true": True, "false": False}.get(text.lower(), text)  # anything else: refused by its type
    value = ast.literal_eval(text)
    if isinstance(value, bool):
        raise TypeError(text)
    if isinstance(present, tuple):
        value = value if isinstance(value, tuple) else (value,)
        if not all(isinstance(item, int | float) for item in value):
            raise TypeError(text)
        integers = bool(present) and all(isinstance(item, int) for item in present)
        if integers and not all(isinstance(item, int) for item in value):
            raise TypeError(text)
    return value
