"""The kernels run in Triton's interpreter here, which has to be asked for before they are defined."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.kernels.simulated import Checks

os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture
def interpreter() -> Iterator[None]:
    """The kernels in Triton's interpreter. Skipped where Triton or PyTorch, whose tensors it works on, is missing."""
    pytest.importorskip("triton")
    pytest.importorskip("torch")
    from tests.kernels.interpreter import interpreted_kernels

    with interpreted_kernels():
        yield


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Checks]:
    """In place of the measuring on a GPU; a machine that knows nothing yet and keeps what it learns in `tmp_path`."""
    from mednext_jax.kernels import self_check
    from mednext_jax.kernels.gpus import tell_once
    from tests.kernels.simulated import Checks, start_anew

    found = Checks()
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(self_check, "measure", found)
    tell_once.cache_clear()
    start_anew()
    yield found
    start_anew()
