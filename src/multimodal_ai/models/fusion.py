"""Fusion: how patch states reach the text encoder. Two kinds behind one interface.

`projection`: neighbouring patches are joined (pixel-shuffle), mapped by an MLP into the embedding space
and stand at the image's place in the encoder's input. `cross_attention`: a resampler turns each image
into a fixed number of latents, and after every text layer the text states attend to them through a gate
that starts at 0. Either way the result is one context; fusion never changes the number of tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from multimodal_ai.models.attention import AttentionLayout, lengths_to_valid, to_device
from multimodal_ai.models.layers import Attention, BlockConfig, LayerNorm, SwiGLU, grid_embedding
from multimodal_ai.utils.config import ConfigModel


class FusionConfig(ConfigModel):
    """Kind and shape of the fusion."""

    kind: Literal["projection", "cross_attention"] = "projection"
    merge: int = 2  # pixel-shuffle factor: merge² patches make one visual token
    latents: int = 16  # per image, for cross_attention


@dataclass
class VisualTokens:
    """What fusion made of the images: tokens float[I, M, D] and which of them are real, bool[I, M]."""

    tokens: Tensor
    valid: Tensor

    def of(self, images: Tensor) -> VisualTokens:
        """Those of the images with these numbers, int[C]."""
        return VisualTokens(self.tokens.index_select(0, images), self.valid.index_select(0, images))


class ProjectionFusion(nn.Module):
    """Pixel-shuffle and an MLP (LLaVA, arXiv 2304.08485; pixel-shuffle as in Idefics 3, arXiv 2408.12637)."""

    mixes = False  # whether `mix` is to be called after every text layer

    def __init__(self, config: FusionConfig, vision_width: int, text: BlockConfig) -> None:
        super().__init__()
        self.merge = config.merge
        joined = vision_width * config.merge**2
        self.norm = LayerNorm(joined)
        self.project = SwiGLU(joined, text.width * 2, text.width)

    def visual_tokens(self, patch_states: Tensor, grids: Tensor) -> VisualTokens:
        """patch_states: float[I, N, Dv], grids: int[I, 2] -> tokens float[I, N / merge², D], row by row."""
        count, N, width = patch_states.shape
        grids = to_device(grids, patch_states.device)
        merge = self.merge
        M = max(N // merge**2, 1)
        lengths = grids.prod(-1) // merge**2
        # Patch (r, c) of token (R, C) is (R * merge + i, C * merge + j): gather those merge² patches in order.
        token = torch.arange(M, device=grids.device)[None, :]
        columns = grids[:, 1:]
        per_row = (columns // merge).clamp(min=1)
        first = (token // per_row) * merge * columns + (token % per_row) * merge
        step = torch.arange(merge, device=grids.device)
        corner = step[:, None] * columns[:, :, None] + step[None, None, :]  # [I, merge, merge]
        index = (first[:, :, None] + corner.flatten(1)[:, None, :]).clamp(max=N - 1).flatten(1)  # [I, M * merge²]
        joined = torch.gather(patch_states, 1, index[..., None].expand(-1, -1, width))
        tokens = self.project(self.norm(joined.view(count, M, -1)))
        place = torch.stack((token // per_row, token % per_row), dim=-1)
        tokens = tokens + grid_embedding(place, tokens.shape[-1]).to(tokens.dtype)
        return VisualTokens(tokens, lengths_to_valid(lengths, M))

    def place(self, x: Tensor, visual: VisualTokens, slots: Tensor, slot_image: Tensor, slot_token: Tensor) -> Tensor:
        """Put visual tokens at the image slots of x: float[B, S, D].

        slots, slot_image, slot_token: int[number of slots], where in the B * S places, of which image, which token.
        """
        chosen = visual.tokens[slot_image, slot_token].to(x.dtype)
        return x.flatten(0, 1).index_copy(0, slots, chosen).view_as(x)

    def mix(self, number: int, x: Tensor, visual: VisualTokens | None, image_index: Tensor | None) -> Tensor:
        """Never called: the visual tokens already stand in x."""
        return x


class GatedCrossAttention(nn.Module):
    """Text states look at the latents; the tanh gate starts at 0 (Flamingo, arXiv 2204.14198)."""

    def __init__(self, config: BlockConfig) -> None:
        super().__init__()
        self.norm = LayerNorm(config.width)
        self.read = Attention(config)  # not zero at the start: the gate is
        self.gate = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, memory: Tensor, valid: Tensor) -> Tensor:
        seen = self.read(self.norm(x), self.read.keys_values(memory), AttentionLayout(key_valid=valid))
        seen = seen * valid.any(1)[:, None, None]  # a sample without an image stays as it was
        return x + torch.tanh(self.gate).to(seen.dtype) * seen


class CrossAttentionFusion(nn.Module):
    """Perceiver resampler and one gated cross-attention per text layer."""

    mixes = True

    def __init__(self, config: FusionConfig, vision_width: int, text: BlockConfig) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.randn(config.latents, text.width) * 0.02)
        self.resample_norm = LayerNorm(text.width)
        self.resampler = Attention(text, memory_width=vision_width)
        self.mlp_norm, self.mlp = LayerNorm(text.width), SwiGLU(text.width, text.hidden)
        self.layers = nn.ModuleList(GatedCrossAttention(text) for _ in range(text.layers))

    def visual_tokens(self, patch_states: Tensor, grids: Tensor) -> VisualTokens:
        """patch_states: float[I, N, Dv] -> latents float[I, latents, D]."""
        count, N, _ = patch_states.shape
        grids = to_device(grids, patch_states.device)
        layout = AttentionLayout(key_valid=lengths_to_valid(grids.prod(-1), N))
        x = self.latents.expand(count, -1, -1)
        x = x + self.resampler(self.resample_norm(x), self.resampler.keys_values(patch_states), layout)
        x = x + self.mlp(self.mlp_norm(x))
        return VisualTokens(x, torch.ones(x.shape[:2], dtype=torch.bool, device=x.device))

    def place(self, x: Tensor, visual: VisualTokens, slots: Tensor, slot_image: Tensor, slot_token: Tensor) -> Tensor:
        """The placeholder keeps its own embedding; what the image shows enters through `mix`."""
        return x

    def mix(self, number: int, x: Tensor, visual: VisualTokens | None, image_index: Tensor | None) -> Tensor:
        """After text layer `number`: x float[B, S, D] attends to the latents of its images, int[B, G] (-1 none)."""
        if visual is None or image_index is None:
            return x
        B = image_index.shape[0]
        memory = visual.tokens[image_index.clamp(min=0)].flatten(1, 2)
        valid = (visual.valid[image_index.clamp(min=0)] & (image_index >= 0)[..., None]).view(B, -1)
        return self.layers[number](x, memory, valid)


Fusion = ProjectionFusion | CrossAttentionFusion


def build_fusion(config: FusionConfig, vision_width: int, text: BlockConfig) -> Fusion:
    """The fusion of the configured kind."""
    kinds: dict[str, type[Fusion]] = {"projection": ProjectionFusion, "cross_attention": CrossAttentionFusion}
    return kinds[config.kind](config, vision_width, text)
