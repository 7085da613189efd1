"""Addresses of models: hf://ORG/NAME[@REV], https://...[#sha256=HEX], and http:// where nobody can meddle."""

from __future__ import annotations

import dataclasses
import hashlib
import ipaddress
import re
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from mednext_jax.errors import InputError

EXPECTED = "hf://ORG/NAME, hf://ORG/NAME@REV, https://..., https://...#sha256=HEX"
_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_HUB = re.compile(rf"hf://(?P<repository>{_PART}/{_PART})(@(?P<revision>[A-Za-z0-9][A-Za-z0-9._/-]{{0,199}}))?")


@dataclasses.dataclass(frozen=True)
class Address:
    """An address as it was given: of a repository on the Hugging Face hub, or of a file on the web."""

    text: str  # without a checksum
    repository: str | None = None  # ORG/NAME
    revision: str | None = None
    sha256: str | None = None

    @property
    def key(self) -> str:
        """A name of the address for the cache."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]

    @property
    def file_name(self) -> str:
        """The last part of a web address, if it can be a file's name."""
        name = PurePosixPath(unquote(urlsplit(self.text).path)).name
        return name if re.fullmatch(r"[\w.+-]{1,120}", name) and name.strip(".") else "file"


def is_address(text: str) -> bool:
    """Whether a text is an address rather than a path."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text) is not None


def parse_address(text: str) -> Address:
    """The parts of an address; raises InputError if it is none that models are fetched from."""
    if match := _HUB.fullmatch(text):
        return Address(text, match["repository"], match["revision"])
    plain, mark, pin = text.partition("#")
    sha256 = re.fullmatch(r"sha256=([0-9A-Fa-f]{64})", pin)
    if mark and not sha256:
        raise InputError("The checksum of the address is none.", expected="#sha256= and 64 hex digits", found=text)
    try:
        host = urlsplit(plain).hostname if plain.startswith(("https://", "http://")) else None
    except ValueError:
        host = None
    if not host:
        raise InputError("Models are not fetched from such an address.", expected=EXPECTED, found=text)
    if urlsplit(plain).username is not None:
        raise InputError(
            "The address holds a user name or a password, which would be kept and shown.",
            file=host,
            hint="write them into ~/.netrc",
        )
    if not is_safe(plain, pinned=sha256 is not None):
        raise InputError(
            "What comes over http can be changed on its way.",
            file=text,
            expected="https://, or a checksum",
            hint="write https, or pin the file: ADDRESS#sha256=HEX",
        )
    return Address(plain, sha256=None if sha256 is None else sha256[1].lower())


def is_safe(address: str, *, pinned: bool) -> bool:
    """Whether nobody can change what comes from an address: by TLS, by its checksum, or within this machine."""
    parts = urlsplit(address)
    return pinned or parts.scheme == "https" or _is_this_machine(parts.hostname or "")


def _is_this_machine(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
