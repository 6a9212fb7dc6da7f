"""The layers every part is made of: LayerNorm, rotary positions, attention, SwiGLU and the pre-norm block.

Attention is one function, `attend`, over one `AttentionLayout` that says who may see whom; the back
ends behind it are interchangeable and must agree. No layer here knows what its inputs mean, and none
looks at a device: parallelism and precision are applied from outside.

Dimension letters: B batch, T queries, S keys, D width, H heads, K key-value heads, E head width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from multimodal_ai.utils.config import ConfigModel

try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:  # torch built without it
    varlen_attn = None  # type: ignore[assignment]

Backend = Literal["auto", "sdpa", "matmul", "varlen"]
GROUPED = 8  # sequences whose attention is written out together, see `_attend_in_groups`


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
    """Sequences of different lengths without their padding: float[N, ...], N at least the sum of lengths.

    Everything that looks at one token at a time runs on the packed rows; attention pads them, or reads them as they
    are where the device can.

        lengths [3, 1]    packed  a0 a1 a2 b0    padded  a0 a1 a2
                                                         b0  .  .

    Lengths are numbers in main memory, so that nothing here waits for a device. N is rounded up a little
    (`rounded_rows`); the rows added are copies that no attention reads and nobody keeps.
    """

    def __init__(self, lengths: Sequence[int] | Tensor, size: int, device: torch.device | str | None = None) -> None:
        """lengths: one for each of B sequences (a tensor on a device is waited for); size: T, the padded length."""
        if isinstance(lengths, Tensor):
            device = device or lengths.device
            lengths = cast(list[int], lengths.tolist())
        self.lengths, self.shape = list(lengths), (len(lengths), size)
        self.device = torch.device(device or "cpu")
        self.total = sum(self.lengths)
        self.full = self.total == self.shape[0] * size
        held = np.arange(size) < np.array(self.lengths, dtype=np.int64)[:, None]
        self.valid = to_device(held, self.device)  # bool[B, T]
        rows = np.flatnonzero(held)
        added = 0 if self.full else rounded_rows(self.total) - self.total
        self.count = self.total + added  # N
        self.rows = to_device(np.pad(rows, (0, added)), self.device)  # where to read: those added read the first place
        # where to write: they write behind the end
        self._places = to_device(np.pad(rows, (0, added), constant_values=held.size), self.device)
        # Made here, not when asked for: a block that is compiled should find nothing but tensors and numbers.
        ends = np.cumsum([0, *np.trim_zeros(self.lengths, "b")], dtype=np.int32)  # empty ones at the end hold no rows
        extended = np.concatenate((ends[:-1], np.array([self.count], dtype=np.int32)))
        self._boundaries = [(to_device(e, self.device), int(np.diff(e).max(initial=0))) for e in (ends, extended)]

    @property
    def starts(self) -> np.ndarray:
        """int[B] on the host, the row where each sequence begins."""
        return np.cumsum([0, *self.lengths[:-1]])

    def pad(self, x: Tensor) -> Tensor:
        """float[N, ...] -> float[B, T, ...], zero where there is nothing."""
        if not self.full:
            x = x.new_zeros(self.shape[0] * self.shape[1] + 1, *x.shape[1:]).index_copy(0, self._places, x)[:-1]
        return x.unflatten(0, self.shape)

    def unpad(self, x: Tensor) -> Tensor:
        """float[B or 1, T, ...] -> float[N, ...]."""
        x = x.expand(*self.shape, *x.shape[2:]).flatten(0, 1)
        return x if self.full else x.index_select(0, self.rows)

    def boundaries(self, with_added: bool) -> Tensor:
        """int32[sequences + 1] where each begins and ends. The rows added belong to the last sequence, or to none."""
        return self._boundaries[with_added][0]

    def longest(self, with_added: bool) -> int:
        """Rows of the longest of these sequences."""
        return self._boundaries[with_added][1]


def rounded_rows(count: int) -> int:
    """The number of rows that `count` tokens are packed into: at most a sixteenth more.

    A CPU's matrix kernels are compiled once a shape, which takes as long as a product, and token counts that differ in
    every batch would compile them in every step.
    """
    step = min(max(1 << max(count.bit_length() - 5, 0), 16), 256)
    return -(-count // step) * step


def to_device(values: np.ndarray | Tensor, device: torch.device) -> Tensor:
    """The same numbers on the device, without waiting for it."""
    tensor = values if isinstance(values, Tensor) else torch.from_numpy(values)
    if tensor.device.type == "cpu" and device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


class KeyRows:
    """Which of given rows each sample attends to: of its texts, one behind the other, and then of its own sequence.

    The rows are those of all texts and behind them those of all sequences, packed or padded as `text_starts` says.

        texts A (2 rows), B (1), C (3);  sample 0 lists C and A and has the rows x y;  sample 1 lists none and has z
        sample 0 attends to C0 C1 C2 A0 A1 x y,  sample 1 to z
    """

    def __init__(
        self,
        own: Packing,
        texts: Packing | None = None,
        listed: Sequence[Sequence[int]] | None = None,
        text_starts: Sequence[int] | np.ndarray = (),
        text_rows: int = 0,
    ) -> None:
        """listed: for each sample the numbers of its texts, -1 none; text_starts: the row where each text begins;
        text_rows: how many rows stand before those of the sequences.
        """
        parts: list[np.ndarray] = []
        lengths = []
        for number, (start, length) in enumerate(zip(own.starts, own.lengths, strict=True)):
            found = [] if texts is None or listed is None else [text for text in listed[number] if text >= 0]
            assert texts is not None or not found
            ranges = [np.arange(text_starts[text], text_starts[text] + texts.lengths[text]) for text in found if texts]
            ranges.append(np.arange(text_rows + start, text_rows + start + length))
            parts += ranges
            lengths.append(sum(map(len, ranges)))
        rows = np.concatenate(parts)
        self.packing = Packing(lengths, -(-max(lengths) // 8) * 8, own.device)
        padded = np.zeros(self.packing.shape, dtype=np.int64)  # padding reads the first row: no query sees it
        padded[np.arange(padded.shape[1]) < np.array(lengths)[:, None]] = rows
        self._packed, self._padded = to_device(rows, own.device), to_device(padded.reshape(-1), own.device)

    def packed(self, x: Tensor) -> Tensor:
        """[rows, ...] -> [sum of lengths, ...]."""
        return x.index_select(0, self._packed)

    def padded(self, x: Tensor) -> Tensor:
        """[rows, ...] -> [B, S, ...]."""
        return x.index_select(0, self._padded).unflatten(0, self.packing.shape)


@dataclass
class AttentionLayout:
    """Who may attend to whom in a batch.

    key_valid: bool[B, S], False for padding; None when every key may be seen.
    causal: query t sees keys up to t, the query's own.
    allowed: bool[B, T, S], in the place of both.
    packing: how the queries are packed, and the keys too unless `keys` says otherwise; None when they come padded.
    keys: which rows of the keys and values each sample attends to.

        causal             key_valid [1 1 0]
        q0  1 0 0          q0  1 1 0
        q1  1 1 0          q1  1 1 0
    """

    key_valid: Tensor | None = None
    causal: bool = False
    allowed: Tensor | None = None
    packing: Packing | None = None
    keys: KeyRows | None = None

    def bias(self, queries: int, keys: int, dtype: torch.dtype, device: torch.device) -> Tensor | None:
        """Additive mask, broadcastable to [B, 1, queries, keys].

        Small, since heads share it, and made anew by every layer: a layout that remembered it by size would make
        torch.compile compile the block for every size.
        """
        allowed = None if self.allowed is None else self.allowed[:, None]
        if allowed is None and self.key_valid is not None:
            allowed = self.key_valid[:, None, None, :]
        if self.causal and queries > 1:
            position = torch.arange(keys, device=device)
            triangle = position[None, :] <= position[:queries, None]
            allowed = triangle[None, None] if allowed is None else allowed & triangle
        if allowed is None:
            return None
        # A finite minimum keeps a row that may see nothing at a harmless uniform average, not at NaN.
        empty = torch.zeros((), dtype=dtype, device=device)
        return empty.expand(allowed.shape).masked_fill(~allowed, torch.finfo(dtype).min)


def attend(q: Tensor, k: Tensor, v: Tensor, layout: AttentionLayout, backend: Backend = "auto") -> Tensor:
    """Scaled dot-product attention with grouped heads.

    q: float[B, T, H, E]; k, v: float[B, S, K, E]; or rows float[N, H, E] and float[M, K, E] where the layout
    packs. Returns the shape of q.

    `sdpa` is torch's fused kernel and the reference. `matmul` writes the two products out: in BF16 on a
    CPU, with sequences of around a hundred, it runs 4-8 times as fast as the fused kernel forward and
    backward (docs/decisions.md). `varlen` (GPU, half precision) reads packed rows as they are, without padding or
    mask; what comes padded goes to `sdpa`. `auto` takes whichever of them is the fastest here.
    """
    backend = _chosen(backend, q, layout)
    if backend == "varlen":
        return _attend_packed(q, k, v, layout)
    packing, keys = layout.packing, layout.keys
    if packing is None:
        return _attend_padded(q, k, v, layout, backend)
    if keys is not None:
        k, v = keys.padded(k), keys.padded(v)
    else:
        k, v = packing.pad(k), packing.pad(v)
    lengths = packing.lengths if keys is None else keys.packing.lengths
    if backend == "matmul" and layout.key_valid is not None and len(lengths) > GROUPED:
        return packing.unpad(_attend_in_groups(packing.pad(q), k, v, layout, lengths))
    return packing.unpad(_attend_padded(packing.pad(q), k, v, layout, backend))


def _attend_in_groups(q: Tensor, k: Tensor, v: Tensor, layout: AttentionLayout, key_lengths: Sequence[int]) -> Tensor:
    """A few neighbours at a time, which are then not padded to the longest of all: batches are ordered by length, and
    what is padded costs as much as what is not.
    """
    assert layout.packing is not None and layout.key_valid is not None
    query_lengths, (B, T, S) = layout.packing.lengths, (*q.shape[:2], k.shape[1])
    seen = []
    for start in range(0, B, GROUPED):
        rows = slice(start, start + GROUPED)
        t, s = _rounded(max(query_lengths[rows]), 16, T), _rounded(max(key_lengths[rows]), 32, S)
        group = AttentionLayout(layout.key_valid[rows, :s], layout.causal)
        found = _attend_padded(q[rows, :t], k[rows, :s], v[rows, :s], group, "matmul")
        seen.append(F.pad(found, (0, 0, 0, 0, 0, T - t)))
    return torch.cat(seen)


def _rounded(size: int, multiple: int, most: int) -> int:
    """The next multiple, at least one of them and at most `most`: few shapes mean few kernels to compile."""
    return min(max(-(-size // multiple), 1) * multiple, most)


def _chosen(backend: Backend, q: Tensor, layout: AttentionLayout) -> Backend:
    half, device = q.dtype in (torch.bfloat16, torch.float16), q.device.type
    if backend == "varlen" and layout.packing is None:
        return "sdpa"
    if backend != "auto":
        return backend
    if half and device == "cuda" and layout.packing is not None and q.shape[-1] % 8 == 0 and varlen_attn is not None:
        return "varlen"
    # What is padded is at most as long as the longest sequence; above this the fused kernel wins.
    longest = q.shape[1] if layout.packing is None else layout.packing.shape[1]
    return "matmul" if half and device == "cpu" and longest <= 512 else "sdpa"


def _attend_packed(q: Tensor, k: Tensor, v: Tensor, layout: AttentionLayout) -> Tensor:
    """Rows of several sequences, each attending to its own. The rows that packing added are queries of the last one;
    as keys nobody sees them, or, where the order counts, only what comes later does.
    """
    queries = layout.packing
    assert queries is not None and varlen_attn is not None
    if layout.keys is not None:
        keys, k, v = layout.keys.packing, layout.keys.packed(k), layout.keys.packed(v)
    else:
        keys = queries
    extended = layout.causal
    count = keys.count if extended else keys.total
    out = varlen_attn(
        q.contiguous(),
        k[:count],  # the kernel gives rows outside of all sequences no gradient, not even zero
        v[:count],
        queries.boundaries(True),
        keys.boundaries(extended),
        queries.longest(True),
        keys.longest(extended),
        window_size=(-1, 0 if layout.causal else -1),
        enable_gqa=q.shape[1] != k.shape[1],
    )
    return cast(Tensor, out)


def _attend_padded(q: Tensor, k: Tensor, v: Tensor, layout: AttentionLayout, backend: Backend) -> Tensor:
    B, T, H, E = q.shape
    S, K = k.shape[1], k.shape[2]
    bias = layout.bias(T, S, q.dtype, q.device)
    if backend != "matmul":
        if H != K and bias is not None and q.device.type == "cuda":  # no fused kernel there takes both
            k, v, K = k.repeat_interleave(H // K, 2), v.repeat_interleave(H // K, 2), H
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


def lengths_to_valid(lengths: Tensor, size: int) -> Tensor:
    """int[B] -> bool[B, size], True for the first `lengths[b]` positions."""
    return torch.arange(size, device=lengths.device)[None, :] < lengths[:, None]
