"""Open whatever `-m` names as models; a PyTorch file is brought over once and kept by the hash of its content."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import logging
import os
import shutil
from pathlib import Path

from mednext_jax.convert.sources import WeightSource, is_lowres, networks_in, plan_files, read_source
from mednext_jax.errors import InputError, shown
from mednext_jax.hub.cache import CONVERTED, kept, making, unwritable
from mednext_jax.hub.find import find_source
from mednext_jax.hub.known import known_folder
from mednext_jax.io.absent import refuse_absent
from mednext_jax.io.contrast import contrast_in
from mednext_jax.version import __version__
from mednext_jax.weights.directory import Model, load_model, load_models, save_model, sha256

_LOG = logging.getLogger(__name__)
NO_PLANS = "no plans found"  # how the note begins that says what was assumed without them


def open_models(given: str | os.PathLike) -> list[Model]:
    """The model, or all of an ensemble in the order of their names, that `given` stands for (`find_source`).

    A model directory is loaded as it is. Other weights are converted; the model directory stays in the cache
    (`hub.cache`), under a hash of the weights, the plans beside them and the code that converts, so that a file that
    has changed is converted again. Raises InputError as `find_source`, `load_models` and `convert` do.
    """
    source = find_source(given)
    networks = networks_in(source) if source.exists() else {}
    if all(network.is_dir() for network in networks.values()):
        return load_models(source)  # raises, and says what is missing, if there is nothing
    models = [load_model(one) if one.is_dir() else _converted(one) for one in networks.values()]
    for note in dict.fromkeys(str(n) for m in models for n in m.provenance.get("notes", ()) if NO_PLANS in str(n)):
        _LOG.warning("%s: %s", shown(source), shown(note))
    return [_with_contrast(model, source) for model in models]


def _converted(checkpoint: Path) -> Model:
    entry = kept(CONVERTED) / _key(checkpoint)
    if entry.is_dir():
        try:
            return load_model(entry)
        except InputError:
            pass  # damaged since
    with making(entry):
        try:
            return load_model(entry)  # another process made it in the meantime
        except InputError:
            shutil.rmtree(entry, ignore_errors=True)
        source = _read(checkpoint)
        try:
            save_model(entry, source.config, source.params, source.recipe, source.provenance)
        except OSError as error:
            raise unwritable(error) from None
    print(f"{shown(checkpoint)}: {shown(source.name)} ({shown(source.kind)}), kept in {shown(entry)}", flush=True)
    return load_model(entry)


def _read(checkpoint: Path) -> WeightSource:
    try:
        return read_source(checkpoint)
    except InputError as error:
        known = known_folder(checkpoint)
        if known is None or known.is_mednext:
            raise
        hint = f"{known.folder} is {known.about}; take a set of MedNeXt, such as Task019_HCP_T2w"
        raise InputError.of(dataclasses.replace(p, hint=p.hint or hint) for p in error.problems) from None


def _key(checkpoint: Path) -> str:
    """A hash of all that a conversion depends on."""
    refuse_absent(checkpoint, "file", "a PyTorch checkpoint or a safetensors file")
    said = [_code(), is_lowres(checkpoint), sha256(checkpoint)]
    for path in plan_files(checkpoint):
        refuse_absent(path, "file", "nnU-Net's plans")
        said += [path.name.removeprefix(checkpoint.name), sha256(path)]
    return hashlib.sha256(repr(said).encode()).hexdigest()[:32]


@functools.cache
def _code() -> str:
    """A hash of the code that reads weights and writes model directories."""
    package = Path(__file__).parents[1]
    files = sorted(path for room in ("convert", "weights", "preprocess") for path in (package / room).rglob("*.py"))
    digest = hashlib.sha256(__version__.encode())
    for path in files:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _with_contrast(model: Model, source: Path) -> Model:
    """Name the channel of one of MedNet-PVS's models, known by its folder, by its contrast if the plans do not."""
    known, names = known_folder(source), model.recipe.channel_names
    if known is None or len(names) != 1 or contrast_in(names[0]) is not None:
        return model
    return dataclasses.replace(model, recipe=dataclasses.replace(model.recipe, channel_names=(known.contrast,)))
