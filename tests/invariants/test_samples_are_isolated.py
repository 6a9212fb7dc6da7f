"""Samples of a batch do not see each other, and no result depends on the size of the batch."""

from __future__ import annotations

from typing import Any

import torch

from multimodal_ai.data.packing import Batch, collate
from multimodal_ai.models import MultimodalModel

TOLERANCE: dict[str, float] = {"rtol": 2e-4, "atol": 2e-4}


@torch.inference_mode()
def test_changing_one_sample_leaves_the_others_bitwise_equal(small_model: MultimodalModel, micro_batches: Any) -> None:
    batch: Batch = micro_batches(12, 12)[0]
    before = small_model(batch)
    row = int(batch.source_lengths.argmax())
    last = int(batch.source_lengths[row]) - 1
    batch.source_ids[row, 1:last] = batch.source_ids[row, 1:last].flip(0)
    batch.target_ids[row] = batch.target_ids[row].flip(0)
    after = small_model(batch)
    others = [number for number in range(12) if number != row]
    assert not torch.equal(before.decoder_states[row], after.decoder_states[row])
    assert torch.equal(before.decoder_states[others], after.decoder_states[others])
    assert torch.equal(before.scores.trigger[others], after.scores.trigger[others])


@torch.inference_mode()
def test_a_sample_alone_scores_as_in_a_batch(small_model: MultimodalModel, micro_batches: Any) -> None:
    data = micro_batches(12, 12)
    examples = [data.example(position) for position in range(12)]
    together = small_model(collate(examples, 192, 0))
    for number, example in enumerate(examples):
        alone = small_model(collate([example], 192, 0))
        T, F = len(example.target.ids), len(example.cards)
        torch.testing.assert_close(together.decoder_states[number, :T], alone.decoder_states[0, :T], **TOLERANCE)
        torch.testing.assert_close(together.scores.trigger[number], alone.scores.trigger[0], **TOLERANCE)
        selection = torch.cat((together.scores.selection[number, :F], together.scores.selection[number, -1:]))
        torch.testing.assert_close(selection, alone.scores.selection[0], **TOLERANCE)


@torch.inference_mode()
def test_a_card_does_not_depend_on_the_request(small_model: MultimodalModel, micro_batches: Any) -> None:
    batch: Batch = micro_batches(12, 12)[0]
    before = small_model.encode_texts(batch.text_ids, batch.text_space, batch.text_lengths)
    few = small_model.encode_texts(batch.text_ids[:2], batch.text_space[:2], batch.text_lengths[:2])
    torch.testing.assert_close(before.pooled[:2], few.pooled, **TOLERANCE)
