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


@dataclass
class MemoryPlaces:
    """Where the tokens of each sample's texts stand, one text behind the other and without their padding.

    places: int[B, M] into the U * L tokens of all texts; valid: bool[B, M]. M is the most that a sample has,
    rounded up to 8.
    """

    places: Tensor
    valid: Tensor

    @classmethod
    def of(cls, texts: Tensor, index: Tensor) -> MemoryPlaces:
        """texts: bool[U, L], which tokens are real; index: int[B, F], -1 none."""
        L = texts.shape[1]
        real = (texts[index.clamp(min=0)] & (index >= 0)[..., None]).flatten(1)
        width = min(-(-int(real.sum(1).max()) // 8) * 8, real.shape[1])
        order = real.int().argsort(dim=1, descending=True, stable=True)[:, :width]
        every = (index.clamp(min=0)[..., None] * L + torch.arange(L, device=index.device)).flatten(1)
        return cls(every.gather(1, order), real.gather(1, order))

    def gather(self, per_text: Tensor) -> Tensor:
        """[U, L, ...] -> [B, M, ...]."""
        flat = per_text.flatten(0, 1).index_select(0, self.places.flatten())
        return flat.view(*self.places.shape, *per_text.shape[2:])


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
            listed = MemoryPlaces.of(cards.valid, card_index)
            key_valid = torch.cat((listed.valid, key_valid), dim=1)
        layout = AttentionLayout(key_valid=key_valid, packing=packing)
        angles = self._angles(packing)
        x = packing.unpad(x)
        for number, block in enumerate(self.blocks):
            before = None
            if cards is not None and card_index is not None:
                k, v = cards.keys_values[number]
                before = (listed.gather(k), listed.gather(v))
            x, _ = block(x, layout, angles, before)
            if mix is not None:
                x = packing.unpad(mix(number, packing.pad(x)))
        return packing.pad(self.norm(x)), packing.valid
