"""VisionEncoder: a ViT over patches at their native aspect ratio.

An image is a list of patches with a row and a column each; positions are two-dimensional rotary angles,
so any grid works and a tall receipt keeps its shape. A few convolutions over the pixels come first: they
learn strokes and edges much faster than attention does. The encoder never sees text and never resizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from multimodal_ai.models.attention import AttentionLayout, Packing, to_device
from multimodal_ai.models.layers import (
    AttentionPooling,
    BlockConfig,
    EncoderBlock,
    LayerNorm,
    autocast_dtype,
    grid_embedding,
    rotary_angles,
)


class VisionConfig(BlockConfig):
    """Shape of the vision transformer."""

    patch_size: int = 8  # pixels
    rope_theta: float = 100.0  # grids are small: low frequencies would stand still


class Stem(nn.Module):
    """Pixels to patch vectors: 3 x 3 convolutions that halve the image until one vector stands for each patch.

    Early convolutions let a vision transformer learn from far fewer samples (Xiao et al., arXiv 2106.14881), and
    cost a fraction of what attention over smaller patches costs. A patch size with an odd factor ends in one
    convolution as wide as that factor. Beyond an image's edge stands zero in every layer, so that images of
    different grids share a batch without seeing it. Kernels are kept as matrices [out, k * k * in].
    """

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        self.strides = convolution_strides(config.patch_size)
        side = config.patch_size  # pixels along the side of a patch, layer by layer
        self.outputs = [(side := side // stride) ** 2 for stride in self.strides]  # of a convolution, for one patch
        wider = [max(config.width >> step, 32) for step in range(len(self.strides) - 1, -1, -1)]
        widths = [3, *wider[:-1], config.width]
        self.kernels = [(3 if stride <= 2 else stride) for stride in self.strides]
        sizes = [kernel**2 * width for kernel, width in zip(self.kernels, widths, strict=False)]
        self.convolutions = nn.ModuleList(
            nn.Linear(size, width, bias=False) for size, width in zip(sizes, widths[1:], strict=True)
        )
        self.norms = nn.ModuleList(LayerNorm(width) for width in widths[1:])

    def forward(self, patches: Tensor, grids: Tensor, positions: Tensor, packing: Packing) -> Tensor:
        """uint8[I, N, 3 * patch²], int[I, 2] in main memory, int[I, N, 2] rows and columns -> packed float[M, D].

        Images of similar grids are convolved together, so that a line of print beside a receipt is not padded to it.
        """
        shapes = [(rows, columns) for rows, columns in grids.tolist()]
        groups = similar_grids(shapes)
        vectors, places, held = [], [np.zeros(0, dtype=np.int64)] * len(shapes), 0
        for group in groups:
            chosen = patches
            if len(groups) > 1:
                chosen = patches.index_select(0, to_device(np.array(group), patches.device))
            x = self._convolve(chosen, grids[group])
            _, R, C, _ = x.shape
            for number, image in enumerate(group):
                rows, columns = shapes[image]
                cells = np.arange(rows)[:, None] * C + np.arange(columns)
                places[image] = held + number * R * C + cells.reshape(-1)
            vectors.append(x.flatten(0, 2))
            held += len(vectors[-1])
        place = np.concatenate(places)
        place = np.pad(place, (0, packing.count - len(place)), mode="edge" if len(place) else "constant")
        x = torch.cat(vectors).index_select(0, to_device(place, patches.device))
        return x + grid_embedding(packing.unpad(positions), x.shape[-1]).to(x.dtype)

    def _convolve(self, patches: Tensor, grids: Tensor) -> Tensor:
        """Images of a group, padded to their largest grid: float[n, R, C, D]."""
        kernel = cast(nn.Linear, self.convolutions[0]).weight
        dtype = autocast_dtype(kernel.device) or kernel.dtype
        pixels, inside = self._pixels(patches, grids)  # [n, H, W, 3], [n, R, C]
        x = pixels.to(dtype) / 127.5 - 1.0
        cells = self.patch_size  # pixels of x along the side of a patch
        for linear, norm, size, stride in zip(self.convolutions, self.norms, self.kernels, self.strides, strict=True):
            real = inside.repeat_interleave(cells, 1).repeat_interleave(cells, 2)
            x = (x * real[..., None]).permute(0, 3, 1, 2)
            weight = cast(nn.Linear, linear).weight.unflatten(1, (size, size, -1)).permute(0, 3, 1, 2)
            weight = weight.to(dtype).contiguous(memory_format=torch.channels_last)
            x = F.conv2d(x, weight, stride=stride, padding=(size - 1) // 2 if stride <= 2 else 0)
            x = norm(x.permute(0, 2, 3, 1))
            cells //= stride
            x = F.gelu(x, approximate="tanh") if cells > 1 else x
        return x

    def _pixels(self, patches: Tensor, grids: Tensor) -> tuple[Tensor, Tensor]:
        """The images themselves, uint8[n, H, W, 3] on the largest grid, and which patches are real, bool[n, R, C]."""
        size = self.patch_size
        rows, columns = grids.amax(0).clamp(min=1).tolist()
        grids = to_device(grids, patches.device)
        row = torch.arange(rows, device=grids.device)[None, :, None]
        column = torch.arange(columns, device=grids.device)[None, None, :]
        inside = (row < grids[:, 0, None, None]) & (column < grids[:, 1, None, None])
        index = ((row * grids[:, 1, None, None] + column) * inside).flatten(1)
        chosen = patches.gather(1, index[..., None].expand(-1, -1, patches.shape[-1]))
        x = chosen.view(len(patches), rows, columns, 3, size, size).permute(0, 1, 4, 2, 5, 3)
        return x.reshape(len(patches), rows * size, columns * size, 3), inside


def similar_grids(shapes: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Images in groups of which none is padded by more than half when all get the group's largest rows and columns.

    Images without a patch join the last group. At least one group, unless there are no images.
    """
    groups: list[list[int]] = []
    largest, real = (0, 0), 0  # of the last group
    for number in sorted(range(len(shapes)), key=lambda index: shapes[index], reverse=True):
        rows, columns = shapes[number]
        most = max(largest[0], rows), max(largest[1], columns)
        cells = real + rows * columns
        if groups and (rows * columns == 0 or (len(groups[-1]) + 1) * most[0] * most[1] <= 1.5 * cells):
            groups[-1].append(number)
            largest, real = most, cells
        else:
            groups.append([number])
            largest, real = (rows, columns), rows * columns
    return [sorted(group) for group in groups]


def convolution_strides(patch_size: int) -> list[int]:
    """Strides whose product is the patch size: twos, then the odd rest. 16 -> 2 2 2 2; 14 -> 2 7; 1 -> 1."""
    strides = []
    while patch_size % 2 == 0:
        strides.append(2)
        patch_size //= 2
    return [*strides, patch_size] if patch_size > 1 or not strides else strides


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
        """patches: uint8[I, N, 3 * patch²], row by row, padded to N; grids: int[I, 2] rows and columns, in main
        memory (on a device, they are waited for).

        Returns patch states float[I, N, D] and one pooled embedding float[I, embedding_width].
        """
        N = patches.shape[1]
        packing = Packing(grids.prod(-1).tolist(), N, patches.device)
        layout = AttentionLayout(key_valid=None if packing.full else packing.valid, packing=packing)
        index = torch.arange(N, device=patches.device)[None, :]
        per_row = to_device(grids[:, 1:].clamp(min=1), patches.device)
        positions = torch.stack((index // per_row, index % per_row), dim=-1)
        angles = rotary_angles(packing.unpad(positions), self.config.head_width, self.config.rope_theta)
        x = self.stem(patches, grids, positions, packing)
        for block in self.blocks:
            x, _ = block(x, layout, angles)
        x = packing.pad(self.norm(x))
        return x, self.pooling(x, packing.valid)
