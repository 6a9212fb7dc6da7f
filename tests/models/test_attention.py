"""The attention back ends agree, padding is invisible, packed rows are nearly all used."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from multimodal_ai.models import attention
from multimodal_ai.models.attention import AttentionLayout, KeyRows, Packing, attend, rounded_rows


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


@given(st.lists(st.integers(0, 40), min_size=1, max_size=9).filter(any), st.booleans(), st.integers(0, 2**16))
def test_groups_of_neighbours_see_what_they_see_together(lengths: list[int], with_texts: bool, seed: int) -> None:
    torch.manual_seed(seed)
    own, keys = Packing(lengths, 40), None
    rows, listed = own.count, [[number % 3, -1] for number in range(len(lengths))]
    if with_texts:
        keys = KeyRows(own, Packing([5, 70, 1], 70), listed, [0, 5, 75], 76)
        rows += 76
    q = torch.randn(own.count, 4, 8, requires_grad=True)
    k, v = torch.randn(2, rows, 2, 8).unbind(0)
    valid = own.valid if keys is None else keys.packing.valid
    layout = AttentionLayout(key_valid=valid, packing=own, keys=keys)
    results = []
    for grouped in (10**9, 2):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(attention, "GROUPED", grouped)
            out = attend(q, k, v, layout, "matmul")[: own.total]
        results.append((out, *torch.autograd.grad(out.square().sum(), q)))
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
