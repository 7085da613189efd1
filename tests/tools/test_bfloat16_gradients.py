"""The tool that says how far bfloat16 takes each gradient of a block from float32."""

from __future__ import annotations

import pytest

from tools.bfloat16_gradients import NAMES, errors

pytestmark = pytest.mark.core


def test_every_gradient_has_its_distance():
    output, gradients = errors(8, batch=2)
    assert list(gradients) == [name for name in NAMES if name != "depthwise bias"]
    # Bfloat16 has 8 bits: a value is off by up to 2e-3 of itself, and a few roundings add up. The last bias's gradient
    # is a sum of the given image, which is exact.
    assert gradients.pop("b2") < 1e-6
    assert all(5e-4 < far < 3e-2 for far in [output, *gradients.values()])
