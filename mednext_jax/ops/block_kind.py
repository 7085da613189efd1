"""What tells one of a network's blocks from another, whatever the extents."""

from __future__ import annotations

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True, order=True)
class BlockKind:
    """A block of `channels` -> `hidden` -> `out_channels` with depthwise kernels of `kernel_size` voxels an axis.

    residual: with the path around it (of a down or up block a 1x1x1 convolution at stride 2).
    """

    block: Literal["block", "down", "up"]
    channels: int
    hidden: int
    out_channels: int
    kernel_size: int
    residual: bool = True

    def __str__(self) -> str:
        name = f"{self.block} {self.channels}-{self.hidden}-{self.out_channels} k{self.kernel_size}"
        return name if self.residual else f"{name} without residual"
