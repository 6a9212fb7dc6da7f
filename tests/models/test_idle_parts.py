"""A batch without images, functions, pairs or values still touches every parameter, with a gradient of zero."""

from __future__ import annotations

from typing import Any

import pytest
from tests.conftest import build_model

from multimodal_ai.data.messages import Sample
from multimodal_ai.data.packing import collate
from multimodal_ai.data.tokenizer import Tokenizer
from multimodal_ai.training.losses import TERMS, TrainingObjective

ROWS: dict[str, Any] = {
    "text": {"messages": [{"role": "assistant", "content": "Plain text, nothing else."}], "task": "text"},
    "chat": {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]},
}


@pytest.mark.parametrize("fusion", ["projection", "cross_attention"])
@pytest.mark.parametrize("kind", ["text", "chat", "easy_vqa", "function_cards"])
def test_every_parameter_has_a_gradient(
    kind: str, fusion: str, small_tokenizer: Tokenizer, micro_batches: Any, samples: dict[str, list[Sample]]
) -> None:
    from multimodal_ai.data.examples import build_example

    objective = TrainingObjective(build_model(small_tokenizer, fusion))
    data = micro_batches(8, 8)
    if fusion == "cross_attention":
        data.renderer.config = data.renderer.config.model_copy(update={"image_slots": "one"})
    chosen = [Sample.from_row(ROWS[kind], "row 1")] if kind in ROWS else samples[kind][:1]
    batch = collate([build_example(sample, data.renderer, data.images[0]) for sample in chosen], 192, 0)
    sums = objective(batch)
    assert set(sums) == set(TERMS)
    sum(sums.values()).backward()  # type: ignore[union-attr]
    skipped = [name for name, p in objective.model.named_parameters() if p.requires_grad and p.grad is None]
    # the pairs' own scalars are reached whenever there is a pair on any rank; alone they may rest
    assert not [name for name in skipped if not name.startswith("contrastive")]
