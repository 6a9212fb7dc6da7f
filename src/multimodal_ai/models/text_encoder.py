"""TextEncoder: a bidirectional transformer over the conversation, with function cards as a memory.

A card is encoded alone: its states, keys and values depend on nothing but the card, so they are computed
once per card, shared by every sample of a batch and cached between requests. The conversation then sees
itself both ways and, in every layer, the keys and values of its cards. A card never sees a request.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from multimodal_ai.models.attention import AttentionLayout, KeyRows, Packing
from multimodal_ai.models.layers import AttentionPooling, BlockConfig, EncoderBlock, LayerNorm, rotary_angles

KeysValues = tuple[Tensor, Tensor]


class TextConfig(BlockConfig):
    """Shape of the text encoder."""


@dataclass
class StandaloneTexts:
    """Texts encoded each on its own: function cards and captions.

    states: float[U, L, D]; valid: bool[U, L]; pooled: float[U, embedding_width];
    keys_values: per layer, two float[U, L, K, E]; lengths: of each text, if they are known in main memory.
    """

    states: Tensor
    valid: Tensor
    pooled: Tensor
    keys_values: list[KeysValues]
    lengths: Sequence[int] | None = None

    @cached_property
    def packing(self) -> Packing:
        """How `states` are packed. Waits for the device where `lengths` are not given."""
        lengths = self.valid.sum(1) if self.lengths is None else self.lengths
        return Packing(lengths, self.valid.shape[1], self.valid.device)


class TextEncoder(nn.Module):
    """Bidirectional encoder; embeds nothing itself: it is given vectors, so that images can stand among them."""

    def __init__(self, config: TextConfig, embedding_width: int) -> None:
        super().__init__()
        self.config = config
        self.blocks = nn.ModuleList(EncoderBlock(config) for _ in range(config.layers))
        self.norm = LayerNorm(config.width)
        self.pooling = AttentionPooling(config.width, config.heads, embedding_width)

    def _angles(self, packing: Packing) -> tuple[Tensor, Tensor]:
        positions = torch.arange(packing.shape[1], device=packing.device)[None, :, None]
        return rotary_angles(packing.unpad(positions), self.config.head_width, self.config.rope_theta)

    def encode_alone(self, x: Tensor, lengths: Sequence[int] | Tensor) -> StandaloneTexts:
        """x: float[U, L, D], and the length of each -> every text's states, pooled vector, keys and values."""
        packing = Packing(lengths, x.shape[1], x.device)
        layout = AttentionLayout(key_valid=packing.valid, packing=packing)
        angles = self._angles(packing)
        keys_values = []
        x = packing.unpad(x)
        for block in self.blocks:
            x, (k, v) = block(x, layout, angles)
            keys_values.append((packing.pad(k), packing.pad(v)))
        x = packing.pad(self.norm(x))
        return StandaloneTexts(x, packing.valid, self.pooling(x, packing.valid), keys_values, packing.lengths)

    def forward(
        self,
        x: Tensor,
        lengths: Sequence[int] | Tensor,
        cards: StandaloneTexts | None = None,
        listed: Sequence[Sequence[int]] | None = None,
        mix: Callable[[int, Tensor], Tensor] | None = None,
    ) -> tuple[Tensor, Packing]:
        """x: float[B, S, D] and its lengths; listed: for each sample the numbers of its `cards`, -1 for none.

        mix: called after each layer with its number and the states float[B, S, D]; cross-attention fusion
        enters there. Returns packed states float[N, D] and how they are packed.
        """
        packing = Packing(lengths, x.shape[1], x.device)
        layout = AttentionLayout(key_valid=packing.valid, packing=packing)
        if cards is not None and listed is not None:
            U, L = cards.valid.shape
            keys = KeyRows(packing, cards.packing, listed, np.arange(U) * L, U * L)
            layout = AttentionLayout(key_valid=keys.packing.valid, packing=packing, keys=keys)
        angles = self._angles(packing)
        x = packing.unpad(x)
        for number, block in enumerate(self.blocks):
            before = None
            if layout.keys is not None and cards is not None:
                k, v = cards.keys_values[number]
                before = (k.flatten(0, 1), v.flatten(0, 1))
            x, _ = block(x, layout, angles, before)
            if mix is not None:
                x = packing.unpad(mix(number, packing.pad(x)))
        return self.norm(x), packing
