"""One MedNeXt block of the GPU tools, forward and backward in PyTorch: the float32 that the kernels are held to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import torch
from torch import Tensor

from mednext_jax.model.config import MedNeXtConfig
from tools.gpu.cases import Case, draw
from tools.torch_reference import Block, DownBlock, UpBlock

OUTPUT_TOLERANCE, GRADIENT_TOLERANCE = 5e-3, 1e-2  # relative L2 of bfloat16 against float32
_KINDS: dict[str, type[Block]] = {"block": Block, "down": DownBlock, "up": UpBlock}


def check(case: Case) -> tuple[bool, str]:
    """Whether a block with fresh weights, its output and all its gradients, is as near to float32 as bfloat16 is.

    Also says how near. The output's gradient is drawn, too: from the output itself the norm takes away so much that
    the kernel's gradient is left with bfloat16's rounding, 1.5 % of it.
    """
    g, *arguments = draw((case.output, *case.arguments()))
    output, gradient = largest_error(case, arguments, g, *jax.jit(case.forward_and_backward)(g, *arguments))
    good = output < OUTPUT_TOLERANCE and gradient < GRADIENT_TOLERANCE
    return good, f"output {output:.1e} gradients {gradient:.1e}"


def largest_error(
    case: Case, arguments: Sequence[Any], g: jax.Array, found: jax.Array, gradients: Any
) -> tuple[float, float]:
    """The relative L2 distance of a block's output from float32, and the largest of its gradients'.

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
    # The bias before an instance norm (the third) has gradient 0, of which PyTorch returns rounding.
    pairs = [pair for i, pair in enumerate(zip(jax.tree.leaves(gradients), expected, strict=True)) if i != 2]
    return _distance(got, y.detach()), max(_distance(_tensor(ours), theirs) for ours, theirs in pairs)


def _tensor(array: jax.Array) -> Tensor:
    return torch.from_dlpack(array)


def _distance(found: Tensor, expected: Tensor) -> float:
    expected = expected.double()
    return float(torch.linalg.vector_norm(found.double() - expected) / torch.linalg.vector_norm(expected))
