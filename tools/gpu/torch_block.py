"""One MedNeXt block of the GPU tools, forward and backward in PyTorch: the float32 that the kernels are held to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import torch
from torch import Tensor

from mednext_jax.kernels.self_check import GRADIENT_LIMIT, NOT_COMPARED, OUTPUT_LIMIT, draw, gradient_names
from mednext_jax.model.config import MedNeXtConfig
from tools.gpu.cases import Case
from tools.torch_reference import Block, DownBlock, UpBlock

# How many voxels a gradient may sum over before bfloat16 itself takes the depthwise kernel's beyond the limit. From
# there on it grows as XLA's own does on the way to 128^3, 3.3 times for each doubling of the extents
# (`python -m tools.bfloat16_gradients --extents 32 64 128`).
_FEW_VOXELS, _GROWTH = 64**3, 0.6
_KINDS: dict[str, type[Block]] = {"block": Block, "down": DownBlock, "up": UpBlock}


def check(case: Case) -> tuple[bool, str]:
    """Whether a block with fresh weights, its output and all its gradients, is as near to float32 as bfloat16 is.

    Also says how near, and which gradient is the farthest from what it may be.
    """
    g, *arguments = draw((case.output, *case.arguments()))
    output, gradients = distances(case, arguments, g, *jax.jit(case.forward_and_backward)(g, *arguments))
    allowed = {name: limit_of(name, case.batch * math.prod(case.output.shape[2:])) for name in gradients}
    good = output <= OUTPUT_LIMIT and all(error <= allowed[name] for name, error in gradients.items())
    name = max(gradients, key=lambda name: (math.isnan(gradients[name]), gradients[name] / allowed[name]))
    return good, f"output {output:.1e} gradients {gradients[name]:.1e} ({name}, at most {allowed[name]:.1e})"


def limit_of(name: str, voxels: int) -> float:
    """What bfloat16 may take a gradient from float32, relative L2, where it sums over `voxels`."""
    grown = (voxels / _FEW_VOXELS) ** _GROWTH if name == "depthwise kernel" else 1.0
    return GRADIENT_LIMIT * max(1.0, grown)


def distances(
    case: Case, arguments: Sequence[Any], g: jax.Array, found: jax.Array, gradients: Any
) -> tuple[float, dict[str, float]]:
    """The relative L2 distance of a block's output from float32, and of each gradient by name.

    `gradients` are those of all `arguments` for the gradient g at the output, as of `Case.forward_and_backward`.
    """
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    given = [_tensor(leaf).float() for leaf in jax.tree.leaves(arguments)]
    skip = given.pop() if case.kind == "up" else None
    x, kernel, bias, scale, shift, expand, expand_bias, compress, compress_bias, *residual = given
    ratio, k = case.hidden // case.channels, case.kernel_size
    fields = MedNeXtConfig.variant("S"), case.channels, case.out_channels, ratio, k, False, True
    block = _KINDS[case.kind](*fields).to(x.device)
    # By parameter: the value in PyTorch's layout, and how its gradient comes back to ours.
    matrix = (lambda w: w.T[..., None, None, None]), (lambda g: g[..., 0, 0, 0].T)
    straight = (lambda w: w[..., None, None, None]), (lambda g: g[..., 0, 0, 0])
    depthwise = (lambda w: w.permute(3, 0, 1, 2)[:, None]), (lambda g: g[:, 0].permute(1, 2, 3, 0))
    same = (lambda w: w), (lambda g: g)
    there = [
        (block.conv1.weight, kernel, depthwise),
        (block.conv1.bias, bias, same),
        (block.norm.weight, scale, same),
        (block.norm.bias, shift, same),
        (block.conv2.weight, expand, matrix),
        (block.conv2.bias, expand_bias, same),
        (block.conv3.weight, compress, matrix),
        (block.conv3.bias, compress_bias, same),
    ]
    if residual:
        there.append((block.res_conv.weight, residual[0], straight if case.kind == "up" else matrix))
        there.append((block.res_conv.bias, residual[1], same))
    with torch.no_grad():
        for parameter, value, (to_torch, _) in there:
            parameter.copy_(to_torch(value))
    x.requires_grad_()
    y = block(x) if skip is None else block(x) + skip
    got, pulled = _tensor(found), _tensor(g).float()
    y.backward(pulled)
    expected = [x.grad, *(back(parameter.grad) for parameter, _, (_, back) in there)]
    if skip is not None:
        expected.append(pulled)
    pairs = zip(gradient_names(case.kind_of_block), jax.tree.leaves(gradients), expected, strict=True)
    far = {name: _distance(_tensor(ours), theirs) for name, ours, theirs in pairs}
    del far[NOT_COMPARED]
    return _distance(got, y.detach()), far


def _tensor(array: jax.Array) -> Tensor:
    return torch.from_dlpack(array)


def _distance(found: Tensor, expected: Tensor) -> float:
    expected = expected.double()
    return float(torch.linalg.vector_norm(found.double() - expected) / torch.linalg.vector_norm(expected))
