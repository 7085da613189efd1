"""Fetch one file from the web with pooch, checked by its sha256."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

from mednext_jax.errors import InputError
from mednext_jax.hub.address import Address, is_safe

OFFLINE = "a model that was fetched once needs no network: fetch it where there is one, or name a copy on this machine"
TIMEOUT = 30.0  # seconds without a byte


def fetch_file(address: Address, folder: Path) -> Path:
    """Write the file at a web address into `folder`; returns its path.

    Raises InputError if pooch is not installed, nobody answers, there is no such file, or its checksum differs;
    OSError if the disk is full.
    """
    try:
        import pooch
        import requests
    except ImportError:
        raise no_package("pooch", address) from None

    def refuse_detour(response: Any, *_: Any, **__: Any) -> None:
        if not is_safe(response.url, pinned=address.sha256 is not None):
            raise requests.exceptions.InvalidURL(f"sent on to {response.url}, which can be changed on its way")

    pooch.get_logger().setLevel(logging.WARNING)
    load = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), timeout=TIMEOUT, hooks={"response": refuse_detour})
    pin = None if address.sha256 is None else f"sha256:{address.sha256}"
    try:
        return Path(pooch.retrieve(address.text, known_hash=pin, fname=address.file_name, path=folder, downloader=load))
    except requests.exceptions.HTTPError as error:
        status = "no answer" if error.response is None else f"{error.response.status_code} {error.response.reason}"
        raise InputError(
            "The address leads to no file.", file=address.text, found=status, hint="check the address"
        ) from None
    except requests.exceptions.RequestException as error:
        raise no_network(address, error) from None
    except ValueError as error:  # how pooch tells of another checksum
        if "hash" not in str(error):
            raise
        raise InputError(
            "The file is not the one that was meant: its checksum differs.",
            file=address.text,
            expected=f"sha256 {address.sha256}",
            found=str(error)[:300],
            hint="ask who published it for the checksum; nothing was kept",
        ) from None


def no_network(address: Address, error: BaseException) -> InputError:
    """What to raise if the other side does not answer."""
    found = " ".join(str(error).split()) or type(error).__name__
    return InputError("The model could not be fetched.", file=address.text, found=found[:300], hint=OFFLINE)


def no_package(name: str, address: Address) -> InputError:
    """What to raise if a package of the extra is missing."""
    return InputError(
        "Fetching a model needs a package that is not installed.",
        file=address.text,
        expected=name,
        hint="pip install 'mednext-jax[hub]'",
    )
