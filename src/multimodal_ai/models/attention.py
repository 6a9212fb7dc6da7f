"""Attention: one function, `attend`, over one `AttentionLayout` that says who may see whom.

Also how sequences are packed (`Packing`) and which rows each may see (`KeyRows`). The back ends behind `attend` are
interchangeable and must agree. Nothing here has weights, or knows what the rows mean.

Dimension letters: B batch, T queries, S keys, H heads, K key-value heads, E head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:  # torch built without it
    varlen_attn = None  # type: ignore[assignment]

Backend = Literal["auto", "sdpa", "matmul", "varlen"]
GROUPED = 8  # sequences whose attention is written out together, see `_attend_in_groups`


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


def lengths_to_valid(lengths: Tensor, size: int) -> Tensor:
    """int[B] -> bool[B, size], True for the first `lengths[b]` positions."""
    return torch.arange(size, device=lengths.device)[None, :] < lengths[:, None]
