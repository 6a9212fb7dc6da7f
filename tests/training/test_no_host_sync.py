"""Forward and backward of a step wait for no device: all that they need to know of a batch is in main memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.conftest import build_model

from multimodal_ai.data.examples import hide_functions
from multimodal_ai.data.packing import collate
from multimodal_ai.data.tokenizer import Tokenizer
from multimodal_ai.models import MultimodalModel
from multimodal_ai.models.layers import Attention
from multimodal_ai.training.losses import TrainingObjective


def batch_of_everything(micro_batches: Any, one_slot: bool) -> Any:
    """Images, functions, captions, plain texts, and functions that must be found."""
    data = micro_batches(24, 24)
    if one_slot:
        data.renderer.config = data.renderer.config.model_copy(update={"image_slots": "one"})
    examples = [data.example(position) for position in range(24)]
    calling = next(e for e in examples if e.selection is not None and not e.selection[-1])
    batch = collate([*examples, hide_functions(calling)], 192, 0, multiple=16)
    assert len(batch.slots) and batch.card_index.shape[1] and len(batch.pair_image) and len(batch.retrieval_row)
    return batch


@pytest.mark.parametrize("fusion", ["projection", "cross_attention"])
@pytest.mark.parametrize("backend", ["auto", "varlen"])
def test_nothing_of_a_step_depends_on_numbers_that_lie_on_a_device(
    small_tokenizer: Tokenizer, micro_batches: Any, fusion: str, backend: str
) -> None:
    """On the meta device there are no numbers: whatever waits for one fails there."""
    config = build_model(small_tokenizer, fusion).config
    with torch.device("meta"):
        model = MultimodalModel(config)
    for module in model.modules():
        if isinstance(module, Attention):
            module.backend = backend  # type: ignore[assignment]
    batch = batch_of_everything(micro_batches, one_slot=fusion == "cross_attention").to("meta")
    sums = TrainingObjective(model, dict.fromkeys(("language", "contrastive", "retrieval"), 1.0))(batch)
    torch.stack(list(sums.values())).sum().backward()
    missing = [name for name, p in model.named_parameters() if p.grad is None]
    assert not missing
    assert all(p.grad.shape == p.shape for p in model.parameters() if p.grad is not None)


def test_what_does_wait_is_noticed() -> None:
    with pytest.raises(RuntimeError):
        torch.ones(3, device="meta").sum().item()
    with pytest.raises((RuntimeError, NotImplementedError)):
        torch.ones(3, device="meta").nonzero()
