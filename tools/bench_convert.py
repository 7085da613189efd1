"""Time and memory of converting MedNeXt-L k5 (252 MB), each in a process of its own.

python tools/bench_convert.py            needs torch to write the file that is then read without it
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LIMIT_SECONDS, LIMIT_GIB = 5.0, 1.0

_WRITE = """
import sys
import numpy as np
from mednext_jax.convert import to_torch
from mednext_jax.model.config import MedNeXtConfig
from mednext_jax.weights.names import expected_shapes, from_torch_names

config = MedNeXtConfig.variant("L", kernel_size=5, deep_supervision=True)
rng = np.random.default_rng(0)
state = {key: rng.standard_normal(shape, np.float32) for key, shape in expected_shapes(config).items()}
to_torch(sys.argv[1], config, from_torch_names(config, state))
"""
_MEASURE = """
import json, resource, sys, time
started = time.perf_counter()
from mednext_jax.convert.convert import convert, info
convert(sys.argv[1], sys.argv[2], to=sys.argv[3])
seconds = time.perf_counter() - started
print(json.dumps([seconds, time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20]))
"""


def measure(source: Path, target: Path, to: str) -> tuple[float, float, float]:
    """Wall and CPU seconds, imports included, and peak GiB of one conversion."""
    command = [sys.executable, "-c", _MEASURE, str(source), str(target), to]
    found = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    seconds, cpu, gib = json.loads(found.splitlines()[-1])
    return seconds, cpu, gib


def main() -> int:
    worst = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run([sys.executable, "-c", _WRITE, str(folder / "in.pt")], check=True)
        size = (folder / "in.pt").stat().st_size / 1e6
        started = time.perf_counter()
        (folder / "in.pt").read_bytes()
        print(f"MedNeXt-L k5, {size:.0f} MB; reading the file alone takes {time.perf_counter() - started:.2f} s")
        for label, source, target, to, bounded in (
            ("PyTorch -> model directory", "in.pt", "model", "mednext-jax", True),
            ("model directory -> PyTorch", "model", "out.pt", "mic", False),
        ):
            seconds, cpu, gib = measure(folder / source, folder / target, to)
            kept = seconds <= LIMIT_SECONDS and gib <= LIMIT_GIB
            limits = f"{'within' if kept else 'OVER'} {LIMIT_SECONDS:g} s and {LIMIT_GIB:g} GiB"
            verdict = limits if bounded else "imports torch"
            print(f"{label}: {seconds:.2f} s ({cpu:.2f} s of CPU), peak {gib:.2f} GiB ({verdict})")
            worst |= bounded and not kept
    return int(worst)


if __name__ == "__main__":
    sys.exit(main())
