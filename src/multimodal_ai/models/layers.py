"""The layers every part is made of: LayerNorm, rotary positions, attention, SwiGLU and the pre-norm block.

Attention is one function, `attend`, over one `AttentionLayout` that says who may see whom; the back
ends behind it are interchangeable and must agree. No layer here knows what its inputs mean, and none
looks at a device: parallelism and precision are applied from outside.

Dimension letters: B batch, T queries, S keys, D width, H heads, K key-value heads, E head width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from multimodal_ai.utils.config import ConfigModel

Backend = Literal["auto", "sdpa", "matmul"]


class BlockConfig(ConfigModel):
    """Shape of one transformer stack."""

    width: int
    layers: int
    heads: int
    kv_heads: int
    hidden: int  # inner width of the SwiGLU
    attention: Backend = "auto"
    rope_theta: float = 10_000.0

    @property
    def head_width(self) -> int:
        """Width of one head; `width` must divide by `heads`."""
        if self.width % self.heads or self.heads % self.kv_heads:
            raise ValueError(
                f"width {self.width}, heads {self.heads}, kv_heads {self.kv_heads}: "
                "heads must divide width and kv_heads must divide heads"
            )
        return self.width // self.heads


class Packing:
    """Sequences of different lengths without their padding: float[N, ...], N at least lengths.sum().

    Everything that looks at one token at a time runs on the packed rows; only attention pads them.

        lengths [3, 1]    packed  a0 a1 a2 b0    padded  a0 a1 a2
                                                         b0  .  .

    N is rounded up to a multiple of ROUNDED: a CPU's matrix kernels are compiled once a shape, which takes as
    long as a product, and token counts that differ in every batch would compile them in every step. The rows
    added are copies that no attention reads and nobody keeps.
    """

    ROUNDED = 256

    def __init__(self, lengths: Tensor, size: int) -> None:
        """lengths: int[B]; size: T, the padded length, at least the largest of them."""
        self.valid = lengths_to_valid(lengths, size)
        rows = self.valid.flatten().nonzero().squeeze(1)
        self.full = len(rows) == self.valid.numel()
        added = 0 if self.full else -len(rows) % self.ROUNDED
        self.rows = F.pad(rows, (0, added))  # where to read: the rows added read the first place
        self._places = F.pad(rows, (0, added), value=self.valid.numel())  # where to write: they write behind the end

    def pad(self, x: Tensor) -> Tensor:
        """float[N, ...] -> float[B, T, ...], zero where there is nothing."""
        if not self.full:
            x = x.new_zeros(self.valid.numel() + 1, *x.shape[1:]).index_copy(0, self._places, x)[:-1]
        return x.unflatten(0, self.valid.shape)

    def unpad(self, x: Tensor) -> Tensor:
        """float[B or 1, T, ...] -> float[N, ...]."""
        x = x.expand(*self.valid.shape, *x.shape[2:]).flatten(0, 1)
        return x if self.full else x.index_select(0, self.rows)


@dataclass
class AttentionLayout:
    """Who may attend to whom in a batch.

    key_valid: bool[B, S], False for padding; None when every key may be seen.
    causal: query t sees keys up to `offset + t`.
    offset: number of keys that lie before the first query (the cached ones).
    packing: how the queries (and a block's own keys) are packed; None when they come padded.

        causal, offset 2      key_valid [1 1 0]
        q0  1 1 1 0 0         q0  1 1 0
        q1  1 1 1 1 0         q1  1 1 0
    """

    key_valid: Tensor | None = None
    causal: bool = False
    offset: int = 0
    packing: Packing | None = None
    _bias: dict[tuple[torch.dtype, int, int], Tensor | None] = field(default_factory=dict, repr=False)

    def bias(self, queries: int, keys: int, dtype: torch.dtype, device: torch.device) -> Tensor | None:
        """Additive mask, broadcastable to [B, 1, queries, keys]; made once per layout and shared by all layers."""
        key = (dtype, queries, keys)
        if key not in self._bias:
            allowed: Tensor | None = None
            if self.key_valid is not None:
                allowed = self.key_valid[:, None, None, :]
            if self.causal and queries > 1:
                position = torch.arange(self.offset, self.offset + queries, device=device)
                triangle = torch.arange(keys, device=device)[None, :] <= position[:, None]
                allowed = triangle[None, None] if allowed is None else allowed & triangle
            if allowed is None:
                self._bias[key] = None
            else:
                # A finite minimum keeps a row that may see nothing at a harmless uniform average, not at NaN.
                empty = torch.zeros((), dtype=dtype, device=device)
                self._bias[key] = empty.expand(allowed.shape).masked_fill(~allowed, torch.finfo(dtype).min)
        return self._bias[key]


def attend(q: Tensor, k: Tensor, v: Tensor, layout: AttentionLayout, backend: Backend = "auto") -> Tensor:
    """Scaled dot-product attention with grouped heads.

    q: float[B, T, H, E]; k, v: float[B, S, K, E]; returns float[B, T, H, E].

    `sdpa` is torch's fused kernel and the reference. `matmul` writes the two products out: in BF16 on a
    CPU, with sequences of around a hundred, it runs 4-8 times as fast as the fused kernel forward and
    backward (docs/decisions.md). `auto` takes `matmul` there and `sdpa` elsewhere.
    """
    B, T, H, E = q.shape
    S, K = k.shape[1], k.shape[2]
    if backend == "auto":
        small = q.dtype != torch.float32 and q.device.type == "cpu" and T * S <= 512 * 512
        backend = "matmul" if small else "sdpa"
    bias = layout.bias(T, S, q.dtype, q.device)
    if backend == "sdpa":
        out = F.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=bias, enable_gqa=H != K
        )
        return out.transpose(1, 2)
    groups = H // K  # query heads that share one key-value head, folded into the query axis
    folded = q.view(B, T, K, groups, E).permute(0, 2, 3, 1, 4).reshape(B, K, groups * T, E)
    scores = torch.matmul(folded * E**-0.5, k.permute(0, 2, 3, 1))
    if bias is not None:
        scores = (scores.view(B, K, groups, -1, S) + bias[:, :, None]).view(B, K, -1, S)
    out = torch.matmul(scores.softmax(-1), v.transpose(1, 2))
    return out.view(B, K, groups, T, E).permute(0, 3, 1, 2, 4).reshape(B, T, H, E)


def rotary_angles(positions: Tensor, head_width: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the rotary embedding (Su et al., arXiv 2104.09864).

    positions: int[..., A] with A axes (1 for text, 2 for patches: row, column); the head is divided
    evenly between the axes. Returns two float32[..., head_width / 2].
    """
    axes = positions.shape[-1]
    per_axis = head_width // (2 * axes)
    frequency = theta ** (-torch.arange(per_axis, device=positions.device, dtype=torch.float32) / per_axis)
    angles = (positions[..., None].float() * frequency).flatten(-2)
    if angles.shape[-1] != head_width // 2:
        raise ValueError(f"a head of width {head_width} cannot be divided between {axes} axes")
    return angles.cos(), angles.sin()


def grid_embedding(positions: Tensor, width: int) -> Tensor:
    """Fixed sine and cosine embedding of rows and columns: int[..., 2] -> float32[..., width].

    Rotary angles say how far two patches are apart; this says where one is, which cross-attention, having
    no positions of its own, needs to read in order.
    """
    return torch.cat(rotary_angles(positions, width, 100.0), dim=-1)


def rotate(x: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
    """Turn the two halves of every head of x: float[..., H, E] by angles float[..., E / 2]."""
    cos, sin = (part.to(x.dtype).unsqueeze(-2) for part in angles)
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)


class LayerNorm(nn.Module):
    """Layer normalisation with a learned scale and no bias (Ba et al., arXiv 1607.06450).

    Not RMSNorm: torch has a fused kernel of this one on every device, and on a CPU forward and backward
    take an eighth of the time (docs/decisions.md).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight.to(x.dtype), eps=1e-6)


class Attention(nn.Module):
    """Grouped-query attention with QK-norm; self-attention, or cross-attention over a given memory.

    The keys and values are separate from the queries (`keys_values`) so that a caller can compute them
    once, cache them, or join several memories before attending.
    """

    def __init__(self, config: BlockConfig, memory_width: int | None = None) -> None:
        super().__init__()
        E = config.head_width
        self.heads, self.kv_heads, self.head_width, self.backend = config.heads, config.kv_heads, E, config.attention
        self.query = nn.Linear(config.width, config.heads * E, bias=False)
        self.key_value = nn.Linear(memory_width or config.width, 2 * config.kv_heads * E, bias=False)
        self.out = nn.Linear(config.heads * E, config.width, bias=False)
        self.query_norm, self.key_norm = LayerNorm(E), LayerNorm(E)

    def keys_values(
        self, memory: Tensor, angles: tuple[Tensor, Tensor] | None = None, packing: Packing | None = None
    ) -> tuple[Tensor, Tensor]:
        """memory: float[B, S, D], or packed float[N, D] -> keys and values, each float[B, S, K, E]."""
        k, v = self.key_value(memory).unflatten(-1, (2, self.kv_heads, self.head_width)).unbind(-3)
        k = self.key_norm(k)
        k = rotate(k, angles) if angles is not None else k
        return (k, v) if packing is None else (packing.pad(k), packing.pad(v))

    def forward(
        self,
        x: Tensor,
        keys_values: tuple[Tensor, Tensor],
        layout: AttentionLayout,
        angles: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """x: float[B, T, D], packed float[N, D] where the layout packs, attends to keys and values
        float[B, S, K, E]; returns the shape of x.
        """
        q = self.query_norm(self.query(x).unflatten(-1, (self.heads, self.head_width)))
        if angles is not None:
            q = rotate(q, angles)
        if layout.packing is not None:
            q = layout.packing.pad(q)
        k, v = keys_values
        seen = attend(q, k.to(q.dtype), v.to(q.dtype), layout, self.backend)
        return self.out((seen if layout.packing is None else layout.packing.unpad(seen)).flatten(-2))


class SwiGLU(nn.Module):
    """Gated feed-forward layer (Shazeer, arXiv 2002.05202)."""

    def __init__(self, width: int, hidden: int, out_width: int | None = None) -> None:
        super().__init__()
        self.gate_up = nn.Linear(width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, out_width or width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


class EncoderBlock(nn.Module):
    """Pre-norm block that sees both ways, and further keys and values where given."""

    def __init__(self, config: BlockConfig) -> None:
        super().__init__()
        self.attention_norm, self.attention = LayerNorm(config.width), Attention(config)
        self.mlp_norm, self.mlp = LayerNorm(config.width), SwiGLU(config.width, config.hidden)

    def forward(
        self,
        x: Tensor,
        layout: AttentionLayout,
        angles: tuple[Tensor, Tensor],
        before: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """x: packed float[N, D]. `before`: keys and values float[B, M, K, E] to see besides x, standing in
        front of it in the layout. Returns the new x, and its own keys and values float[B, T, K, E].
        """
        normed = self.attention_norm(x)
        own = self.attention.keys_values(normed, angles, layout.packing)
        joined = own
        if before is not None:
            joined = (torch.cat((before[0], own[0]), dim=1), torch.cat((before[1], own[1]), dim=1))
        x = x + self.attention(normed, joined, layout, angles)
        return x + self.mlp(self.mlp_norm(x)), own


class AttentionPooling(nn.Module):
    """One learned query per head gathers a sequence into one vector (Set Transformer's PMA)."""

    def __init__(self, width: int, heads: int, out_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Parameter(torch.zeros(heads, width))
        self.norm = LayerNorm(width)
        self.value = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, out_width, bias=False)

    def forward(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """x: float[B, S, D], valid: bool[B, S] or None -> float[B, out_width]."""
        x = self.norm(x)
        scores = torch.einsum("bsd,hd->bhs", x, self.query.to(x.dtype)) / math.sqrt(x.shape[-1])
        if valid is not None:
            scores = scores.masked_fill(~valid[:, None], torch.finfo(scores.dtype).min)
        weights = scores.float().softmax(-1)
        values = self.value(x).view(*x.shape[:2], self.heads, -1)
        pooled = torch.einsum("bhs,bshe->bhe", weights.to(values.dtype), values)
        return self.out(pooled.flatten(1))


def init_weights(module: nn.Module) -> None:
    """Initialise in place: linears with a variance of 1 / fan-in, residual outputs at zero, embeddings at 0.02.

    Zero residual outputs make every block the identity at the start, so depth does not change the scale.
    """
    for name, child in module.named_modules():
        if isinstance(child, nn.Linear):
            if name.endswith((".attention.out", ".cross_attention.out", ".mlp.down")):
                nn.init.zeros_(child.weight)
            else:
                nn.init.normal_(child.weight, std=child.in_features**-0.5)
        elif isinstance(child, nn.Embedding):
            nn.init.normal_(child.weight, std=0.02)
        elif isinstance(child, LayerNorm):
            nn.init.ones_(child.weight)


def lengths_to_valid(lengths: Tensor, size: int) -> Tensor:
    """int[B] -> bool[B, size], True for the first `lengths[b]` positions."""
    return torch.arange(size, device=lengths.device)[None, :] < lengths[:, None]
