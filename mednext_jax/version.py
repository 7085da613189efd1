"""The version of the package, and the only place that says it; the commit it was installed from, where known."""

from __future__ import annotations

import functools
import importlib.metadata
import json
import re
import subprocess
from pathlib import Path

__version__ = "0.1.0"


@functools.cache
def commit() -> str | None:
    """The hash of the commit that this package is of: a git checkout's, or what pip noted of its address (PEP 610)."""
    root = Path(__file__).resolve().parents[1]
    if (root / ".git").exists() and (root / "pyproject.toml").is_file():
        try:
            said = subprocess.run(
                ["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10
            ).stdout.strip()
        except (OSError, subprocess.SubprocessError):
            return None
        return said if re.fullmatch("[0-9a-f]{40,64}", said) else None
    try:
        noted = importlib.metadata.distribution("mednext-jax").read_text("direct_url.json")
        said = json.loads(noted or "{}").get("vcs_info", {}).get("commit_id")
    except (importlib.metadata.PackageNotFoundError, ValueError, AttributeError):
        return None
    return said if isinstance(said, str) else None
