"""The loss covers exactly what the assistant writes, and placeholders match visual tokens."""

from __future__ import annotations

from typing import Any

import pytest

from multimodal_ai.data.examples import build_example
from multimodal_ai.data.image_processor import ImageProcessor
from multimodal_ai.data.messages import Sample
from multimodal_ai.data.packing import IGNORED, collate
from multimodal_ai.data.rendered_call import render_call
from multimodal_ai.data.rendering import Renderer


@pytest.mark.parametrize("recipe", ["digits", "function_cards", "easy_vqa"])
def test_the_labels_are_the_answer_and_nothing_else(
    recipe: str, samples: dict[str, list[Sample]], renderer: Renderer, image_processor: ImageProcessor
) -> None:
    special = renderer.tokenizer.special
    for sample in samples[recipe]:
        example = build_example(sample, renderer, image_processor)
        last = sample.messages[-1]
        written = last.text + "".join(
            f"<function_call>{render_call(call.name, call.arguments).text}</function_call>" for call in last.tool_calls
        )
        labels = example.target.labels
        assert renderer.tokenizer.decode(labels[:-1], skip_special=False) == written and labels[-1] == special.end
        assert example.target.ids == [special.assistant, *labels[:-1]]
        assert all(weight > 0 for weight in example.target.weight)
        assert special.image not in labels
        slots = sum(grid[0] * grid[1] // 4 for grid in (image.grid for image in example.images))
        assert example.source.ids.count(special.image) == len(example.source.slots) == slots


def test_padding_carries_no_loss(micro_batches: Any) -> None:
    data = micro_batches(16, 16)
    examples = [data.example(position) for position in range(16)]
    batch = collate(examples, 192, 0)
    for number, example in enumerate(examples):
        T = len(example.target.ids)
        assert (batch.labels[number, T:] == IGNORED).all() and not batch.label_weight[number, T:].any()
        assert (batch.labels[number, :T] >= 0).all()
    assert len(batch.slots) == len(batch.slot_image) == len(batch.slot_token)
