"""Weights and inputs of the golden cases, rebuilt bit for bit from seeds, and the stored outputs.

The outputs are those of MIC-DKFZ's own code in float64 (tests/data/golden/golden.json). Unit-variance uniforms come
from raw PCG64 bits by IEEE +, *, / alone, so that any machine and NumPy builds the same ones.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from pathlib import Path

import numpy as np

from mednext_jax.model.config import MedNeXtConfig
from mednext_jax.weights.names import expected_shapes

FOLDER = Path(__file__).parent / "data" / "golden"
_FACTS = json.loads((FOLDER / "golden.json").read_text())
_SEED = _FACTS["seed"]

CONFIGS = {
    "S_k3": MedNeXtConfig.variant("S", kernel_size=3, num_classes=3),
    "B_k5_ds": MedNeXtConfig.variant("B", kernel_size=5, num_classes=3, deep_supervision=True),
    "L_k5": MedNeXtConfig.variant("L", kernel_size=5, num_classes=3),
}


def unit_uniform(shape: tuple[int, ...], tag: str) -> np.ndarray:
    """float64 uniforms of mean 0 and variance 1, one stream per tag."""
    bits = np.random.PCG64(np.random.SeedSequence([_SEED, zlib.crc32(tag.encode())]))
    raw = (bits.random_raw(int(np.prod(shape))) >> np.uint64(32)).astype(np.float64)
    return (((raw + 0.5) / 4294967296.0 - 0.5) * 3.4641016151377544).reshape(shape)


def state_dict(config: MedNeXtConfig) -> dict[str, np.ndarray]:
    """PyTorch key -> float32 array; norms are not the identity, so that a mix-up of names shows."""
    state = {}
    for key, shape in expected_shapes(config).items():
        values = unit_uniform(shape, key)
        if key == "dummy_tensor":
            values = np.ones(shape)
        elif key.endswith("norm.weight"):
            values = 1.0 + 0.1 * values
        elif key.endswith("bias") or "grn_beta" in key:
            values = 0.1 * values
        elif "grn_gamma" in key:
            values = 0.5 * values
        else:
            transposed = key.startswith("out_") or (key.startswith("up_") and ".res_conv." in key)
            values = values / np.sqrt(float(shape[0] if transposed else max(1, int(np.prod(shape[1:])))))
        state[key] = values.astype(np.float32)
    return state


def golden_case(name: str) -> tuple[dict[str, np.ndarray], np.ndarray, list[np.ndarray]]:
    """State dict, input (1, 1, 32, 32, 32) and heads (1, 3, d, h, w), channels first; hashes are checked."""
    facts = _FACTS["cases"][name]
    state = state_dict(CONFIGS[name])
    weights = hashlib.sha256(b"".join(key.encode() + state[key].tobytes() for key in sorted(state)))
    assert weights.hexdigest() == facts["sha256_weights"]
    x = unit_uniform((1, 1, 32, 32, 32), f"input/{name}_32x32x32").astype(np.float32)
    assert hashlib.sha256(x.tobytes()).hexdigest() == facts["sha256_input"]
    with np.load(FOLDER / f"{name}.npz") as file:
        heads = [file[f"out_{i}"] for i in range(len(file.files))]
    assert hashlib.sha256(heads[0].tobytes()).hexdigest() == facts["sha256_out_0"]
    return state, x, heads
