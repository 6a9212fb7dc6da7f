"""The cards of a sample stand behind each other without padding, and nothing of them is lost."""

from __future__ import annotations

import torch

from multimodal_ai.models.layers import lengths_to_valid
from multimodal_ai.models.text_encoder import MemoryPlaces


def test_the_tokens_of_listed_texts_follow_each_other_in_order() -> None:
    texts = torch.arange(4 * 12).view(4, 12)
    valid = lengths_to_valid(torch.tensor([12, 2, 5, 1]), 12)
    index = torch.tensor([[1, 2, 3], [2, -1, -1], [-1, -1, -1], [3, 3, 1]])
    places = MemoryPlaces.of(valid, index)
    assert places.valid.shape == (4, 8)  # at most 8 tokens, where padding would make 36
    gathered = places.gather(texts[..., None]).squeeze(-1)
    found = [row[real].tolist() for row, real in zip(gathered, places.valid, strict=True)]
    assert found == [[12, 13, 24, 25, 26, 27, 28, 36], [24, 25, 26, 27, 28], [], [36, 36, 12, 13]]
