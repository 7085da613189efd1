"""The cache of models: folders that appear whole or not at all, each made by one process while others wait.

    mednext_jax/models/converted/KEY     a model directory, KEY the hash of all that it was made from
    mednext_jax/models/fetched/KEY       content/ and fetched.json, KEY the hash of an address
    mednext_jax/models/unpacked/KEY      what an archive holds, KEY the archive's hash

in XDG_CACHE_HOME or ~/.cache. Any of these folders can be removed: it is made again when it is asked for.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from mednext_jax.compilation_cache import cache_home
from mednext_jax.errors import InputError
from mednext_jax.io.lock import locked

CONVERTED, FETCHED, UNPACKED = "converted", "fetched", "unpacked"
_WAIT = 3600.0  # seconds that another process may take to convert or fetch the same


def kept(kind: str) -> Path:
    """The folder of all entries of a kind."""
    return cache_home() / "models" / kind


@contextlib.contextmanager
def making(entry: Path) -> Iterator[None]:
    """Be the only process that makes the folder `entry`: it may have come while this one waited.

    Raises InputError if another process does not finish within an hour, or the cache cannot be written.
    """
    with contextlib.ExitStack() as stack:
        try:
            entry.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(
                locked(entry.with_name(f"{entry.name}.lock"), "Another process brings this model over.", wait=_WAIT)
            )
        except OSError as error:
            raise unwritable(error) from None
        yield


def unwritable(error: OSError) -> InputError:
    """What to raise if the cache of models cannot be written."""
    return InputError(
        "The cache of models cannot be written.",
        file=cache_home() / "models",
        found=error.strerror or str(error),
        hint="name a folder with space where you may write: export XDG_CACHE_HOME=FOLDER; or bring the model over "
        "yourself: mednext-jax convert SOURCE TARGET",
    )


def entries(kind: str) -> list[Path]:
    """The finished entries of a kind."""
    folder = kept(kind)
    return sorted(p for p in folder.iterdir() if p.is_dir() and p.name[0] != ".") if folder.is_dir() else []
