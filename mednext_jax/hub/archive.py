"""Unpack a zip or tar archive of models: nothing outside the folder, nothing larger than the disk."""

from __future__ import annotations

import lzma
import shutil
import tarfile
import zipfile
import zlib
from pathlib import Path

from mednext_jax.errors import InputError

_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError)


def unpack(archive: Path, folder: Path, *, named: object = None) -> None:
    """Write what a zip or tar archive holds into `folder`.

    named: what errors call the archive. Raises InputError for an archive that is damaged, needs a password, would write
    outside the folder, or holds more than the disk has room for; OSError as the disk says.
    """
    file = archive if named is None else named
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as packed:
                _refuse_large(sum(member.file_size for member in packed.infolist()), folder, file)
                packed.extractall(folder)  # leaves out "..", drive letters and roots; makes no links
        elif not hasattr(tarfile, "data_filter"):
            raise InputError(
                "This Python cannot unpack a tar archive from a stranger.",
                file=file,
                expected="Python 3.11.4 or newer",
                hint="unpack it yourself, and name the folder",
            )
        else:
            with tarfile.open(archive) as packed:
                _refuse_large(sum(member.size for member in packed.getmembers()), folder, file)
                packed.extractall(folder, filter="data")
    except (*_DAMAGE, RuntimeError) as error:  # RuntimeError: a password
        raise InputError("The archive cannot be unpacked.", file=file, found=str(error)[:200]) from None


def _refuse_large(size: int, folder: Path, file: object) -> None:
    if size > (free := shutil.disk_usage(folder).free):
        raise InputError(
            "The archive holds more than the disk has room for.",
            file=file,
            expected=f"at most {free / 1e9:.1f} GB, which are free in the cache of models",
            found=f"{size / 1e9:.1f} GB",
            hint="make room, or name another folder: export XDG_CACHE_HOME=FOLDER",
        )
