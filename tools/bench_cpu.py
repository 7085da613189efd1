"""Time the network on this CPU, beside PyTorch under glibc's default allocator and under a tuned one.

    python tools/bench_cpu.py [--size 64] [--repeats 5] [--json FILE]

By default glibc maps and unmaps every large tensor of PyTorch's, and the page faults can cost more than the
arithmetic; the tuned setting keeps the memory. Every measurement runs alone in a process of its own, in rounds, so
that all columns see the same load. Where PyTorch is not installed its columns are empty.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CASES = {
    "S-k3 forward": ("S", 3, "forward"),
    "L-k5 forward": ("L", 5, "forward"),
    "S-k3 train step": ("S", 3, "train"),
}
TUNED = {
    "MALLOC_MMAP_THRESHOLD_": "100000000000",
    "MALLOC_TRIM_THRESHOLD_": "100000000000",
    "MALLOC_TOP_PAD_": "67108864",
}
WAYS: dict[str, tuple[str, dict[str, str]]] = {
    "jax": ("jax", {}),
    "torch": ("torch", {}),
    "torch tuned": ("torch", TUNED),
}
ROUNDS = 2


def time_jax(variant: str, kernel_size: int, what: str, size: int, repeats: int) -> dict[str, Any]:
    """Seconds of each repeat; a train step is loss, gradients and a plain descent step, float32, batch 1."""
    import jax
    import jax.numpy as jnp

    from mednext_jax import MedNeXt, MedNeXtConfig

    net = MedNeXt(MedNeXtConfig.variant(variant, kernel_size=kernel_size, num_classes=3))
    x = jax.random.normal(jax.random.key(1), (1, size, size, size, 1))
    params = net.init(jax.random.key(0), x)["params"]

    def loss(params: Any) -> Any:
        return jnp.mean(jnp.square(net.apply({"params": params}, x)))

    def train(params: Any) -> Any:
        value, gradients = jax.value_and_grad(loss)(params)
        return jax.tree.map(lambda p, g: p - 1e-3 * g, params, gradients), value

    def forward(params: Any) -> Any:
        return net.apply({"params": params}, x)

    start = time.perf_counter()
    step = jax.jit({"forward": forward, "train": train}[what]).lower(params).compile()
    compiled = time.perf_counter() - start
    return {
        "seconds": _repeat(lambda: jax.block_until_ready(step(params)), repeats),
        "compile_seconds": compiled,
        "temporary_mib": step.memory_analysis().temp_size_in_bytes / 2**20,
        "version": jax.__version__,
    }


def time_torch(variant: str, kernel_size: int, what: str, size: int, repeats: int) -> dict[str, Any]:
    """Time of a pass in PyTorch, eager, channels first."""
    import torch

    from mednext_jax.model.config import MedNeXtConfig
    from tools.torch_reference import TorchMedNeXt

    torch.manual_seed(0)
    net = TorchMedNeXt(MedNeXtConfig.variant(variant, kernel_size=kernel_size, num_classes=3))
    x = torch.randn(1, 1, size, size, size)

    def forward() -> None:
        with torch.inference_mode():
            net(x)

    def train() -> None:
        net.zero_grad(set_to_none=True)
        net(x).square().mean().backward()
        with torch.no_grad():
            for parameter in net.parameters():
                if parameter.grad is not None:
                    parameter -= 1e-3 * parameter.grad

    seconds = _repeat({"forward": forward, "train": train}[what], repeats)
    return {"seconds": seconds, "version": torch.__version__, "threads": torch.get_num_threads()}


def _repeat(call: Callable[[], Any], repeats: int) -> list[float]:
    call()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return seconds


def _measure(way: str, case: str, size: int, repeats: int) -> dict[str, Any]:
    library, environment = WAYS[way]
    command = [sys.executable, __file__, "--one", library, "--case", case]
    command += ["--size", str(size), "--repeats", str(repeats)]
    variables = {**os.environ, **environment, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=variables, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{way}, {case} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=64, help="extent of the cubic input (default 64)")
    parser.add_argument("--repeats", type=int, default=5, help="timed calls a round (default 5)")
    parser.add_argument("--json", type=Path, help="also write every figure to this file")
    parser.add_argument("--case", choices=CASES, help="only this one")
    parser.add_argument("--one", choices=("jax", "torch"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        timer = {"jax": time_jax, "torch": time_torch}[arguments.one]
        print(json.dumps(timer(*CASES[arguments.case], arguments.size, arguments.repeats)))
        return

    ways = [way for way in WAYS if way == "jax" or importlib.util.find_spec("torch")]
    results: dict[str, dict[str, dict[str, Any]]] = {}
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, float32, batch 1, {arguments.size}^3")
    print(f"median seconds (fastest - slowest) of {ROUNDS} x {arguments.repeats}; ratio: times slower than jax\n")
    for case in [arguments.case] if arguments.case else CASES:
        rounds: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
        for _ in range(ROUNDS):
            for way in ways:
                rounds[way].append(_measure(way, case, arguments.size, arguments.repeats))
        results[case] = {}
        for way in ways:
            seconds = sorted(second for result in rounds[way] for second in result["seconds"])
            median = statistics.median(seconds)
            results[case][way] = {**rounds[way][0], "seconds": seconds, "median": median}
            ratio = median / results[case]["jax"]["median"]
            note = f"compile {rounds[way][0]['compile_seconds']:.0f} s" if way == "jax" else f"ratio {ratio:.2f}"
            print(f"{case:16} {way:12} {median:7.3f} ({seconds[0]:.3f} - {seconds[-1]:.3f})  {note}", flush=True)
    if arguments.json:
        facts = {"size": arguments.size, "cores": os.cpu_count(), "python": platform.python_version()}
        arguments.json.write_text(json.dumps({**facts, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
