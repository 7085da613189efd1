"""The forms that are compared are forms of the same thing."""

from __future__ import annotations

import jax
import numpy as np

from tools.tpu_forms import K, forms


def test_forms_agree():
    random = np.random.default_rng(0)
    x = random.standard_normal((2, 4, 3, 6, 2)).astype(np.float32)
    kernel = random.standard_normal((K, K, K, 2)).astype(np.float32)
    known = forms()
    by_input, by_kernel = known.pop("gradients")(x, kernel)
    banded, transpose = jax.vjp(known["banded"], x, kernel)
    np.testing.assert_allclose(by_input, transpose(x)[0], rtol=0, atol=1e-4)
    np.testing.assert_allclose(by_kernel, transpose(x)[1], rtol=0, atol=1e-4)
    for form in known.values():
        # Sums of 125 products of order 1.
        np.testing.assert_allclose(jax.jit(form)(x, kernel), banded, rtol=0, atol=1e-5)
