"""The layers every part is made of: LayerNorm, rotary positions, attention, SwiGLU and the pre-norm block.

No layer here knows what its inputs mean, and none looks at a device: parallelism and precision are applied from
outside. Who may see whom is said by the layout that a layer is given (`attention.py`).

Dimension letters: B batch, T queries, S keys, D width, H heads, K key-value heads, E head width.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from multimodal_ai.models.attention import AttentionLayout, Backend, attend
from multimodal_ai.utils.config import ConfigModel


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
        # Autocast on a GPU would give FP32 back, and everything behind it would be twice as large.
        with no_autocast(x.device):
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

    def keys_values(self, memory: Tensor, angles: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """memory: float[B, S, D], or rows float[N, D] -> keys and values, each float[B, S, K, E] or float[N, K, E]."""
        k, v = self.key_value(memory).unflatten(-1, (2, self.kv_heads, self.head_width)).unbind(-3)
        k = self.key_norm(k)
        return (rotate(k, angles) if angles is not None else k), v

    def forward(
        self,
        x: Tensor,
        keys_values: tuple[Tensor, Tensor],
        layout: AttentionLayout,
        angles: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """x: float[B, T, D], or rows float[N, D] where the layout packs, attends to keys and values in the same
        form; returns the shape of x.
        """
        q = self._queries(x, angles)
        k, v = keys_values
        return self.out(attend(q, k.to(q.dtype), v.to(q.dtype), layout, self.backend).flatten(-2))

    def _queries(self, x: Tensor, angles: tuple[Tensor, Tensor] | None) -> Tensor:
        q = self.query_norm(self.query(x).unflatten(-1, (self.heads, self.head_width)))
        return q if angles is None else rotate(q, angles)

    def weights(
        self,
        x: Tensor,
        keys_values: tuple[Tensor, Tensor],
        layout: AttentionLayout,
        angles: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """What `forward` of the same arguments weighs the values with: float32[B, T, H, S], padded whatever the layout.

        For looking at a model. It holds a number for every query, head and key, which attending never does.
        """
        q, k = self._queries(x, angles), keys_values[0]
        if layout.packing is not None:
            k = layout.packing.pad(k) if layout.keys is None else layout.keys.padded(k)
            q = layout.packing.pad(q)
        k = k.to(q.dtype).repeat_interleave(self.heads // self.kv_heads, 2)
        scores = torch.einsum("bthe,bshe->bths", q, k).float() * self.head_width**-0.5
        bias = layout.bias(q.shape[1], k.shape[1], scores.dtype, scores.device)
        return (scores if bias is None else scores + bias.transpose(1, 2)).softmax(-1)


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
        """x: packed float[N, D]. `before`: rows of keys and values float[M, K, E] that stand before x's own in
        `layout.keys`. Returns the new x, and its own keys and values float[N, K, E].
        """
        normed = self.attention_norm(x)
        own = self.attention.keys_values(normed, angles)
        joined = own
        if before is not None:
            joined = (torch.cat((before[0], own[0])), torch.cat((before[1], own[1])))
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


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """What autocast computes products in; None where it is off."""
    available = torch.amp.is_autocast_available(device.type)
    return torch.get_autocast_dtype(device.type) if available and torch.is_autocast_enabled(device.type) else None


def no_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Inside, every operator keeps the dtype of its inputs."""
    if autocast_dtype(device) is None:
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


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
