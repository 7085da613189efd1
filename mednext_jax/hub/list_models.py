"""`mednext-jax models`: the published models that the project knows, and what the cache holds."""

from __future__ import annotations

from pathlib import Path

from mednext_jax.convert.architecture import describe
from mednext_jax.errors import InputError, shown
from mednext_jax.hub.cache import CONVERTED, FETCHED, UNPACKED, entries, kept
from mednext_jax.hub.fetched import Fetched, all_fetched
from mednext_jax.hub.known import BRIDGES, DOI, KNOWN
from mednext_jax.io.json_file import read_json
from mednext_jax.model.config import MedNeXtConfig
from mednext_jax.weights.directory import DESCRIPTION, notice_of
from mednext_jax.weights.packaged import FOLDER, NAME, packaged_model


def list_models() -> str:
    """The packaged model, the published ones with their place in the published tree, entries of the cache, as text."""
    about = notice_of(read_json(packaged_model() / DESCRIPTION)["provenance"])
    lines = ["in this package, what predict takes without -m:", f"  {NAME}: {about}", f"    -m {NAME}, {FOLDER}"]
    lines.append(f"published, to download by hand (DOI {DOI}, {BRIDGES}):")
    for model in KNOWN:
        lines += [f"  {model.name}: {model.about}", f"    {'-m' if model.is_mednext else 'in'} {model.path}"]
    found = [
        *(f"  {_bytes(path)}  {path}\n    {_of_converted(path)}" for path in entries(CONVERTED)),
        *(f"  {_bytes(path)}  {path}\n    {_of_fetched(record)}" for path, record in all_fetched()),
        *(f"  {_bytes(path)}  {path}\n    an unpacked archive" for path in entries(UNPACKED)),
    ]
    lines.append("in the cache, where any folder can be removed:" if found else "in the cache: nothing yet")
    lines += found or [f"  {kept(kind)}" for kind in (CONVERTED, FETCHED)]
    return "\n".join(shown(line) for text in lines for line in text.split("\n"))


def _of_converted(path: Path) -> str:
    try:
        description = read_json(path / DESCRIPTION)
        config = MedNeXtConfig.from_dict(description["architecture"])
        about = description["provenance"]
        return f"{describe(config)}, from {about['source']} ({about['source_kind']}), sha256 {about['source_sha256']}"
    except (InputError, KeyError, TypeError) as error:
        return f"damaged, converted again when it is asked for: {str(error).splitlines()[0]}"


def _of_fetched(record: Fetched | None) -> str:
    if record is None:
        return "not whole, fetched again when it is asked for"
    what = f"commit {record.commit}" if record.commit else f"sha256 {record.sha256}"
    return f"{record.address}, {what}, {record.fetched_on}"


def _bytes(path: Path) -> str:
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return f"{size / 1e6:7.1f} MB"
