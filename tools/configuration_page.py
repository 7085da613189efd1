"""Writes docs/configuration.md's tables from the typed configuration: `python -m tools.configuration_page`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mednext_jax.errors import InputError
from mednext_jax.model.config import MedNeXtConfig
from mednext_jax.train.configuration import OF_THE_DATA, TrainConfig

PAGE = Path(__file__).parents[1] / "docs" / "configuration.md"
# What stands above it is written by hand.
MARK = "<!-- Made by tools/configuration_page.py from the code; changes below are lost. -->\n"


def tables() -> str:
    """Every field that a recipe or the command line can set, a table for each group."""
    return "\n".join(_group(TrainConfig(), "config", "The training"))


def _group(group: Any, name: str, title: str) -> Iterator[str]:
    yield from (
        "",
        f"## {title}",
        "",
        "| field | type | default | range | meaning |",
        "| --- | --- | --- | --- | --- |",
    )
    below = []
    for field in dataclasses.fields(group):
        value, full = getattr(group, field.name), f"{name}.{field.name}"
        if "allowed" in field.metadata:
            allowed, meaning = field.metadata["allowed"].words, field.metadata["meaning"]
            yield f"| `{full}` | {field.type} | `{value!r}` | {allowed} | {meaning} |"
        else:
            below.append((value, full))
    for value, full in below:
        if isinstance(value, MedNeXtConfig):
            yield from _network(value, full)
        else:
            yield from _group(value, full, f"`{full}`: {(type(value).__doc__ or '').splitlines()[0]}")


def _network(network: MedNeXtConfig, name: str) -> Iterator[str]:
    yield from ("", f"## `{name}`: The network, MedNeXt-L with kernel 5.", "")
    yield "What each means stands with the fields of `MedNeXtConfig` in `mednext_jax/model/config.py`."
    yield from ("", "| field | type | default | range |", "| --- | --- | --- | --- |")
    for field in dataclasses.fields(network):
        if field.name not in OF_THE_DATA:
            value = getattr(network, field.name)
            yield f"| `{name}.{field.name}` | {field.type} | `{value!r}` | {_range_of_the_network(field.name)} |"


def _range_of_the_network(field: str) -> str:
    """What the network's own check asks for."""
    try:
        MedNeXtConfig(**{field: None})
    except InputError as error:
        return str(error.problems[0].expected)
    raise AssertionError(f"MedNeXtConfig.{field} takes anything")


def page(written: str) -> str:
    """The page with its tables as the code is now."""
    return written.split(MARK)[0] + MARK + tables() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
