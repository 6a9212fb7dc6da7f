"""VisionEncoder: a ViT over patches at their native aspect ratio.

An image is a list of patches with a row and a column each; positions are two-dimensional rotary angles,
so any grid works and a tall receipt keeps its shape. It never sees text and never resizes anything.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from multimodal_ai.models.layers import (
    AttentionLayout,
    AttentionPooling,
    BlockConfig,
    EncoderBlock,
    LayerNorm,
    Packing,
    rotary_angles,
)


class VisionConfig(BlockConfig):
    """Shape of the vision transformer."""

    patch_size: int = 8  # pixels
    rope_theta: float = 100.0  # grids are small: low frequencies would stand still


class VisionEncoder(nn.Module):
    """Vision transformer (Dosovitskiy et al., arXiv 2010.11929) with RoPE in two dimensions."""

    def __init__(self, config: VisionConfig, embedding_width: int) -> None:
        super().__init__()
        self.config = config
        self.patch_embedding = nn.Linear(3 * config.patch_size**2, config.width, bias=False)
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
        x = packing.unpad(patches).to(self.patch_embedding.weight.dtype) / 127.5 - 1.0
        x = self.patch_embedding(x)
        for block in self.blocks:
            x, _ = block(x, layout, angles)
        x = packing.pad(self.norm(x))
        return x, self.pooling(x, packing.valid)
