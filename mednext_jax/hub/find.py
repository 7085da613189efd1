"""Find the file or folder of weights that a text stands for: a path, an archive, a tree of trainings, an address."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from mednext_jax.convert.sources import networks_in
from mednext_jax.errors import InputError
from mednext_jax.hub.address import is_address
from mednext_jax.hub.archive import unpack
from mednext_jax.hub.cache import UNPACKED, kept, making, unwritable
from mednext_jax.hub.fetched import fetch
from mednext_jax.hub.known import BRIDGES, DOI, known_folder, known_name
from mednext_jax.io.atomic import atomic_directory
from mednext_jax.io.nifti_names import few
from mednext_jax.weights.directory import is_archive, of_workdir, sha256
from mednext_jax.weights.packaged import or_packaged

_DEPTH, _LOOKED_AT = 8, 10_000  # folders below the one that was named


def find_source(given: str | os.PathLike) -> Path:
    """The file or folder of weights (`convert.sources.find_networks`) that `given` stands for.

    given: the name of the packaged model; a path; a zip or tar archive, unpacked into the cache; a folder with one
    model somewhere below, as nnU-Net's Task.../TRAINER__PLANS/fold_0; an address (`parse_address`), fetched into the
    cache.
    Raises InputError if an address leads nowhere, an archive is damaged, several models are below a folder, or the
    name is of a published model that is not here. A path that leads to nothing comes back as it is.
    """
    if isinstance(given, str) and is_address(given):
        return _below(fetch(given), given)
    path = Path(or_packaged(given))
    if isinstance(given, str) and not path.exists() and (model := known_name(given)) is not None:
        raise InputError(
            f"{model.name} is not fetched by itself.",
            expected=f"-m {model.path}",
            found=model.about,
            hint=f"download MedNet-PVS's weights (DOI {DOI}, {BRIDGES}), unpack them, and name this folder",
        )
    if is_archive(path):
        return _below(_unpacked(path), path)
    return _below(path, path)


def _unpacked(archive: Path) -> Path:
    """The folder of the cache that holds what is in a local archive."""
    entry = kept(UNPACKED) / sha256(archive)[:16]
    if not entry.is_dir():
        with making(entry):
            if not entry.is_dir():
                try:
                    with atomic_directory(entry) as folder:
                        unpack(archive, folder)
                except OSError as error:
                    raise unwritable(error) from None
    return entry


def _below(path: Path, given: str | Path) -> Path:
    """`path` itself, or the only folder of weights somewhere below it."""
    path = of_workdir(path)
    if not path.is_dir() or _holds_networks(path) or _is_of_trainings(path):
        return path
    found = list(_search(path))
    if len(found) == 1:
        return found[0]
    if found:
        raise InputError(
            "Several models are below this folder.",
            file=given,
            expected="the folder of one of them",
            found=few([_described(one, path) for one in found]),
            hint=f"name one, such as -m {found[0]}",
        )
    return path


def _search(top: Path) -> Iterator[Path]:
    """Folders of weights below `top`, by name; links are not followed."""
    for number, (name, folders, _) in enumerate(os.walk(top)):
        path = Path(name)
        if number == _LOOKED_AT:
            return
        if path != top and _holds_networks(path):
            yield path
            folders.clear()
        if len(path.relative_to(top).parts) == _DEPTH:
            folders.clear()
        folders[:] = sorted(one for one in folders if not one.startswith("."))


def _holds_networks(path: Path) -> bool:
    try:
        return bool(networks_in(path))
    except InputError:
        return True  # a fold is missing, which is told by who opens it


def _is_of_trainings(path: Path) -> bool:
    """Whether the folder is a training's, or of trainings, whose state is told by who opens it."""
    return (path / "checkpoints").is_dir() or any(re.match("fold_", one.parent.name) for one in path.glob("*/model"))


def _described(path: Path, top: Path) -> str:
    known = known_folder(path)
    return str(path.relative_to(top)) + ("" if known is None else f" ({known.contrast}, {known.about})")
