"""The loss over a vocabulary is torch's, forward and backward, in one chunk or many."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from multimodal_ai.training import cross_entropy
from multimodal_ai.training.cross_entropy import token_losses


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 7, 64])
def test_losses_and_gradients_are_those_of_torch(
    dtype: torch.dtype, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(cross_entropy.CHUNK, "cpu", 50 * 3)  # three rows at a time
    torch.manual_seed(0)
    states, embedding = torch.randn(rows, 16), torch.randn(50, 16)
    labels, upstream = torch.randint(0, 50, (rows,)), torch.rand(rows)
    results = []
    for own in (True, False):
        x, w = states.to(dtype).requires_grad_(), embedding.to(dtype).requires_grad_()
        losses = token_losses(x, w, labels) if own else F.cross_entropy((x @ w.T).float(), labels, reduction="none")
        assert losses.dtype == torch.float32
        losses.backward(upstream)
        results.append((losses.detach(), x.grad, w.grad))
    tolerance = {"rtol": 1e-5, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 2e-2}
    torch.testing.assert_close(results[0], results[1], **tolerance)


def test_it_can_be_differentiated_once() -> None:
    x = torch.randn(2, 4, requires_grad=True)
    loss = token_losses(x, torch.randn(5, 4), torch.tensor([0, 1])).sum()
    loss.backward(retain_graph=True)
    with pytest.raises(AssertionError, match="once"):
        loss.backward()
