"""Models that were fetched: an address asks the network once, and never again."""

from __future__ import annotations

import dataclasses
import datetime
import json
import shutil
from pathlib import Path
from typing import Any

from mednext_jax.errors import InputError, shown
from mednext_jax.hub.address import Address, parse_address
from mednext_jax.hub.archive import unpack
from mednext_jax.hub.cache import FETCHED, entries, kept, making, unwritable
from mednext_jax.hub.hugging_face import fetch_repository
from mednext_jax.hub.web import fetch_file
from mednext_jax.io.atomic import atomic_directory
from mednext_jax.io.json_file import MIB, read_json
from mednext_jax.weights.directory import is_archive, sha256

RECORD = "fetched.json"


@dataclasses.dataclass(frozen=True)
class Fetched:
    """What is kept of an address. commit: of a repository. sha256: of a web file, or of an archive before unpacking."""

    address: str
    commit: str | None
    sha256: str | None
    files: dict[str, int]  # path in the folder -> bytes
    fetched_on: str

    @classmethod
    def read(cls, entry: Path) -> Fetched | None:
        """The record of an entry of the cache; None if a file of it is missing or cut."""
        try:
            value = read_json(entry / RECORD, limit=16 * MIB)
            record = cls(**value)
            whole = all((entry / name).stat().st_size == size for name, size in record.files.items())
        except (InputError, OSError, TypeError, AttributeError):
            return None
        return record if whole else None


def fetch(text: str) -> Path:
    """The file or folder that an address stands for, in the cache; fetched if it is not there yet.

    Raises InputError for an address that is none or leads nowhere, no network, another checksum, or a cache that cannot
    be written.
    """
    address = parse_address(text)
    entry = kept(FETCHED) / address.key
    record = Fetched.read(entry)
    if record is None:
        with making(entry):
            record = Fetched.read(entry)
            if record is None:
                record = _fetch(address, entry)
    if address.sha256 not in (None, record.sha256):
        raise InputError(
            "The file that was fetched from there has another checksum.",
            file=entry,
            expected=f"sha256 {address.sha256}",
            found=f"sha256 {record.sha256}, fetched on {record.fetched_on}",
            hint="remove this folder to fetch it again",
        )
    content = entry / "content"
    only = [content / Path(name).name for name in record.files if Path(name).parent == Path("content")]
    return only[0] if address.repository is None and len(record.files) == len(only) == 1 else content


def _fetch(address: Address, entry: Path) -> Fetched:
    shutil.rmtree(entry, ignore_errors=True)  # not whole
    print(f"fetching {shown(address.text)}", flush=True)
    try:
        with atomic_directory(entry) as folder:
            content = folder / "content"
            content.mkdir()
            commit, checksum = None, None
            if address.repository is not None:
                commit = fetch_repository(address, content)
            else:
                file = fetch_file(address, content)
                checksum = sha256(file)
                if is_archive(file):
                    packed = file.rename(folder / "archive")
                    unpack(packed, content, named=address.text)
                    packed.unlink()
            files = {
                path.relative_to(folder).as_posix(): path.stat().st_size
                for path in sorted(content.rglob("*"))
                if path.is_file()
            }
            record = Fetched(address.text, commit, checksum, files, datetime.date.today().isoformat())
            (folder / RECORD).write_text(json.dumps(dataclasses.asdict(record), indent=2) + "\n")
    except OSError as error:
        raise unwritable(error) from None
    print(f"fetched  {_summary(record)}; kept in {shown(entry)}", flush=True)
    return record


def _summary(record: Fetched) -> str:
    size = f"{sum(record.files.values()) / 1e6:.1f} MB in {len(record.files)} files"
    if record.commit is not None:
        return f"{size}, commit {shown(record.commit)}"
    return f"{size}, pinned by {shown(record.address)}#sha256={record.sha256}"


def all_fetched() -> list[tuple[Path, Any]]:
    """Each entry of the cache with its record, or None for one that is not whole."""
    return [(path, Fetched.read(path)) for path in entries(FETCHED)]
