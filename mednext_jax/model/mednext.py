"""MedNeXt v1 (Roy et al., MICCAI 2023, arXiv 2303.09975): a fully ConvNeXt 3-D U-Net."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from mednext_jax.errors import InputError
from mednext_jax.model.blocks import ConvWeights, MedNeXtBlock, MedNeXtDownBlock, MedNeXtUpBlock
from mednext_jax.model.config import EXTENT_MULTIPLE, LEVELS, STAGES, MedNeXtConfig
from mednext_jax.ops.local import LocalOps


class MedNeXt(nn.Module):
    """`x` (n, d, h, w, in_channels) -> logits (n, d, h, w, num_classes) float32.

    With `deep_supervision` a tuple of five, full resolution first, the i-th with extents divided by 2**i. The result
    depends on the extents, not only locally: norms run over the whole of `x` and keep no running statistics. With
    extents of 16 the bottleneck norm sees one voxel and yields its bias (PyTorch raises there).

    Parameters: nested dict whose path is PyTorch's key, e.g. params["enc_block_0"]["1"]["conv1"]["kernel"].
    Raises `InputError` if `x` has not five axes, other channels, or extents that are not multiples of 16.
    Follows MIC-DKFZ/MedNeXt `mednextv1`, number for number.
    """

    config: MedNeXtConfig
    ops: LocalOps = LocalOps()

    @nn.compact
    def __call__(self, x: Array) -> Array | tuple[Array, ...]:
        config, ops = self.config, self.ops
        _check_input(x, config, ops)
        channels = config.stage_channels

        x = ops.enter(x.astype(config.dtype))
        x = ops.pointwise(x, *ConvWeights((config.in_channels, channels[0]), name="stem")())
        skips = []
        for level in range(LEVELS):
            x = Stage(config, ops, level, config.encoder_kernel_size, name=f"enc_block_{level}")(x)
            skips.append(x)
            x = _block(MedNeXtDownBlock, config, ops)(
                *(channels[level], channels[level + 1], config.down_expansion_ratios[level]),
                config.encoder_kernel_size,
                grn=config.down_grn[level],
                residual=config.residual_resampling,
                name=f"down_{level}",
            )(x)
        x = Stage(config, ops, LEVELS, config.decoder_kernel_size, name="bottleneck")(x)
        features = [x]
        for stage in range(LEVELS + 1, STAGES):
            level = STAGES - 1 - stage
            x = _block(MedNeXtUpBlock, config, ops)(
                *(channels[stage - 1], channels[stage], config.expansion_ratios[stage]),
                config.decoder_kernel_size,
                grn=config.grn,
                residual=config.residual_resampling,
                name=f"up_{level}",
            )(x, skips[level])
            x = Stage(config, ops, stage, config.decoder_kernel_size, name=f"dec_block_{level}")(x)
            features.append(x)

        features.reverse()
        if not config.deep_supervision:
            return OutBlock(channels[0], config.num_classes, ops, name="out_0")(features[0])
        return tuple(
            OutBlock(channels[level], config.num_classes, ops, name=f"out_{level}")(feature)
            for level, feature in enumerate(features)
        )

    @nn.nowrap
    def init(self, rngs: Array | dict[str, Array], *args: Any, **kwargs: Any) -> Any:
        """init(key, x) -> {"params": ...}, PyTorch's default initialisation; of `x` only shape and type matter.

        Flax would draw each of the hundreds of arrays by itself, and compiling that takes half a minute.
        """
        bounds: dict[tuple[str, ...], float] = {}

        def note_convolution(
            method: Callable[..., Any], arguments: Any, options: Any, context: nn.module.InterceptorContext
        ) -> Any:
            if isinstance(context.module, ConvWeights):
                bounds[context.module.path] = context.module.half_width
            return method(*arguments, **options)

        with nn.intercept_methods(note_convolution):
            shapes = jax.eval_shape(functools.partial(super().init, **kwargs), rngs, *args)
        leaves, tree = jax.tree_util.tree_flatten_with_path(shapes)
        key = rngs["params"] if isinstance(rngs, dict) else rngs
        return jax.tree.unflatten(tree, _draw(key, [(_names(path), leaf.shape) for path, leaf in leaves], bounds))


class Stage(nn.Module):
    """The blocks of one of the nine stages, named "0", "1", ... as in PyTorch's nn.Sequential."""

    config: MedNeXtConfig
    ops: LocalOps
    stage: int
    kernel_size: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        config, count = self.config, self.config.block_counts[self.stage]
        channels = config.stage_channels[self.stage]
        block = functools.partial(
            _block(MedNeXtBlock, config, self.ops),
            *(channels, channels, config.expansion_ratios[self.stage]),
            self.kernel_size,
            grn=config.grn,
            residual=config.residual,
        )
        if self.ops.loops_over(count) and not self.is_initializing():
            params = [self.variables["params"][str(i)] for i in range(count)]
            alone: Any = block(parent=None)

            def turn(x: Array, params: Any) -> tuple[Array, None]:
                return alone.apply({"params": params}, x), None

            return jax.lax.scan(turn, x, jax.tree.map(lambda *leaves: jnp.stack(leaves), *params))[0]
        for i in range(count):
            x = block(name=str(i))(x)
        return x


class OutBlock(nn.Module):
    """A 1x1x1 transposed convolution to the classes; logits are float32."""

    in_channels: int
    num_classes: int
    ops: LocalOps

    @nn.compact
    def __call__(self, x: Array) -> Array:
        weights = ConvWeights((self.in_channels, self.num_classes), transposed=True, name="conv_out")()
        return self.ops.leave(self.ops.pointwise(x, *weights, dtype=jnp.float32))


def _block(block: type[nn.Module], config: MedNeXtConfig, ops: LocalOps) -> Callable[..., nn.Module]:
    """The class of a block with the fields that all blocks share, recomputed in the backward pass as configured."""
    # "dw" keeps each depthwise convolution's output: the costly op runs once, everything else twice.
    kept = {"none": None, "block": ["halo"], "dw": ["halo", "dw"]}[config.remat]
    if kept is not None:
        block = nn.remat(block, policy=jax.checkpoint_policies.save_only_these_names(*kept))
    return functools.partial(block, norm=config.norm, ops=ops)


def _check_input(x: Array, config: MedNeXtConfig, ops: LocalOps) -> None:
    if x.ndim != 5 or x.shape[-1] != config.in_channels:
        raise InputError(
            "the network's input has the wrong shape",
            expected=f"(n, d, h, w, {config.in_channels})",
            found=x.shape,
        )
    extents = ops.extents(x)
    if any(extent % EXTENT_MULTIPLE or extent == 0 for extent in extents):
        raise InputError(
            "the network's input has extents that cannot be halved four times",
            expected=f"(d, h, w) multiples of {EXTENT_MULTIPLE}",
            found=extents,
            hint="pad or crop the input; `Predictor` does it by itself",
        )


def _names(path: tuple[Any, ...]) -> tuple[str, ...]:
    return tuple(part.key for part in path)


def _draw(
    key: Array, leaves: list[tuple[tuple[str, ...], tuple[int, ...]]], bounds: dict[tuple[str, ...], float]
) -> list[Array]:
    """Values of parameters given as (path, shape); `bounds` is the half width of each convolution, by its path."""
    sizes = [math.prod(shape) for _, shape in leaves]
    numbers: Any = jax.random.uniform(key, (sum(sizes),), jnp.float32, -1, 1)
    if not isinstance(numbers, jax.core.Tracer):
        numbers = np.asarray(numbers)  # cut on the host: nothing to compile
    values = []
    for (path, shape), part in zip(leaves, _cut(numbers, sizes), strict=True):
        *module, name = path
        bound = bounds.get(tuple(module[1:]))
        if bound is None:
            values.append(jnp.full(shape, 1.0 if name == "scale" else 0.0))
        else:
            values.append(jnp.asarray(part.reshape(shape) * np.float32(bound)))
    return values


def _cut(numbers: Any, sizes: list[int]) -> list[Any]:
    ends = list(itertools.accumulate(sizes))
    return [numbers[end - size : end] for end, size in zip(ends, sizes, strict=True)]
