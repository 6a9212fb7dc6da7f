"""TextEncoder: a bidirectional transformer over the conversation, with function cards as a memory.

A card is encoded alone: its states, keys and values depend on nothing but the card, so they are computed
once per card, shared by every sample of a batch and cached between requests. The conversation then sees
itself both ways and, in every layer, the keys and values of its cards. A card never sees a request.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

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

KeysValues = tuple[Tensor, Tensor]


class TextConfig(BlockConfig):
    """Shape of the text encoder."""


@dataclass
class StandaloneTexts:
    """Texts encoded each on its own: function cards and captions.

    states: float[U, L, D]; valid: bool[U, L]; pooled: float[U, embedding_width];
    keys_values: per layer, two float[U, L, K, E].
    """

    states: Tensor
    valid: Tensor
    pooled: Tensor
    keys_values: list[KeysValues]


def gather_memory(per_text: Tensor, index: Tensor) -> Tensor:
    """Line up each sample's texts: per_text [U, L, ...], index int[B, F] (-1 none) -> [B, F * L, ...]."""
    B, count = index.shape
    flat = per_text.index_select(0, index.clamp(min=0).flatten())
    return flat.view(B, count * per_text.shape[1], *per_text.shape[2:])


def gather_valid(valid: Tensor, index: Tensor) -> Tensor:
    """Like `gather_memory` for the mask: bool[U, L], int[B, F] -> bool[B, F * L], False where index is -1."""
    gathered = valid[index.clamp(min=0)] & (index >= 0)[..., None]
    return gathered.flatten(1)


class TextEncoder(nn.Module):
    """Bidirectional encoder; embeds nothing itself: it is given vectors, so that images can stand among them."""

    def __init__(self, config: TextConfig, embedding_width: int) -> None:
        super().__init__()
        self.config = config
        self.blocks = nn.ModuleList(EncoderBlock(config) for _ in range(config.layers))
        self.norm = LayerNorm(config.width)
        self.pooling = AttentionPooling(config.width, config.heads, embedding_width)

    def _angles(self, packing: Packing) -> tuple[Tensor, Tensor]:
        positions = torch.arange(packing.valid.shape[1], device=packing.valid.device)[None, :, None]
        return rotary_angles(packing.unpad(positions), self.config.head_width, self.config.rope_theta)

    def encode_alone(self, x: Tensor, lengths: Tensor) -> StandaloneTexts:
        """x: float[U, L, D], lengths: int[U] -> every text's states, pooled vector, keys and values."""
        packing = Packing(lengths, x.shape[1])
        layout = AttentionLayout(key_valid=packing.valid, packing=packing)
        angles = self._angles(packing)
        keys_values = []
        x = packing.unpad(x)
        for block in self.blocks:
            x, own = block(x, layout, angles)
            keys_values.append(own)
        x = packing.pad(self.norm(x))
        return StandaloneTexts(x, packing.valid, self.pooling(x, packing.valid), keys_values)

    def forward(
        self,
        x: Tensor,
        lengths: Tensor,
        cards: StandaloneTexts | None = None,
        card_index: Tensor | None = None,
        mix: Callable[[int, Tensor], Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """x: float[B, S, D] and its lengths int[B]; card_index: int[B, F] into `cards`, -1 for none.

        mix: called after each layer with its number and the states float[B, S, D]; cross-attention fusion
        enters there. Returns float[B, S, D] and the mask bool[B, S].
        """
        packing = Packing(lengths, x.shape[1])
        key_valid = packing.valid
        if cards is not None and card_index is not None:
            key_valid = torch.cat((gather_valid(cards.valid, card_index), key_valid), dim=1)
        layout = AttentionLayout(key_valid=key_valid, packing=packing)
        angles = self._angles(packing)
        x = packing.unpad(x)
        for number, block in enumerate(self.blocks):
            before = None
            if cards is not None and card_index is not None:
                k, v = cards.keys_values[number]
                before = (gather_memory(k, card_index), gather_memory(v, card_index))
            x, _ = block(x, layout, angles, before)
            if mix is not None:
                x = packing.unpad(mix(number, packing.pad(x)))
        return packing.pad(self.norm(x)), packing.valid
