"""All parameters' gradients of a probe loss against PyTorch in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mednext_jax import MedNeXt, MedNeXtConfig
from mednext_jax.ops.local import LocalOps
from mednext_jax.weights.names import from_torch_names
from tests.golden import state_dict, unit_uniform

torch = pytest.importorskip("torch")

SMALL = {"in_channels": 2, "num_classes": 3, "base_channels": 4, "block_counts": (1, 2, 1, 1, 1, 1, 1, 1, 1)}
CONFIGS = {
    "plain": MedNeXtConfig(**SMALL, decoder_kernel_size=5, expansion_ratios=(2, 3, 4, 2, 1, 2, 3, 1, 2)),
    "response norm, five heads": MedNeXtConfig(**SMALL, grn=True, deep_supervision=True),
    "as many equal blocks as are a loop on TPUs": MedNeXtConfig(
        **SMALL | {"block_counts": (1, 2, 1, 1, 5, 1, 1, 1, 1)}, grn=True, deep_supervision=True
    ),
    "layer norm, other switches": MedNeXtConfig(
        **SMALL,
        norm="layer",
        residual=False,
        residual_resampling=False,
        down_expansion="monai",
        expansion_ratios=(1, 2, 1, 3, 1, 1, 1, 1, 1),
    ),
}


# A TPU's forms run anywhere, slowly.
@pytest.mark.parametrize(("name", "platform"), [(n, "tpu" if "TPU" in n else "cpu") for n in CONFIGS])
def test_gradients_are_pytorchs(name, platform):
    from tools.torch_reference import TorchMedNeXt

    config = CONFIGS[name]
    state = state_dict(config)
    # Two voxels at the bottleneck leave a norm all but undefined: extents unlike, and three times sixteen.
    x = unit_uniform((2, 2, 32, 16, 48), "x")
    theirs = TorchMedNeXt(config).double()
    theirs.load_state_dict({key: torch.from_numpy(value) for key, value in state.items()})
    outputs = theirs(torch.from_numpy(x))
    outputs = outputs if config.deep_supervision else [outputs]
    probes = [unit_uniform(tuple(output.shape), f"probe {i}") for i, output in enumerate(outputs)]
    loss = sum((o * torch.from_numpy(probe)).mean() for o, probe in zip(outputs, probes, strict=True))
    loss.backward()
    gradients = {key: p.grad.numpy() for key, p in theirs.named_parameters() if p.grad is not None}
    assert set(gradients) == set(state) - {"dummy_tensor"}

    def ours(params):
        net, image = MedNeXt(config, LocalOps(platform=platform)), np.moveaxis(x, 1, -1).astype(np.float32)
        logits = net.apply({"params": params}, image)
        logits = logits if config.deep_supervision else (logits,)
        return sum(jnp.mean(o * np.moveaxis(p, 1, -1)) for o, p in zip(logits, probes, strict=True)), logits

    # LLVM's optimisation would take most of the compiler's time, and the program runs once.
    step = jax.jit(jax.value_and_grad(ours, has_aux=True), compiler_options={"xla_backend_optimization_level": 0})
    (value, logits), slopes = step(from_torch_names(config, state))
    assert abs(float(value) - loss.item()) < 1e-5
    for o, t in zip(logits, outputs, strict=True):
        np.testing.assert_allclose(np.moveaxis(o, -1, 1), t.detach().numpy(), rtol=0, atol=5e-5)
    expected = from_torch_names(config, gradients)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))
    for (path, got), want in zip(jax.tree_util.tree_leaves_with_path(slopes), jax.tree.leaves(expected), strict=True):
        # float32 through some forty layers. A depthwise bias in front of a norm has gradient 0, here rounding noise.
        tolerance = 2e-4 * np.abs(want).max() + 1e-6 * largest
        np.testing.assert_allclose(got, want, rtol=0, atol=tolerance, err_msg=jax.tree_util.keystr(path))
