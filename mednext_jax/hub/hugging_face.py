"""Fetch a model's repository from the Hugging Face hub with huggingface_hub, each file checked by its hash."""

from __future__ import annotations

import errno
import fnmatch
import hashlib
import os
import shutil
from pathlib import Path, PurePosixPath
from typing import Any

from mednext_jax.errors import InputError
from mednext_jax.hub.address import Address
from mednext_jax.hub.web import TIMEOUT, no_network, no_package
from mednext_jax.weights.directory import sha256

# What models are read from; a repository may hold other things.
_WANTED = (
    *("*.safetensors", "*.model", "*.model.pkl", "*.pth", "*.pt", "*.ckpt"),
    *("*model.json", "*plans.pkl", "*plans.json", "*dataset.json"),
)

_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS, errno.EIO)


def fetch_repository(address: Address, folder: Path) -> str:
    """Write a repository's files of models into `folder`; returns the commit that they are of.

    HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE are obeyed as by huggingface_hub. Raises InputError if that is not
    installed, nobody answers, the repository or revision does not exist or is not open to you, or a file is not what
    the hub says; OSError as the disk says.
    """
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ImportError:
        raise no_package("huggingface_hub", address) from None
    endpoint = os.environ.get("HF_ENDPOINT") or None
    repository = str(address.repository)
    try:
        api = huggingface_hub.HfApi(endpoint=endpoint)
        info = api.model_info(repository, revision=address.revision, files_metadata=True, timeout=TIMEOUT)
        listed = [one for one in info.siblings or [] if any(fnmatch.fnmatch(one.rfilename, w) for w in _WANTED)]
        for one in listed:
            _refuse_outside(one.rfilename, address)
            huggingface_hub.hf_hub_download(
                repository, one.rfilename, revision=info.sha, local_dir=folder, endpoint=endpoint
            )
            _check(folder / one.rfilename, one, address)
    except errors.GatedRepoError:
        raise InputError(
            "The repository is open only to those whom its owner admits.",
            file=address.text,
            hint="ask for access on its page, then log in: hf auth login, or HF_TOKEN",
        ) from None
    except errors.RevisionNotFoundError:
        raise InputError("The repository has no such revision.", file=address.text, found=address.revision) from None
    except errors.RepositoryNotFoundError:
        raise InputError(
            "The hub has no such repository, or it is private.",
            file=address.text,
            expected="hf://ORG/NAME as on the hub's page of the model",
            hint="check the name; for a private one log in: hf auth login, or HF_TOKEN",
        ) from None
    except InputError:
        raise
    except Exception as error:  # each release has its own set for a server that does not answer
        if isinstance(error, OSError) and error.errno in _OF_THE_DISK:
            raise
        raise no_network(address, error) from None
    if not listed:
        found = ", ".join(one.rfilename for one in (info.siblings or [])[:8]) or "no file"
        raise InputError(
            "The repository holds no weights.", file=address.text, expected=", ".join(_WANTED[:6]), found=found
        )
    shutil.rmtree(folder / ".cache", ignore_errors=True)  # huggingface_hub's notes on the download
    return str(info.sha)


def _refuse_outside(name: str, address: Address) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name:
        raise InputError("The repository names a file outside of itself.", file=address.text, found=name)


def _check(path: Path, listed: Any, address: Address) -> None:
    """Compare a file with the hub's hash of it: SHA-256 of large files, git's SHA-1 of the others."""
    if listed.lfs is not None:
        expected, found = listed.lfs.sha256, sha256(path)
    else:
        content = path.read_bytes()
        expected, found = listed.blob_id, hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    if expected != found:
        raise InputError(
            "A file of the repository is not what the hub says: its checksum differs.",
            file=f"{address.text}: {listed.rfilename}",
            expected=expected,
            found=found,
            hint="try again; nothing was kept",
        )
