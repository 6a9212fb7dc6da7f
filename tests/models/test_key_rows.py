"""What a sample attends to stands together without padding, cards first, and nothing of it is lost."""

from __future__ import annotations

import numpy as np
import torch

from multimodal_ai.models.attention import KeyRows, Packing

LISTED = [[1, 2, 3], [2, -1, -1], [-1, -1, -1], [3, 3, 1]]
EXPECTED = [
    [10, 11, 20, 21, 22, 23, 24, 30, 50, 51],
    [20, 21, 22, 23, 24, 52],
    [53, 54, 55],
    [30, 30, 10, 11, 56, 57],
]


def test_the_tokens_of_listed_texts_stand_before_the_samples_own() -> None:
    texts, own = Packing([8, 2, 5, 1], 8), Packing([2, 1, 3, 2], 3)
    for starts, rows_of_texts in ((np.arange(4) * 8, 32), (texts.starts, texts.count)):  # padded texts, packed texts
        rows = torch.full((rows_of_texts + own.count,), -1)
        for text, (start, length) in enumerate(zip(starts, texts.lengths, strict=True)):
            rows[start : start + length] = text * 10 + torch.arange(length)
        rows[rows_of_texts : rows_of_texts + 8] = torch.arange(50, 58)
        keys = KeyRows(own, texts, LISTED, starts, rows_of_texts)
        assert keys.packing.valid.shape == (4, 16)  # at most 10 tokens, where padding would make 27
        padded = keys.padded(rows)
        assert [row[real].tolist() for row, real in zip(padded, keys.packing.valid, strict=True)] == EXPECTED
        assert keys.packed(rows).tolist() == [row for sample in EXPECTED for row in sample]


def test_without_texts_every_sample_has_its_own_rows() -> None:
    own = Packing([2, 1], 2)
    keys = KeyRows(own)
    assert keys.packed(torch.arange(own.count)).tolist() == [0, 1, 2]
