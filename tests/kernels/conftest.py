"""The kernels run in Triton's interpreter here, which has to be asked for before they are defined."""

import os
from collections.abc import Iterator

import pytest

os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture
def interpreter() -> Iterator[None]:
    """The kernels in Triton's interpreter. Skipped where Triton or PyTorch, whose tensors it works on, is missing."""
    pytest.importorskip("triton")
    pytest.importorskip("torch")
    from tests.kernels.interpreter import interpreted_kernels

    with interpreted_kernels():
        yield
