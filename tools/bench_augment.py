"""What augmentation costs beside a training step: `python -m tools.bench_augment [VARIANT/KERNEL] [PATCH]`.

Prints the mean time of nnU-Net's default augmentation of one sample over many draws, that of one training step of the
network for one sample, and their ratio.
"""

from __future__ import annotations

import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from mednext_jax.data.augment import make_augment, read_size
from mednext_jax.model.config import MedNeXtConfig
from mednext_jax.ops.local import LocalOps
from mednext_jax.parallel.mesh import make_mesh
from mednext_jax.train.configuration import TrainConfig
from tools.training_step import seconds_of_a_step, step_of_network

DRAWS, STEPS = 40, 3


def main(variant: str = "S/3", patch: str = "64") -> None:
    name, kernel = variant.split("/")
    config = TrainConfig(batch_size=1, patch_size=(int(patch),) * 3)
    mesh = make_mesh(devices=jax.devices()[:1])
    augment = make_augment(config.augment, config.patch_size, mesh, labels=(0, 1))
    rng = np.random.default_rng(0)
    size = read_size(config.augment, config.patch_size)
    image = jnp.asarray(rng.normal(size=(1, *size, 1)), jnp.float32)
    label = jnp.asarray(rng.random((1, *size)) > 0.99, jnp.int16)
    row = jnp.zeros(1, jnp.int32)

    compiled = jax.jit(augment)
    read = {"row": row, "image": image, "label": label}
    jax.block_until_ready(compiled(jax.random.key(0), read))
    start = time.perf_counter()
    for draw in range(DRAWS):
        jax.block_until_ready(compiled(jax.random.key(draw), read))
    augmentation = (time.perf_counter() - start) / DRAWS

    network = MedNeXtConfig.variant(name, kernel_size=int(kernel), deep_supervision=True)
    training = seconds_of_a_step(*step_of_network(network, LocalOps(), int(patch), 1), STEPS)

    print(f"{jax.devices()[0].device_kind}, MedNeXt-{name} k{kernel}, {patch}^3 from {size[0]}^3")
    print(f"augmentation {1e3 * augmentation:.1f} ms a sample, step {1e3 * training:.1f} ms a sample")
    print(f"ratio {augmentation / training:.1%}")


if __name__ == "__main__":
    main(*sys.argv[1:])
