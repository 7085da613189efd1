"""Stands for mednext-jax in a SLURM task: joins the others, agrees with them on the call, sums over all devices."""

from __future__ import annotations

import os
import sys

import jax
import jax.numpy as jnp
from jax.experimental import multihost_utils

from mednext_jax.parallel import processes

processes.initialise()
processes.agree("call", sys.argv[1:])
total = multihost_utils.process_allgather(jnp.float32(jax.process_index() + 1)).sum()
# One write per line: the tasks share their output, and print writes the end of the line apart.
line = f"task {jax.process_index()} of {jax.process_count()}: {' '.join(sys.argv[1:])}: sum {total:.0f}\n"
os.write(sys.stdout.fileno(), line.encode())
