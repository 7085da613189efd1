"""Python in another process, as the kernels of a test's own are the interpreter's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run_python(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """`python ARGUMENTS` in the project's folder, with `environ` added to the environment."""
    # Importing jax-triton, as an earlier test may have done, empties the cache's path.
    ours = ("TRITON_INTERPRET", "TRITON_CACHE_DIR")
    inherited = {name: value for name, value in os.environ.items() if name not in ours}
    environment = inherited | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)} | environ
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True)
