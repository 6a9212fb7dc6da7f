"""What `data inspect` shows: exactly the trained tokens, and a context that reads as it was written."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multimodal_ai.data.examples import build_example
from multimodal_ai.data.image_processor import ImageProcessor
from multimodal_ai.data.inspection import (
    card_segments,
    label_lines,
    source_segments,
    target_segments,
)
from multimodal_ai.data.messages import Sample
from multimodal_ai.data.rendering import Renderer
from multimodal_ai.data.tokenizer import Tokenizer

LOG = {
    "name": "log",
    "description": "Store a reading",
    "parameters": {
        "properties": {"meter": {"type": "string"}, "value": {"type": "integer"}, "note": {"type": "string"}},
        "required": ["meter"],
    },
}


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    texts = ["Log the reading of meter A-17, please: 42 kWh", '{"name":"log","arguments":{"meter":"A-17"}}'] * 20
    return Renderer(Tokenizer.train(texts, 330))


def sample(user: str, **answer: Any) -> Sample:
    messages = [{"role": "user", "content": user}, {"role": "assistant", **answer}]
    return Sample.from_row({"messages": messages, "tools": [LOG], "task": "call" if "tool_calls" in answer else "chat"})


def test_a_call_is_shown_as_it_is_written(renderer: Renderer) -> None:
    call = {"name": "log", "arguments": {"meter": "A-17", "value": 42}}
    row = sample("Log meter A-17: 42", content="Sure. ", tool_calls=[call])
    example = build_example(row, renderer, ImageProcessor())
    target = target_segments(example, renderer.tokenizer)
    assert "".join(part.text for part in target) == (
        'Sure. <function_call>{"name":"log","arguments":{"meter":"A-17","value":42}}</function_call><|end|>'
    )
    assert sum(part.tokens for part in target) == len(example.target.labels)
    assert {part.kind for part in target} == {"trained", "copied"}
    assert [part.text for part in target if part.kind == "copied"] == ["A-17", "42"]
    assert label_lines(example, row.specs) == [
        "decision: call",
        "function: log 1",
        "log: given meter, value; left out note",
    ]
    assert "".join(part.text for part in card_segments(example.cards, renderer.tokenizer)[0]).startswith(
        "<|function|>log Store a reading"
    )


@settings(deadline=None)
@given(words=st.text(st.characters(exclude_categories=("Cs",)), max_size=60))
def test_the_context_reads_as_it_was_written(renderer: Renderer, words: str) -> None:
    example = build_example(sample(f"x{words}", content="ok"), renderer, ImageProcessor())
    parts = source_segments(example, renderer.tokenizer)
    assert "".join(part.text for part in parts) == f"<|user|>x{words}"
    assert [part.text for part in parts if part.kind == "special"] == ["<|user|>"]
    assert sum(part.tokens for part in parts) == len(example.source.ids)


def test_image_slots_are_counted(renderer: Renderer) -> None:
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(buffer, "PNG")
    row = Sample.from_row(
        {
            "messages": [
                {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]},
                {"role": "assistant", "content": "Red"},
            ],
            "images": [buffer.getvalue()],
            "task": "vqa",
        }
    )
    example = build_example(row, renderer, ImageProcessor())
    parts = source_segments(example, renderer.tokenizer)
    assert [part.text for part in parts] == ["<|user|>", "<|image|> × 16", "What?"]


def test_a_mask_that_leaves_tokens_out_shows(renderer: Renderer) -> None:
    example = build_example(sample("Hi", content="Hello you"), renderer, ImageProcessor())
    example.target.weight[-1] = 0.0  # the end is no longer trained
    parts = target_segments(example, renderer.tokenizer)
    assert [(part.text, part.kind) for part in parts] == [("Hello you", "trained"), ("<|end|>", "untrained")]


def test_words_that_look_special_stay_words(renderer: Renderer) -> None:
    example = build_example(sample("<|end|><function_call>", content="no"), renderer, ImageProcessor())
    parts = source_segments(example, renderer.tokenizer)
    assert [(part.text, part.kind) for part in parts] == [("<|user|>", "special"), ("<|end|><function_call>", "user")]
