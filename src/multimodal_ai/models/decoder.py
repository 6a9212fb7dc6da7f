"""Decoder: a causal transformer that writes the answer while looking at the context.

Each block attends to what was written (with a preallocated cache when generating), then to the context
(whose keys and values are computed once per request), then runs its MLP. It holds only the short answer;
everything long lives in the context.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from multimodal_ai.models.attention import AttentionLayout, KeyRows, Packing, to_device
from multimodal_ai.models.layers import Attention, BlockConfig, LayerNorm, SwiGLU, rotary_angles
from multimodal_ai.models.text_encoder import KeysValues, StandaloneTexts


class DecoderConfig(BlockConfig):
    """Shape of the decoder."""


@dataclass
class Context:
    """What the decoder and the head may look at: the conversation and the cards of each sample.

    states: float[B, S, D] of the conversation (text and visual tokens), valid: bool[B, S];
    rows: float[M, D], the states of all cards and conversations without padding; keys: which of them are a sample's;
    texts: every standalone text of the batch, card_index: int[B, F] which of them are a sample's functions.
    """

    states: Tensor
    valid: Tensor
    rows: Tensor
    keys: KeyRows
    texts: StandaloneTexts | None = None
    card_index: Tensor | None = None

    @classmethod
    def of(
        cls,
        rows: Tensor,
        packing: Packing,
        texts: StandaloneTexts | None = None,
        listed: Sequence[Sequence[int]] | None = None,
        card_index: Tensor | None = None,
    ) -> Context:
        """rows: packed states of the conversations; listed: `card_index` in main memory."""
        states = packing.pad(rows)
        if texts is None or listed is None:
            return cls(states, packing.valid, rows, KeyRows(packing))
        cards = texts.packing
        keys = KeyRows(packing, cards, listed, cards.starts, cards.count)
        joined = torch.cat((cards.unpad(texts.states), rows))
        return cls(states, packing.valid, joined, keys, texts, card_index)

    @property
    def key_valid(self) -> Tensor:
        """bool[B, M]: the keys of each sample, its cards first and then the conversation, padded at the end."""
        return self.keys.packing.valid


@dataclass
class Memory:
    """Keys and values of the context for every decoder layer, with the layout that hides padding."""

    keys_values: list[KeysValues]
    layout: AttentionLayout


@dataclass
class KVCache:
    """Preallocated keys and values of what was written: per layer float[B, T_max, K, E].

    `lengths` int[B] counts the positions that hold something; rows of a batch may differ.
    """

    keys: list[Tensor]
    values: list[Tensor]
    lengths: Tensor


class DecoderBlock(nn.Module):
    """Pre-norm block: causal self-attention, cross-attention, SwiGLU."""

    def __init__(self, config: DecoderConfig, context_width: int) -> None:
        super().__init__()
        self.attention_norm, self.attention = LayerNorm(config.width), Attention(config)
        self.cross_norm, self.cross_attention = LayerNorm(config.width), Attention(config, memory_width=context_width)
        self.mlp_norm, self.mlp = LayerNorm(config.width), SwiGLU(config.width, config.hidden)

    def forward(
        self,
        x: Tensor,
        layout: AttentionLayout,
        angles: tuple[Tensor, Tensor],
        context: Context | KeysValues,
        context_layout: AttentionLayout,
        cache: tuple[Tensor, Tensor, Tensor] | None = None,
    ) -> Tensor:
        """x: float[B, T, D], or packed float[N, D] where the layouts pack.

        context: the context itself, or the keys and values this block made of it before, padded.
        cache: keys and values float[B, T_max, K, E] and positions int[B, T]; this block writes its own at
        those positions and attends to the whole cache under `layout`.
        """
        normed = self.attention_norm(x)
        k, v = self.attention.keys_values(normed, angles)
        if cache is not None:
            keys, values, positions = cache
            row = torch.arange(x.shape[0], device=x.device)[:, None]
            keys[row, positions] = k.to(keys.dtype)
            values[row, positions] = v.to(values.dtype)
            k, v = keys, values
        x = x + self.attention(normed, (k, v), layout, angles)
        memory = self.cross_attention.keys_values(context.rows) if isinstance(context, Context) else context
        x = x + self.cross_attention(self.cross_norm(x), memory, context_layout)
        return x + self.mlp(self.mlp_norm(x))

    def context_keys_values(self, context: Context) -> KeysValues:
        """Keys and values of cards and conversation, each float[B, M, K, E].

        A card's are made once and lined up for every sample that lists it.
        """
        k, v = self.cross_attention.keys_values(context.rows)
        return context.keys.padded(k), context.keys.padded(v)


class Decoder(nn.Module):
    """Causal decoder with cross-attention; embeds and projects nothing itself (the embedding is shared)."""

    def __init__(self, config: DecoderConfig, context_width: int) -> None:
        super().__init__()
        self.config = config
        self.blocks = nn.ModuleList(DecoderBlock(config, context_width) for _ in range(config.layers))
        self.norm = LayerNorm(config.width)

    def forward(self, x: Tensor, lengths: Sequence[int] | Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """Teacher forcing. x: float[B, T, D], position 0 first; lengths: of each row, at least 1.

        Returns normed states float[B, T, D] and the first position's state after every layer,
        float[B, layers + 1, D], which is what the function-calling head reads.
        """
        packing = Packing(lengths, x.shape[1], x.device)
        layout = AttentionLayout(causal=True, packing=packing)  # padding stands behind, where nobody looks
        context_layout = AttentionLayout(key_valid=context.key_valid, packing=packing, keys=context.keys)
        positions = torch.arange(x.shape[1], device=x.device)[None, :, None]
        angles = rotary_angles(packing.unpad(positions), self.config.head_width, self.config.rope_theta)
        starts = to_device(packing.starts, packing.device)
        x = packing.unpad(x)
        first = [x.index_select(0, starts)]
        for block in self.blocks:
            x = block(x, layout, angles, context, context_layout)
            first.append(x.index_select(0, starts))
        return packing.pad(self.norm(x)), torch.stack(first, dim=1)

    def look(self, x: Tensor, lengths: Sequence[int] | Tensor, context: Context) -> tuple[Tensor, list[Tensor]]:
        """As `forward`, and what every layer looked at: normed states float[B, T, D], and float32[B, T, M] a layer.

        The latter is the share of the layer's cross-attention, the mean of its heads, that each key of
        `context.keys` got: cards first, then the conversation. Hooks listen for it, so `forward` knows nothing of it.
        """
        seen: list[Tensor] = []

        def note(attention: nn.Module, given: tuple[Tensor, KeysValues, AttentionLayout]) -> None:
            seen.append(cast(Attention, attention).weights(*given).mean(2))

        hooks = [cast(DecoderBlock, block).cross_attention.register_forward_pre_hook(note) for block in self.blocks]
        try:
            states, _ = self(x, lengths, context)
        finally:
            for hook in hooks:
                hook.remove()
        return states, seen

    def memory(self, context: Context) -> Memory:
        """The context's keys and values, once per request."""
        keys_values = [cast(DecoderBlock, block).context_keys_values(context) for block in self.blocks]
        return Memory(keys_values, AttentionLayout(key_valid=context.key_valid))

    def new_cache(self, batch: int, length: int, device: torch.device, dtype: torch.dtype) -> KVCache:
        """An empty cache for `batch` rows of at most `length` positions."""
        shape = (batch, length, self.config.kv_heads, self.config.head_width)
        keys = [torch.zeros(shape, device=device, dtype=dtype) for _ in self.blocks]
        values = [torch.zeros(shape, device=device, dtype=dtype) for _ in self.blocks]
        return KVCache(keys, values, torch.zeros(batch, dtype=torch.long, device=device))

    def step(self, x: Tensor, counts: Tensor, memory: Memory, cache: KVCache) -> tuple[Tensor, Tensor]:
        """Write further positions into the cache. x: float[B, T, D]; the first counts[b] of row b are real.

        Rows may stand at different lengths. Returns as `forward`; states behind a row's count are padding
        and are overwritten by the row's next positions.
        """
        T = x.shape[1]
        positions = cache.lengths[:, None] + torch.arange(T, device=x.device)[None, :]
        positions = positions.clamp(max=cache.keys[0].shape[1] - 1)
        slots = torch.arange(cache.keys[0].shape[1], device=x.device)
        layout = AttentionLayout(allowed=slots[None, None, :] <= positions[:, :, None])
        angles = rotary_angles(positions[..., None], self.config.head_width, self.config.rope_theta)
        first = [x[:, 0]]
        for block, keys, values, kv in zip(self.blocks, cache.keys, cache.values, memory.keys_values, strict=True):
            x = block(x, layout, angles, kv, memory.layout, (keys, values, positions))
            first.append(x[:, 0])
        cache.lengths += counts.to(cache.lengths.device)
        return self.norm(x), torch.stack(first, dim=1)
