"""Rooms that are called like the command they hold: `mednext_jax.prepare(...)` beside `mednext_jax.prepare.plan`.

A package and a function cannot share a name: importing anything of the package binds the package to it. So the package
itself is what is called.
"""

from __future__ import annotations

import importlib
import inspect
import sys
import types
from collections.abc import Callable
from typing import Any


def call_room(room: str, function: str) -> None:
    """Make the package `room` callable as `function` of its file of the same name, imported at the first call."""

    class CommandRoom(types.ModuleType):
        def __call__(self, *arguments: Any, **options: Any) -> Any:
            return command()(*arguments, **options)

        @property
        def __signature__(self) -> inspect.Signature:
            return inspect.signature(command())

    def command() -> Callable[..., Any]:
        return getattr(importlib.import_module(f"{room}.{function}"), function)

    sys.modules[room].__class__ = CommandRoom
