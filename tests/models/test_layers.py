"""Rotary positions are relative, and shapes that cannot be are refused."""

from __future__ import annotations

import pytest
import torch

from multimodal_ai.models.layers import BlockConfig, rotary_angles, rotate


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
