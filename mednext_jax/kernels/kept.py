"""Small files that a machine keeps about itself: JSON with a checksum, whole or not there at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

from mednext_jax.io.atomic import atomic_file


def write_kept(path: Path, kept: dict[str, Any]) -> None:
    """Write what `read_kept` returns: a line with the SHA-256 of the rest, then JSON.

    A full or read-only disk only costs the next start its time.
    """
    content = json.dumps(kept)
    with contextlib.suppress(OSError), atomic_file(path) as new:
        new.write_text(f"{hashlib.sha256(content.encode()).hexdigest()}\n{content}")


def read_kept(path: Path) -> dict[str, Any] | None:
    """What was kept in `path`; None where there is nothing, or not the content that was written."""
    try:
        checksum, _, content = path.read_bytes().partition(b"\n")
    except OSError:
        return None
    if hashlib.sha256(content).hexdigest().encode() != checksum:
        return None
    kept: dict[str, Any] = json.loads(content)
    return kept
