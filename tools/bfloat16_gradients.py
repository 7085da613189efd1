"""How far bfloat16 takes each gradient of one MedNeXt block from float32, by the number of voxels that it sums over.

    python -m tools.bfloat16_gradients --extents 32 64 96 128

One block of 32 channels, kernel 3, XLA's operations on the CPU, the same bfloat16 images; relative L2. It is the
measure for the kernels' gradients: the depthwise kernel's sums over products that nearly cancel, because the norm has
taken mean and slope out of what comes back, so bfloat16's rounding of that weighs the more, the more voxels there are.
"""

from __future__ import annotations

import argparse

import jax
import jax.numpy as jnp
import numpy as np

from mednext_jax.ops.local import LocalOps
from mednext_jax.ops.mlp import MLPWeights

CHANNELS, HIDDEN = 32, 64
NAMES = ("input", "depthwise kernel", "depthwise bias", "gamma", "beta", "W1", "b1", "W2", "b2")


def errors(extent: int, batch: int) -> tuple[float, dict[str, float]]:
    """Errors of the output and of each gradient but the depthwise bias's, which is 0 before an instance norm."""
    shapes = [(3, 3, 3, CHANNELS), *[(CHANNELS,)] * 3, (CHANNELS, HIDDEN), (HIDDEN,), (HIDDEN, CHANNELS), (CHANNELS,)]
    keys = iter(jax.random.split(jax.random.key(0), len(shapes) + 2))
    kernel, bias, *mlp = (jax.random.normal(next(keys), s) * np.prod(s[:-1]) ** -0.5 for s in shapes)
    images = [jax.random.normal(next(keys), (batch, *(extent,) * 3, CHANNELS)).astype(jnp.bfloat16) for _ in range(2)]

    @jax.jit
    def run(x: jax.Array, g: jax.Array) -> tuple[jax.Array, list[jax.Array]]:
        def block(x, conv, weights):
            return LocalOps("cpu").block(x, conv, weights, residual=True)

        y, pull = jax.vjp(block, x, (kernel, bias), MLPWeights(*mlp))
        return y, jax.tree.leaves(pull(g))

    rounded, exact = run(*images), run(*(a.astype(jnp.float32) for a in images))
    far = [_distance(a, b) for a, b in zip(rounded[1], exact[1], strict=True)]
    found = dict(zip(NAMES, far, strict=True))
    del found["depthwise bias"]
    return _distance(rounded[0], exact[0]), found


def _distance(found: jax.Array, expected: jax.Array) -> float:
    a, b = (np.asarray(array, np.float64) for array in (found, expected))
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--extents", type=int, nargs="+", default=[32, 64])
    parser.add_argument("--batch", type=int, default=1)
    options = parser.parse_args()
    for extent in options.extents:
        output, gradients = errors(extent, options.batch)
        said = ", ".join(f"{name} {far:.1e}" for name, far in gradients.items())
        print(f"{extent}^3 x {options.batch}: output {output:.1e}; gradients: {said}", flush=True)


if __name__ == "__main__":
    main()
