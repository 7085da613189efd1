"""MedNeXt v1 in PyTorch, with MIC-DKFZ's parameter names: what tests and benchmarks compare the JAX network with.

Written from the paper and from the names and shapes of MIC-DKFZ/MedNeXt's checkpoints; checked against outputs of
that code in tests/model/test_golden.py. Only tests/ and tools/ import it: the package itself never needs torch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from mednext_jax.model.config import LEVELS, STAGES, MedNeXtConfig


class LayerNorm(nn.Module):
    """Over the channels of each voxel of (n, c, d, h, w)."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        normed = functional.layer_norm(x.movedim(1, -1), self.weight.shape, self.weight, self.bias, eps=1e-5)
        return normed.movedim(-1, 1)


class Block(nn.Module):
    """The plain block; the down and up blocks replace its first convolution and add `res_conv`."""

    def __init__(self, config: MedNeXtConfig, cin: int, cout: int, ratio: int, k: int, grn: bool, residual: bool):
        super().__init__()
        self.residual, self.grn = residual, grn
        hidden = ratio * cin
        if grn:
            self.grn_beta = nn.Parameter(torch.zeros(1, hidden, 1, 1, 1))
            self.grn_gamma = nn.Parameter(torch.zeros(1, hidden, 1, 1, 1))
        self.conv1: nn.Module = nn.Conv3d(cin, cin, k, padding=k // 2, groups=cin)
        self.norm = nn.GroupNorm(cin, cin) if config.norm == "group" else LayerNorm(cin)
        self.conv2 = nn.Conv3d(cin, hidden, 1)
        self.conv3 = nn.Conv3d(hidden, cout, 1)

    def branch(self, x: Tensor) -> Tensor:
        h = functional.gelu(self.conv2(self.norm(self.conv1(x))))
        if self.grn:
            norm = torch.linalg.vector_norm(h, dim=(2, 3, 4), keepdim=True)
            response = norm / (norm.mean(1, keepdim=True) + 1e-6)
            h = self.grn_gamma * (h * response) + self.grn_beta + h
        return self.conv3(h)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x) if self.residual else self.branch(x)


class DownBlock(Block):
    def __init__(self, config: MedNeXtConfig, cin: int, cout: int, ratio: int, k: int, grn: bool, residual: bool):
        super().__init__(config, cin, cout, ratio, k, grn, residual)
        self.conv1 = nn.Conv3d(cin, cin, k, stride=2, padding=k // 2, groups=cin)
        if residual:
            self.res_conv = nn.Conv3d(cin, cout, 1, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.branch(x) + self.res_conv(x) if self.residual else self.branch(x)


class UpBlock(Block):
    def __init__(self, config: MedNeXtConfig, cin: int, cout: int, ratio: int, k: int, grn: bool, residual: bool):
        super().__init__(config, cin, cout, ratio, k, grn, residual)
        self.conv1 = nn.ConvTranspose3d(cin, cin, k, stride=2, padding=k // 2, groups=cin)
        if residual:
            self.res_conv = nn.ConvTranspose3d(cin, cout, 1, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.branch(x) + self.res_conv(x) if self.residual else self.branch(x)
        return functional.pad(y, (1, 0, 1, 0, 1, 0))  # 2n - 1 -> 2n


class OutBlock(nn.Module):
    def __init__(self, channels: int, classes: int):
        super().__init__()
        self.conv_out = nn.ConvTranspose3d(channels, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_out(x)


class TorchMedNeXt(nn.Module):
    """(n, in_channels, d, h, w) -> logits (n, num_classes, d, h, w), or a list of five with deep supervision."""

    def __init__(self, config: MedNeXtConfig):
        super().__init__()
        self.config = config
        channels, ratios = config.stage_channels, config.expansion_ratios
        # In every file of MIC-DKFZ's code, first and always 1: a workaround for its gradient checkpointing.
        self.dummy_tensor = nn.Parameter(torch.ones(1))
        self.stem = nn.Conv3d(config.in_channels, channels[0], 1)
        k_enc, k_dec = config.encoder_kernel_size, config.decoder_kernel_size

        def stage(i: int, k: int) -> nn.Sequential:
            fields = config, channels[i], channels[i], ratios[i], k, config.grn, config.residual
            return nn.Sequential(*(Block(*fields) for _ in range(config.block_counts[i])))

        for level in range(LEVELS):
            setattr(self, f"enc_block_{level}", stage(level, k_enc))
            ratio, grn = config.down_expansion_ratios[level], config.down_grn[level]
            fields = channels[level], channels[level + 1], ratio, k_enc, grn, config.residual_resampling
            setattr(self, f"down_{level}", DownBlock(config, *fields))
        self.bottleneck = stage(LEVELS, k_dec)
        for i in range(LEVELS + 1, STAGES):
            fields = channels[i - 1], channels[i], ratios[i], k_dec, config.grn, config.residual_resampling
            setattr(self, f"up_{STAGES - 1 - i}", UpBlock(config, *fields))
            setattr(self, f"dec_block_{STAGES - 1 - i}", stage(i, k_dec))
        for level in range(STAGES - LEVELS if config.deep_supervision else 1):
            setattr(self, f"out_{level}", OutBlock(channels[level], config.num_classes))

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        x = self.stem(x)
        skips = []
        for level in range(LEVELS):
            x = getattr(self, f"enc_block_{level}")(x)
            skips.append(x)
            x = getattr(self, f"down_{level}")(x)
        x = self.bottleneck(x)
        features = [x]
        for level in reversed(range(LEVELS)):
            x = getattr(self, f"dec_block_{level}")(skips[level] + getattr(self, f"up_{level}")(x))
            features.append(x)
        features.reverse()
        if not self.config.deep_supervision:
            return self.out_0(features[0])
        return [getattr(self, f"out_{level}")(feature) for level, feature in enumerate(features)]
