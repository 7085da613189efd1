"""Generated patches are those of their rows, on whatever mesh."""

from __future__ import annotations

import jax
import numpy as np

from mednext_jax.parallel.mesh import make_mesh
from mednext_jax.simulate.anatomy import anatomy_of
from mednext_jax.simulate.generator_config import GeneratorConfig
from mednext_jax.train.generated import Generator
from tests.simulate.heads import head_map

LITTLE = GeneratorConfig(texture=False, confounders=False, acquisition=False, hippocampus=(0, 0), midbrain=(0, 0))


def test_a_patch_is_a_function_of_seed_step_and_row_whatever_the_mesh():
    anatomies, made = [anatomy_of("small", head_map())], []
    for data, space in ((1, 1), (4, 2)):
        mesh = make_mesh(data, space, devices=jax.devices()[: data * space])
        generator = Generator(LITTLE, anatomies, (16, 16, 16), mesh)
        batch = {"row": np.arange(4, dtype=np.int32), "anatomies": generator.anatomies}
        image, label = jax.jit(generator.patches)(jax.random.key(7), batch)
        made.append((np.asarray(image), np.asarray(label)))
    (image, label), (spread_image, spread_label) = made
    assert image.shape == (4, 16, 16, 16, 1) and label.dtype == np.int32
    assert len({one.tobytes() for one in image}) == 4
    # Two programs, one of one row and one of four, which the compiler may fuse otherwise.
    np.testing.assert_allclose(spread_image, image, atol=1e-4)
    assert (spread_label != label).mean() < 1e-3
