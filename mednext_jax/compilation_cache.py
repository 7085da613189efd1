"""What is kept on disk between starts: its folder, and compiled programs, so that the second start does not compile."""

from __future__ import annotations

import hashlib
import os
import platform
from pathlib import Path


def use_compilation_cache() -> None:
    """Keep what XLA compiles under ~/.cache/mednext_jax; JAX_COMPILATION_CACHE_DIR names another folder.

    A home folder may be shared by machines with other processors, and a program compiled for one may crash another:
    each kind of processor has its own sub-folder.
    """
    import jax

    # A start compiles a dozen small programs too, each a fraction of a second; JAX keeps only what took one.
    if not os.environ.get("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"):
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", str(cache_home() / "xla" / _processor()))


def cache_folder() -> Path:
    """The folder of what this package keeps about a machine: JAX_COMPILATION_CACHE_DIR, else ~/.cache/mednext_jax.

    An address that is no folder of a disk (gs://...) is for JAX alone.
    """
    named = os.environ.get("JAX_COMPILATION_CACHE_DIR", "")
    return Path(named) if named and "://" not in named else cache_home()


def cache_home() -> Path:
    """The package's folder in the user's cache: mednext_jax in XDG_CACHE_HOME, or in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mednext_jax"


def _processor() -> str:
    """The machine's architecture and a hash of what its processor can do."""
    abilities = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = cpuinfo.read_text(errors="replace").splitlines()
        abilities = next((line for line in lines if line.lower().startswith(("flags", "features"))), abilities)
    return f"{platform.machine()}-{hashlib.sha256(abilities.encode()).hexdigest()[:12]}"
