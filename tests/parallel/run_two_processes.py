"""One of the processes that test_processes.py starts: joins, sums over all devices, agrees, then disagrees."""

from __future__ import annotations

import sys

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from mednext_jax.errors import InputError
from mednext_jax.parallel import processes

processes.initialise()
here = jax.process_index()
mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
sharding = NamedSharding(mesh, PartitionSpec("data"))
rows = jax.make_array_from_process_local_data(sharding, np.full(jax.local_device_count(), here + 1.0, np.float32))
total = jax.jit(lambda x: x.sum(), out_shardings=NamedSharding(mesh, PartitionSpec()))(rows)
print("sum", float(total.addressable_data(0)), "of", jax.process_count(), "main", processes.is_main_process())

processes.agree("code version", processes.code_version())
processes.agree("config", {"optimiser": {"lr": 0.01}, "patch": [32, 32, 32]})
with processes.checked_together():
    pass
print("agreed", flush=True)


def stopped(check) -> str:
    """How a check ended here: with an error to read, or quietly."""
    try:
        check()
    except InputError as error:
        return f"InputError {error}"
    except SystemExit as error:
        return f"exit {error.code}"
    return "nothing"


def different_config() -> None:
    processes.agree("config", {"optimiser": {"lr": 0.01 * (1 + here)}, "patch": [32, 32, 32]})


def data_missing_on_one() -> None:
    with processes.checked_together():
        if here == 1:
            raise InputError("There is no data.", file="/data/prepared")


def wrong_call_everywhere() -> None:
    with processes.checked_together():
        raise InputError("The mesh does not divide the batch.")


for check in (different_config, data_missing_on_one, wrong_call_everywhere):
    print(f"<{check.__name__}>{stopped(check)}</{check.__name__}>", flush=True)

if "fail" in sys.argv:
    with processes.leaving_at_once():
        if here == 1:
            raise OSError("the disk is full")
        processes.agree("the next step", 1)  # waits for process 1, in vain
