"""Which kinds of blocks the kernels have proved themselves for on this machine: checked once, then kept on disk."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import logging
import time
from collections.abc import Iterable
from pathlib import Path

import jax
import jaxlib

from mednext_jax.compilation_cache import cache_folder
from mednext_jax.errors import WorkError, is_out_of_memory, shown
from mednext_jax.kernels import self_check
from mednext_jax.kernels.gpus import capability_of, tell_once
from mednext_jax.kernels.kept import read_kept, write_kept
from mednext_jax.kernels.self_check import Verdict
from mednext_jax.kernels.user_tiles import path_of_tiles
from mednext_jax.ops.block_kind import BlockKind
from mednext_jax.version import __version__

_LOG = logging.getLogger(__name__)
_DRIVER = Path("/proc/driver/nvidia/version")
_known: dict[tuple[str, BlockKind, bool], Verdict] = {}  # of this process, where nothing can be kept


def refused(kinds: Iterable[BlockKind], gradients: bool, device: jax.Device) -> frozenset[BlockKind]:
    """The kinds of blocks that the kernels do not get right on `device`, each with one log line that says why.

    Those without a verdict are checked first. gradients: whether they are needed; a verdict with them covers both.
    """
    wrong, told = set(), False
    for kind in dict.fromkeys(kinds):
        verdict = kept_verdict(kind, gradients, device)
        if verdict is None:
            if not told:
                what = f"the fused {device.platform.upper()} kernels"
                tell_once(f"checking {what}, once for this {_name(device)}, driver and version")
            told = True
            verdict = check(kind, gradients, device)
        if verdict.fault:
            wrong.add(kind)
            tell_once(f"{kind} runs as XLA operations on this {_name(device)}: {verdict.fault}")
    return frozenset(wrong)


def check(kind: BlockKind, gradients: bool, device: jax.Device) -> Verdict:
    """Measure a kind of block on `device`, JAX's default, and keep the verdict, but not that the memory was full.

    Raises WorkError where the kernel took the device's context along: all that this process holds there is lost.
    """
    start = time.perf_counter()
    lasting = True
    try:
        verdict = self_check.measure(kind, gradients, device.platform)
    except Exception as error:  # Triton and its compilers raise many kinds
        # What may be otherwise at the next start, with other programs beside or once something is installed.
        lasting = not is_out_of_memory(error) and not isinstance(error, ImportError)
        what = f"the {device.platform.upper()}'s memory was full" if is_out_of_memory(error) else "it does not run here"
        verdict = Verdict(failure=f"{what}: {self_check.said(error)}")
    _LOG.info("%s: checked in %.1f s", kind, time.perf_counter() - start)
    if lasting:
        keep(kind, gradients, device, verdict)
    if verdict.failure and lasting:
        _require_alive(kind, verdict.failure, device.platform.upper())
    return verdict


def keep(kind: BlockKind, gradients: bool, device: jax.Device, verdict: Verdict) -> None:
    """Write a verdict where `kept_verdict` finds it."""
    key = about(device)
    _known[_digest(key), kind, gradients] = verdict
    content = {"about": key, "kind": dataclasses.asdict(kind), "verdict": dataclasses.asdict(verdict)}
    write_kept(_path(key, kind, gradients), content)


def kept_verdict(kind: BlockKind, gradients: bool, device: jax.Device) -> Verdict | None:
    """What was found before; none if nothing was, or under another driver, version or tile table, or it is damaged."""
    key = about(device)
    for checked in (True,) if gradients else (True, False):
        verdict = _known.get((_digest(key), kind, checked)) or _read(key, kind, checked)
        # That gradients are wrong says nothing of the forward pass.
        if verdict is not None and (gradients or not checked or verdict.fault is None):
            return verdict
    return None


def _read(key: dict[str, str], kind: BlockKind, gradients: bool) -> Verdict | None:
    content = read_kept(_path(key, kind, gradients))
    if content is None or content.get("about") != key or content.get("kind") != dataclasses.asdict(kind):
        return None
    with contextlib.suppress(TypeError, KeyError):
        verdict = Verdict(**content["verdict"])
        _known[_digest(key), kind, gradients] = verdict
        return verdict
    return None


def about(device: jax.Device) -> dict[str, str]:
    """All that a verdict depends on. Also what the head of `mednext-jax check-device` says."""
    if device.platform == "tpu":
        return {
            "device": device.device_kind,
            "libtpu": _version("libtpu"),
            "runtime": shown(" ".join(device.client.platform_version.split())),
            "jax": jax.__version__,
            "jaxlib": jaxlib.__version__,
            "mednext-jax": __version__,
            "kernels": sources_hash("mosaic"),
        }
    return {
        "device": device.device_kind,
        "compute capability": capability_of(device),
        "driver": driver(),
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "triton": _version("triton"),
        "jax-triton": _version("jax-triton"),
        "mednext-jax": __version__,
        "kernels": sources_hash(),
        "tiles": _tiles_hash(device),
    }


def driver() -> str:
    """The NVIDIA driver's release, "unknown" where the kernel module does not say (other systems, WSL)."""
    with contextlib.suppress(OSError):
        first = _DRIVER.read_text(errors="replace").splitlines()[:1]
        numbers = [word for word in " ".join(first).split() if word.count(".") >= 1 and word[0].isdigit()]
        if numbers:
            return shown(numbers[0])
    return "unknown"


@functools.cache
def sources_hash(folder: str = ".") -> str:
    """The hash of the files of this folder, or of one in it."""
    sources = hashlib.sha256()
    for path in sorted((Path(__file__).parent / folder).glob("*.py")):
        sources.update(path.name.encode() + b"\0" + path.read_bytes())
    return sources.hexdigest()[:16]


def _tiles_hash(device: jax.Device) -> str:
    with contextlib.suppress(OSError):
        return hashlib.sha256(path_of_tiles(device).read_bytes()).hexdigest()[:16]
    return "the package's"


def _require_alive(kind: BlockKind, failure: str, what: str) -> None:
    try:
        alive = float(jax.numpy.ones(2).sum()) == 2
    except jax.errors.JaxRuntimeError:
        alive = False
    if not alive:
        raise WorkError(
            f"A check of the {what} kernels ({kind}) broke off and took the {what}'s context along: {failure}\n"
            "  hint:     start the command again; this kind of block then runs as XLA operations"
        )


def _name(device: jax.Device) -> str:
    return shown(device.device_kind)


def _path(key: dict[str, str], kind: BlockKind, gradients: bool) -> Path:
    said = json.dumps([key, dataclasses.asdict(kind), gradients], sort_keys=True)
    return cache_folder() / "checked" / f"{hashlib.sha256(said.encode()).hexdigest()}.json"


def _digest(key: dict[str, str]) -> str:
    return json.dumps(key, sort_keys=True)


@functools.cache
def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"
