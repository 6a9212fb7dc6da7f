"""The two attention back ends agree, padding is invisible, rotary positions are relative."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from multimodal_ai.models.layers import (
    AttentionLayout,
    BlockConfig,
    Packing,
    attend,
    rotary_angles,
    rotate,
    rounded_rows,
)


@pytest.mark.parametrize("heads, kv_heads", [(4, 4), (4, 2), (6, 1)])
@pytest.mark.parametrize("causal", [False, True])
def test_the_back_ends_agree(heads: int, kv_heads: int, causal: bool) -> None:
    torch.manual_seed(0)
    q = torch.randn(3, 7, heads, 8, requires_grad=True)
    k, v = torch.randn(2, 3, 7, kv_heads, 8).unbind(0)
    valid = torch.arange(7)[None] < torch.tensor([7, 4, 1])[:, None]
    results = []
    for backend in ("sdpa", "matmul"):
        out = attend(q, k, v, AttentionLayout(key_valid=valid, causal=causal), backend)  # type: ignore[arg-type]
        q.grad = None
        out.square().sum().backward()
        assert q.grad is not None
        results.append((out.detach(), q.grad.clone()))
    torch.testing.assert_close(results[0], results[1])


def test_auto_takes_the_written_out_products_for_bf16_on_a_cpu() -> None:
    q = torch.randn(1, 4, 2, 8, dtype=torch.bfloat16)
    layout = AttentionLayout()
    torch.testing.assert_close(attend(q, q, q, layout), attend(q, q, q, layout, "matmul"), rtol=0, atol=0)


@given(st.lists(st.integers(0, 6), min_size=1, max_size=5).filter(any))
def test_packing_and_padding_are_inverse(lengths: list[int]) -> None:
    packing = Packing(torch.tensor(lengths), max(lengths))
    given_rows = torch.arange(packing.valid.numel() * 2.0).view(*packing.valid.shape, 2) + 1
    rows = packing.unpad(given_rows)
    assert len(rows) == packing.count and (packing.full or packing.count == rounded_rows(sum(lengths)))
    assert torch.equal(rows[: sum(lengths)], given_rows[packing.valid])
    padded = packing.pad(rows)
    assert torch.equal(padded, given_rows * packing.valid[..., None])
    assert torch.equal(packing.unpad(padded)[: sum(lengths)], rows[: sum(lengths)])


@given(st.integers(1, 100_000))
def test_packed_rows_are_nearly_all_used(tokens: int) -> None:
    rows = rounded_rows(tokens)
    assert tokens <= rows and (rows - tokens) <= max(tokens / 16, 15)


def test_there_are_few_numbers_of_packed_rows() -> None:
    assert len({rounded_rows(tokens) for tokens in range(513, 8192)}) <= 4 * 16


@given(st.lists(st.integers(0, 6), min_size=1, max_size=5).filter(any))
def test_boundaries_of_sequences_cover_the_rows(lengths: list[int]) -> None:
    packing = Packing(lengths, max(lengths))
    for with_added, end in ((False, packing.total), (True, packing.count)):
        boundaries = packing.boundaries(with_added)
        sizes = boundaries.diff()
        assert boundaries.dtype == torch.int32 and boundaries[0] == 0 and boundaries[-1] == end
        assert int(sizes.max()) == packing.longest(with_added)
        held = [length for length in lengths[: len(sizes) - 1]]
        assert sizes[:-1].tolist() == held and int(sizes[-1]) >= 1


def test_rotary_scores_depend_on_the_distance_alone() -> None:
    torch.manual_seed(0)
    q, k = torch.randn(2, 1, 1, 1, 8).unbind(0)

    def score(a: int, b: int) -> torch.Tensor:
        turned = [rotate(x, rotary_angles(torch.tensor([[[place]]]), 8, 100.0)) for x, place in ((q, a), (k, b))]
        return (turned[0] * turned[1]).sum()

    torch.testing.assert_close(score(3, 1), score(9, 7))
    assert not torch.isclose(score(3, 1), score(3, 2))


def test_two_axes_share_the_head() -> None:
    positions = torch.tensor([[[1, 0], [0, 1]]])
    cos, _ = rotary_angles(positions, 8, 100.0)
    assert cos.shape == (1, 2, 4)
    assert torch.equal(cos[0, 0, 2:], torch.ones(2)) and torch.equal(cos[0, 1, :2], torch.ones(2))
    with pytest.raises(ValueError, match="head of width 6"):
        rotary_angles(positions, 6, 100.0)


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="heads 5"):
        _ = BlockConfig(width=32, layers=1, heads=5, kv_heads=1, hidden=8).head_width
