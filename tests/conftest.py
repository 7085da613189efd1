"""Settings of the whole suite: the CPU, one device, float32 matmuls as they are on a CPU."""

from __future__ import annotations

import os

# Before any test imports JAX: a machine with a GPU runs the same suite.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
