"""Several processes as one run: how they find each other, check that they agree, and fail so that it is read once.

JAX runs the same program in every process, and a process that stops or differs leaves the others waiting in a
collective. So everything that can be wrong is checked together, before the first compilation.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import itertools
import json
import os
import platform
import re
import socket
import sys
import time
import traceback
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import jax
import jaxlib
import numpy as np
from jax.experimental import multihost_utils

from mednext_jax.errors import InputError, Problem, WorkError, is_out_of_memory, shown
from mednext_jax.version import __version__

ASKED = ("MEDNEXT_JAX_COORDINATOR", "MEDNEXT_JAX_PROCESSES", "MEDNEXT_JAX_PROCESS_ID")
START_TIMEOUT = 300  # seconds; JAX's own default for the same wait
HEARTBEAT = 100  # seconds without a sign of life after which a process counts as dead; JAX's default
_MEETING_TIMEOUT = 24 * 3600  # seconds; a process that died ends a meeting by its missing heartbeat
_meetings = itertools.count()


def initialise() -> None:
    """Join the other processes of this run, if there are any; must come before the first use of a device.

    They are asked for by MEDNEXT_JAX_COORDINATOR (host:port), MEDNEXT_JAX_PROCESSES and MEDNEXT_JAX_PROCESS_ID, or
    by JAX_COORDINATOR_ADDRESS, or found from Open MPI, a SLURM step with several tasks or a TPU slice with several
    hosts. Everywhere else this does nothing. Raises InputError for settings that are incomplete or make no sense,
    WorkError when process 0 cannot be reached.
    """
    start = how_to_start(os.environ)
    if start is None or jax.distributed.is_initialized():
        return
    if start.get("process_id"):
        # JAX aborts the interpreter when the coordinator stays away: find out before it does.
        wait_for_coordinator(start["coordinator_address"], START_TIMEOUT)
    try:
        jax.distributed.initialize(**start, initialization_timeout=START_TIMEOUT)
    except ValueError as error:  # a launcher was found but does not say all that is needed
        raise InputError(
            f"The processes of this run could not find each other: {error}",
            expected="address, number of processes and process number from the launcher",
            hint=f"set {', '.join(ASKED)} (with Open MPI 5: or install mpi4py)",
        ) from error


def is_main_process() -> bool:
    """Whether this process writes the logs, tables and pictures."""
    return jax.process_index() == 0


def meet(name: str, timeout: float = _MEETING_TIMEOUT) -> None:
    """Wait until every process has come here; all must call it, in the same order.

    It comes before collectives that processes reach at unequal times (after a compilation, after reading files):
    between CPUs (Gloo) a collective fails when one of its devices is 30 s late.
    Raises jax.errors.JaxRuntimeError when a process has died or `timeout` (seconds) is over.
    """
    if jax.process_count() > 1:
        from orbax.checkpoint.multihost import get_barrier_sync_fn  # seconds to import

        get_barrier_sync_fn()(key=f"{name} {next(_meetings)}", timeout_ms=round(1000 * timeout))


def compiled_together(function: Any) -> Callable[..., Any]:
    """The jitted `function`, for arguments of one shape, compiled by all processes before any of them runs it."""
    if jax.process_count() == 1:
        return function
    compiled: Any = None

    def run(*arguments: Any) -> Any:
        nonlocal compiled
        if compiled is None:
            compiled = function.lower(*arguments).compile()
            meet("compiled")
        return compiled(*arguments)

    return run


def agree(name: str, value: Any) -> None:
    """Check that every process holds the same `value` (JSON: mappings, sequences, strings, numbers); all must call it.

    Compared by SHA-256. If they differ, process 0 raises one InputError that names the processes and the fields that
    stand out, and the others leave quietly with the same exit status, 2.
    """
    if jax.process_count() == 1:
        return
    fields = _flatten(value)
    digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).digest()
    meet(name)
    digests = multihost_utils.process_allgather(np.frombuffer(digest, np.uint8))  # (processes, 32)
    if (digests == digests[0]).all():
        return
    keys = [row.tobytes() for row in digests]
    usual = keys.index(Counter(keys).most_common(1)[0][0])  # the majority is right; of two, process 0
    everyone = [json.loads(text) for text in _gather(json.dumps(fields))]
    odd = [process for process, key in enumerate(keys) if key != keys[usual]]
    differing = sorted({field for process in odd for field in _differences(everyone[usual], everyone[process])})
    _raise_once(
        InputError(
            f"The processes of this run do not share the same {name}: {_processes(odd)} of {len(keys)} differs.",
            expected=f"process {usual}: {_show(everyone[usual], differing)}",
            found="; ".join(f"process {process}: {_show(everyone[process], differing)}" for process in odd[:4]),
            hint="start every process with the same command, files and installation",
        )
    )


def code_version() -> dict[str, str]:
    """Versions that every process must share for the same results: for `agree("code version", code_version())`."""
    package = Path(__file__).parents[1]
    sources = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        sources.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes())
    return {
        "mednext_jax": __version__,
        "mednext_jax sources": sources.hexdigest()[:16],
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "python": platform.python_version(),
    }


@contextlib.contextmanager
def checked_together() -> Iterator[None]:
    """Around the checks at the start: where the body fails on any process, every process stops, and one tells.

    Process 0 raises one InputError (or WorkError) with the problems of all processes, each with the process that met
    it; the others leave quietly with the same exit status. The body must make no collective call.
    """
    if jax.process_count() == 1:
        yield
        return
    report: dict[str, Any] = {}
    try:
        yield
    except InputError as error:
        report = {"problems": [vars(problem) for problem in error.problems]}
    except (WorkError, OSError) as error:
        report = {"failure": str(error)}
    except Exception:
        report = {"failure": traceback.format_exc()}
    meet("checked")
    texts = _gather(json.dumps(report))
    where: dict[str, list[int]] = {}
    for process, text in enumerate(texts):
        if json.loads(text):
            where.setdefault(text, []).append(process)
    if not where:
        return
    problems, failures = [], []
    for text, processes in where.items():
        # What all processes say is a fact about the call, not about a process.
        prefix = "" if len(processes) == len(texts) else f"{_processes(processes)} of {len(texts)}: "
        found = json.loads(text)
        problems += [Problem(**{**problem, "what": prefix + problem["what"]}) for problem in found.get("problems", [])]
        failures += [prefix + found["failure"]] if "failure" in found else []
    if failures:
        _raise_once(WorkError("\n".join(failures + [str(problem) for problem in problems])))
    _raise_once(InputError.of(problems))


@contextlib.contextmanager
def leaving_at_once() -> Iterator[None]:
    """Around the work after the start: an error of this process is printed here and ends the process at once.

    An ordinary exit would wait five minutes for the others at JAX's exit barrier while they wait for this process in
    a collective. Where it is a collective that failed, because another process died, it stays until the missing
    heartbeat tells which one, and prints that. Exit status 1, or 2 for an InputError.
    With one process, errors pass through.
    """
    try:
        yield
    except Exception as error:
        if jax.process_count() == 1:
            raise
        known = isinstance(error, (InputError, WorkError, OSError, jax.errors.JaxRuntimeError))
        _tell(str(error) if known else traceback.format_exc())
        if isinstance(error, jax.errors.JaxRuntimeError) and not is_out_of_memory(error):
            _tell(_who_died())
        os._exit(2 if isinstance(error, InputError) else 1)


def _tell(text: str) -> None:
    text = "\n".join(shown(line) for line in text.split("\n"))  # the system's own words repeat file names
    print(f"mednext-jax: process {jax.process_index()} of {jax.process_count()}: {text}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()


def _who_died() -> str:
    """Waits for the heartbeat. JAX may find out first, and then ends this process with a message of its own."""
    try:
        meet("after an error", timeout=HEARTBEAT + 30)
    except jax.errors.JaxRuntimeError as error:
        dead = sorted({int(number) for number in re.findall(r"[Tt]ask[:\s]+(\d+)", str(error))} - {jax.process_index()})
        return f"died, or stopped with the error that it printed: {_processes(dead)}" if dead else str(error)
    return "all processes are alive; the error above is this one's"


def how_to_start(environ: Mapping[str, str]) -> dict[str, Any] | None:
    """The arguments of `jax.distributed.initialize` that `environ` calls for; None where this process is alone.

    A Kubernetes job's index alone is no sign of one run (folds and parts of a cohort have one too): manifests ask.
    Raises InputError for a request that is incomplete or makes no sense.
    """
    if any(name in environ for name in ASKED):
        return _asked(environ)
    if "JAX_COORDINATOR_ADDRESS" in environ:
        return {}
    if _count(environ, "OMPI_COMM_WORLD_SIZE") > 1:
        # Open MPI 5 no longer publishes its address; JAX then asks MPI itself.
        return {} if "OMPI_MCA_orte_hnp_uri" in environ else {"cluster_detection_method": "mpi4py"}
    # The step's own count: SLURM_NTASKS is the allocation's, and is also set in a batch script or a login shell.
    if _count(environ, "SLURM_STEP_NUM_TASKS") > 1 and "SLURM_PROCID" in environ:
        return {}
    if "," in environ.get("TPU_WORKER_HOSTNAMES", "") or _count(environ, "MEGASCALE_NUM_SLICES") > 1:
        return {}
    if _tpu_vm_workers(environ) > 1:
        return {}
    return None


def _asked(environ: Mapping[str, str]) -> dict[str, Any] | None:
    missing = [name for name in ASKED if not environ.get(name)]
    if missing:
        raise InputError(
            "The request for several processes is incomplete.",
            expected=f"{', '.join(ASKED)} together, or none of them",
            found=f"no {', '.join(missing)}",
            hint="set all three in every process, or unset them",
        )
    coordinator, processes, process_id = (environ[name] for name in ASKED)
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise InputError(f"{ASKED[0]} is not an address.", expected="host:port of process 0", found=coordinator)
    if not processes.isdecimal() or int(processes) < 1:
        raise InputError(f"{ASKED[1]} is not a number of processes.", expected="1 or more", found=processes)
    if not process_id.isdecimal() or int(process_id) >= int(processes):
        raise InputError(
            f"{ASKED[2]} is not the number of a process.", expected=f"0 to {int(processes) - 1}", found=process_id
        )
    if int(processes) == 1:
        return None
    return {
        "coordinator_address": coordinator,
        "num_processes": int(processes),
        "process_id": int(process_id),
        "cluster_detection_method": "deactivate",
    }


def _count(environ: Mapping[str, str], name: str) -> int:
    value = environ.get(name, "")
    return int(value) if value.isdecimal() else 0


def _tpu_vm_workers(environ: Mapping[str, str]) -> int:
    """How many hosts the slice of this Cloud TPU VM has, from the metadata server that JAX asks too; else 0."""
    # On import JAX sets TPU_SKIP_MDS_QUERY where the machine has no TPU chip, so a laptop is never kept waiting.
    if "TPU_SKIP_MDS_QUERY" in environ or importlib.util.find_spec("libtpu") is None:
        return 0
    server = environ.get("GCE_METADATA_IP", "metadata.google.internal")
    request = urllib.request.Request(
        f"http://{server}/computeMetadata/v1/instance/attributes/worker-network-endpoints",
        headers={"Metadata-Flavor": "Google"},
    )
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=5) as answer:
            return len(answer.read(1 << 20).split(b","))
    except OSError:
        return 0


def wait_for_coordinator(address: str, timeout: float) -> None:
    """Wait until process 0 listens at `address` (host:port); WorkError after `timeout` seconds."""
    host, _, port = address.rpartition(":")
    end = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > end:
                raise WorkError(
                    f"Process 0 could not be reached at {address} within {timeout:.0f} s: {error}.\n"
                    "  hint:     check that process 0 runs, that its host name resolves here, and the firewall"
                ) from error
        time.sleep(0.2)


def _gather(text: str) -> list[str]:
    """The texts of all processes, on every process."""
    data = np.frombuffer(text.encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(data.size))  # (processes,)
    padded = np.zeros(sizes.max(), np.uint8)
    padded[: data.size] = data
    rows = multihost_utils.process_allgather(padded)  # (processes, longest)
    return [row[:size].tobytes().decode() for row, size in zip(rows, sizes, strict=True)]


def _raise_once(error: InputError | WorkError) -> NoReturn:
    """Raise an error that every process knows of: on process 0, to be read; elsewhere leave with its status."""
    if is_main_process():
        raise error
    raise SystemExit(2 if isinstance(error, InputError) else 1)


def _flatten(value: Any, name: str = "") -> dict[str, str]:
    if isinstance(value, Mapping):
        parts = [_flatten(value[key], f"{name}.{key}".lstrip(".")) for key in value]
        return {field: text for part in parts for field, text in part.items()}
    return {name: json.dumps(value)}


def _differences(left: dict[str, str], right: dict[str, str]) -> list[str]:
    return [field for field in left | right if left.get(field) != right.get(field)]


def _show(fields: dict[str, str], names: list[str]) -> str:
    shown = ", ".join(f"{name or 'value'} = {fields.get(name, 'not set')}" for name in names[:4])
    return shown + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _processes(numbers: list[int]) -> str:
    return f"process{'es' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"
