"""The packed back end sees what the padded one sees: with the kernel on a GPU, with a stand-in for it on a CPU."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from multimodal_ai.data.packing import Batch
from multimodal_ai.models import MultimodalModel, attention
from multimodal_ai.models.attention import AttentionLayout, KeyRows, Packing, attend
from multimodal_ai.models.layers import Attention
from multimodal_ai.training.losses import TrainingObjective

on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="varlen_attn has kernels for GPUs only")


def stand_in(
    q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, max_q: int, max_k: int, *,
    window_size: tuple[int, int], enable_gqa: bool,
) -> Tensor:  # fmt: skip
    """As torch.nn.attention.varlen.varlen_attn by its documentation, one sequence after the other. Rows outside of all
    sequences are NaN, as the kernel leaves them unwritten; keys outside get no gradient there, so there must be none.
    """
    assert cu_q.dtype == cu_k.dtype == torch.int32 and len(cu_q) == len(cu_k)
    assert int(cu_k[-1]) == len(k) == len(v) and max_q == int(cu_q.diff().max()) and max_k == int(cu_k.diff().max())
    assert enable_gqa == (q.shape[1] != k.shape[1])
    parts = []
    for (a, b), (c, d) in zip(pairwise(cu_q.tolist()), pairwise(cu_k.tolist()), strict=True):
        mask = torch.ones(b - a, d - c, dtype=torch.bool)
        if window_size == (-1, 0):  # causal, aligned at the end
            mask = mask.tril(d - c - (b - a))
        queries, keys, values = (part.transpose(0, 1)[None] for part in (q[a:b], k[c:d], v[c:d]))
        out = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, enable_gqa=enable_gqa)
        parts.append(out[0].transpose(0, 1))
    return torch.cat([*parts, q.new_full((len(q) - int(cu_q[-1]), *q.shape[1:]), float("nan"))])


def layouts(device: str = "cpu") -> dict[str, tuple[AttentionLayout, int, int]]:
    """Layouts with the numbers of rows of queries and keys that they are for; sequences are short, long and empty."""
    own = Packing([7, 1, 0, 30, 0], 30, device)
    texts = Packing([3, 9, 0, 2], 9, device)
    keys = KeyRows(own, texts, [[0, 1], [-1], [2], [3, 0], []], texts.starts, texts.count)
    whole, answers = Packing([5, 5], 5, device), Packing([4, 2, 1, 3, 1], 4, device)
    return {
        "itself": (AttentionLayout(key_valid=own.valid, packing=own), own.count, own.count),
        "causal": (AttentionLayout(causal=True, packing=own), own.count, own.count),
        "full": (AttentionLayout(causal=True, packing=whole), 10, 10),
        "cards": (AttentionLayout(key_valid=keys.packing.valid, packing=own, keys=keys), own.count,
                  texts.count + own.count),
        "context": cross_layout(answers, device),
    }  # fmt: skip


def cross_layout(answers: Packing, device: str) -> tuple[AttentionLayout, int, int]:
    context = Packing([6, 20, 2, 9, 1], 20, device)
    keys = KeyRows(context)
    return AttentionLayout(key_valid=keys.packing.valid, packing=answers, keys=keys), answers.count, context.count


def results(name: str, backend: str, device: str, dtype: torch.dtype, heads: int, kv_heads: int) -> list[Tensor]:
    layout, queries, keys = layouts(device)[name]
    generator = torch.Generator().manual_seed(0)
    shapes = ((queries, heads, 16), (keys, kv_heads, 16), (keys, kv_heads, 16))
    inputs = [torch.randn(shape, generator=generator).to(device, dtype).requires_grad_() for shape in shapes]
    out = attend(*inputs, layout, backend)  # type: ignore[arg-type]
    assert layout.packing is not None
    held = layout.packing.total  # the rows added behind these are nobody's
    out[:held].float().square().sum().backward()
    gradients = [each.grad for each in inputs]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
    return [out[:held].detach(), *(gradient for gradient in gradients if gradient is not None)]


@pytest.mark.parametrize("name", list(layouts()))
@pytest.mark.parametrize("heads, kv_heads", [(4, 4), (4, 2)])
def test_packed_and_padded_agree(name: str, heads: int, kv_heads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "varlen_attn", stand_in)
    found = results(name, "varlen", "cpu", torch.float32, heads, kv_heads)
    torch.testing.assert_close(found, results(name, "sdpa", "cpu", torch.float32, heads, kv_heads))


@on_a_gpu
@pytest.mark.parametrize("name", list(layouts()))
@pytest.mark.parametrize("heads, kv_heads", [(4, 4), (4, 2)])
def test_the_kernel_agrees_with_the_padded_reference(name: str, heads: int, kv_heads: int) -> None:
    found = results(name, "varlen", "cuda", torch.bfloat16, heads, kv_heads)
    expected = results(name, "sdpa", "cuda", torch.float32, heads, kv_heads)
    torch.testing.assert_close([each.float() for each in found], expected, rtol=3e-2, atol=3e-2)


def test_the_whole_model_agrees(
    small_model: MultimodalModel, micro_batches: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "varlen_attn", stand_in)
    batch: Batch = micro_batches(12, 12)[0]
    objective = TrainingObjective(small_model)
    found = {}
    for backend in ("sdpa", "varlen"):
        for module in small_model.modules():
            if isinstance(module, Attention):
                module.backend = backend  # type: ignore[assignment]
        small_model.zero_grad()
        sums = objective(batch)
        torch.stack(list(sums.values())).sum().backward()
        gradients = {name: p.grad for name, p in small_model.named_parameters() if p.grad is not None}
        found[backend] = (sums["language"].detach(), gradients)
    torch.testing.assert_close(found["varlen"], found["sdpa"], rtol=2e-3, atol=2e-4)
