"""Tests that need eight devices. `tests/parallel/test_on_eight_devices.py` runs them in a process that has them.

By hand: JAX_NUM_CPU_DEVICES=8 python -m pytest tests/parallel/on_eight_devices
"""

import os

if os.environ.get("JAX_NUM_CPU_DEVICES") != "8":
    collect_ignore_glob = ["test_*.py"]
