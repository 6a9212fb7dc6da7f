"""VisionEncoder: a ViT over patches at their native aspect ratio.

An image is a list of patches with a row and a column each; positions are two-dimensional rotary angles,
so any grid works and a tall receipt keeps its shape. A small convolution over the grid comes first: it
learns strokes and edges much faster than attention does. The encoder never sees text and never resizes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from multimodal_ai.models.layers import (
    AttentionLayout,
    AttentionPooling,
    BlockConfig,
    EncoderBlock,
    LayerNorm,
    Packing,
    grid_embedding,
    rotary_angles,
)


class VisionConfig(BlockConfig):
    """Shape of the vision transformer."""

    patch_size: int = 8  # pixels
    rope_theta: float = 100.0  # grids are small: low frequencies would stand still


class Stem(nn.Module):
    """Patches to vectors: a linear map, then a 3 x 3 convolution over the grid of patches.

    Early convolutions let a vision transformer learn from far fewer samples (Xiao et al., arXiv 2106.14881).
    The convolution is a gather of the nine neighbours and a product, so that every image keeps its own grid;
    beyond the edge stands zero.
    """

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        width = config.width
        self.patch = nn.Linear(3 * config.patch_size**2, width, bias=False)
        self.patch_norm = LayerNorm(width)
        self.neighbours = nn.Linear(9 * width, width, bias=False)

    def forward(self, patches: Tensor, grids: Tensor, positions: Tensor, packing: Packing) -> Tensor:
        """uint8[I, N, 3 * patch²], int[I, 2], int[I, N, 2] rows and columns -> packed float[M, D]."""
        count, N = patches.shape[:2]
        pixels = packing.unpad(patches).to(self.patch.weight.dtype) / 127.5 - 1.0
        x = F.gelu(self.patch_norm(self.patch(pixels)), approximate="tanh")
        steps = torch.arange(-1, 2, device=patches.device)
        around = positions[:, :, None] + torch.cartesian_prod(steps, steps)  # [I, N, 9, 2]
        inside = ((around >= 0) & (around < grids[:, None, None])).all(-1)
        first = torch.arange(count, device=patches.device)[:, None, None] * N
        index = first + around[..., 0] * grids[:, 1:, None] + around[..., 1]
        index = torch.where(inside, index, count * N)  # one row of zeros behind all patches
        padded = F.pad(packing.pad(x).flatten(0, 1), (0, 0, 0, 1))
        x = x + self.neighbours(padded[packing.unpad(index)].flatten(1))
        return x + grid_embedding(packing.unpad(positions), x.shape[-1]).to(x.dtype)


class VisionEncoder(nn.Module):
    """Vision transformer (Dosovitskiy et al., arXiv 2010.11929) with RoPE in two dimensions."""

    def __init__(self, config: VisionConfig, embedding_width: int) -> None:
        super().__init__()
        self.config = config
        self.stem = Stem(config)
        self.blocks = nn.ModuleList(EncoderBlock(config) for _ in range(config.layers))
        self.norm = LayerNorm(config.width)
        self.pooling = AttentionPooling(config.width, config.heads, embedding_width)

    def forward(self, patches: Tensor, grids: Tensor) -> tuple[Tensor, Tensor]:
        """patches: uint8[I, N, 3 * patch²], row by row, padded to N; grids: int[I, 2] rows and columns.

        Returns patch states float[I, N, D] and one pooled embedding float[I, embedding_width].
        """
        N = patches.shape[1]
        packing = Packing(grids.prod(-1), N)
        layout = AttentionLayout(key_valid=None if packing.full else packing.valid, packing=packing)
        index = torch.arange(N, device=patches.device)[None, :]
        columns = grids[:, 1:].clamp(min=1)
        positions = torch.stack((index // columns, index % columns), dim=-1)
        angles = rotary_angles(packing.unpad(positions), self.config.head_width, self.config.rope_theta)
        x = self.stem(patches, grids, positions, packing)
        for block in self.blocks:
            x, _ = block(x, layout, angles)
        x = packing.pad(self.norm(x))
        return x, self.pooling(x, packing.valid)
