"""How a run is told to stop, and how its processes decide together."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils


@contextlib.contextmanager
def stop_signal() -> Iterator[threading.Event]:
    """An event that SIGTERM and the first Ctrl-C set; a second Ctrl-C interrupts at once.

    Several processes stop together through JAX's preemption service instead, which has its own handler.
    """
    event = threading.Event()
    if jax.process_count() > 1 or threading.current_thread() is not threading.main_thread():
        yield event
        return

    def stop(number: int, frame: Any) -> None:
        if event.is_set() and number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # a third would break off the cleaning up
            raise KeyboardInterrupt
        event.set()

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def on_all(mine: bool, done: int) -> bool:
    """What the first process says, every tenth step; a process alone decides for itself at once."""
    if jax.process_count() == 1:
        return mine
    return done % 10 == 0 and bool(multihost_utils.broadcast_one_to_all(np.asarray(mine)))
