"""A small whole head as an anatomy, and two compiled generators of patches in it that the tests of this folder share.

Compiling is what these tests cost: one program without a scanner, one with everything.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mednext_jax.simulate import tissues
from mednext_jax.simulate.anatomy import anatomy_of, stacked
from mednext_jax.simulate.generator import generate
from mednext_jax.simulate.generator_config import GeneratorConfig
from tests.simulate.heads import head_map

# Nothing between what is painted and what is seen, and no scatter of signals: what a patch must hold can be computed.
PLAIN = GeneratorConfig(
    texture=False,
    confounders=False,
    acquisition=False,
    scaling=0.05,
    elastic=(0.0, 1.0),
    signal_scatter=0.0,
    contrast_gain=(1.0, 1.0),
    fluid_offset=0.0,
    strength=(0.5, 0.5),
    bias=(0.0, 0.0),
    edge_offset=(2.0, 2.0),
    edge_waves=0.0,
    normalisation_error=0.0,
    lesions_as_output=False,
)
SLAB = (16, 24, 112)  # from one side of the head to the other
# LLVM's optimisation takes most of a compilation.
QUICKLY = {"xla_backend_optimization_level": 0}


@pytest.fixture(scope="session")
def small_head():
    """The anatomy of `head_map`."""
    return anatomy_of("small", head_map())


@pytest.fixture(scope="session")
def arrays(small_head):
    return {name: jnp.asarray(array) for name, array in stacked([small_head]).items()}


@pytest.fixture(scope="session")
def plain(arrays):
    """(seed, family name, extracted) -> a `PLAIN` slab of the whole head's middle, with all of its tubes."""
    made = jax.jit(functools.partial(generate, config=PLAIN, shape=SLAB, whole=True), compiler_options=QUICKLY)

    @functools.cache
    def patch(seed=0, family="T1w", extracted=True):
        number = tissues.FAMILIES.index(family)
        drawn = made(jax.random.key(seed), arrays, index=0, family=number, extracted=extracted)
        return jax.tree.map(np.asarray, drawn)

    return patch


@pytest.fixture(scope="session")
def complete(arrays):
    """(seed, family name) -> a patch with everything that the defaults draw."""
    made = jax.jit(functools.partial(generate, config=GeneratorConfig(), shape=(24, 24, 24)), compiler_options=QUICKLY)

    @functools.cache
    def patch(seed=0, family="T1w"):
        drawn = made(jax.random.key(seed), arrays, family=tissues.FAMILIES.index(family))
        return jax.tree.map(np.asarray, drawn)

    return patch
