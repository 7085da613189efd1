"""Signals to a training: the first asks it to stop, a second Ctrl-C interrupts, a third changes nothing."""

from __future__ import annotations

import os
import signal

import pytest

from mednext_jax.train.stop import stop_signal

pytestmark = pytest.mark.core


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_signals_one_after_another(first):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    cleaned = False
    try:
        with pytest.raises(KeyboardInterrupt), stop_signal() as stopped:
            assert not stopped.is_set()
            os.kill(os.getpid(), first)
            assert stopped.wait(10)
            os.kill(os.getpid(), signal.SIGTERM)  # a scheduler's second
            try:
                os.kill(os.getpid(), signal.SIGINT)
                raise AssertionError("it was not interrupted")
            finally:
                os.kill(os.getpid(), signal.SIGINT)
                cleaned = True
        assert cleaned and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
