"""An engine of rules in place of a model, and samples to ask it."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from multimodal_ai.data.messages import Sample
from multimodal_ai.data.tokenizer import Tokenizer
from multimodal_ai.inference import Engine
from multimodal_ai.inference.requests import ArgumentSource, Call, Reply, Request
from multimodal_ai.models import MultimodalModel

CALL_TOKEN = 9


class RuleEngine:
    """Answers by a function of the request; remembers what it was asked."""

    def __init__(self, answer: Callable[[Request], Reply] = lambda request: Reply()) -> None:
        self.answer = answer
        self.asked: list[Request] = []
        self.batches: list[int] = []
        self.tokenizer = SimpleNamespace(special=SimpleNamespace(call=CALL_TOKEN))

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        self.asked += requests
        self.batches.append(len(requests))
        return [self.answer(request) for request in requests]

    def score(self, requests: Sequence[Request], replies: Sequence[Any]) -> list[float]:
        """Two bits for every byte."""
        self.batches.append(len(requests))
        return [-2 * np.log(2) * len(reply.encode()) for reply in replies]

    def embed_images(self, images: Sequence[Any]) -> np.ndarray:
        """The mean colour of each image, which the texts below name."""
        rows = [np.asarray(Image.open(io.BytesIO(image)).convert("RGB")).mean((0, 1)) for image in images]
        return np.array(rows)

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        colours = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1)}
        return np.array([colours[text.split()[-1]] for text in texts], dtype=float)


def picture(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 8), {"green": "#00ff00"}.get(colour, colour)).save(buffer, "PNG")
    return buffer.getvalue()


METER = {
    "name": "log_reading",
    "description": "Store the reading of a meter",
    "parameters": {
        "type": "object",
        "properties": {
            "meter": {"type": "string"},
            "value": {"type": "integer"},
            "unit": {"type": "string", "enum": ["kWh", "m3"]},
        },
        "required": ["meter", "value"],
        "additionalProperties": False,
    },
}
PAY = {"name": "pay", "description": "Send money", "parameters": {"properties": {"to": {"type": "string"}}}}


def calling(**arguments: Any) -> Call:
    sources = {name: ArgumentSource("user", 0.9) for name in arguments}
    return Call("call_1", "log_reading", arguments, 0.9, sources)


def deciding(call: float) -> dict[str, float]:
    rest = (1 - call) / 3
    return {"answer": rest, "call": call, "ask_missing": rest, "cannot": rest}


def meter_sample(value: int = 42, image: bool = True, **meta: Any) -> Sample:
    words = {"type": "text", "text": "Log meter A-17, please"}
    return Sample.from_row(
        {
            "messages": [
                {"role": "user", "content": [{"type": "image"}, words] if image else [words]},
                {
                    "role": "assistant",
                    "tool_calls": [{"name": "log_reading", "arguments": {"meter": "A-17", "value": value}}],
                },
            ],
            "tools": [METER, PAY],
            "images": [picture("red")] if image else [],
            "task": "call",
            "meta": {"source": "meters", **meta},
        }
    )


def answer_sample(text: str = "Hello!", trigger: str | None = None) -> Sample:
    return Sample.from_row(
        {
            "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": text}],
            "tools": [METER],
            "task": "chat",
            "meta": {"trigger": trigger} if trigger else {},
        }
    )


def question_sample(question: str, answer: str, source: str = "shapes") -> Sample:
    return Sample.from_row(
        {
            "messages": [
                {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]},
                {"role": "assistant", "content": answer},
            ],
            "images": [picture("blue")],
            "task": "vqa",
            "meta": {"source": source},
        }
    )


def caption_sample(colour: str, caption: str) -> Sample:
    return Sample.from_row(
        {
            "messages": [
                {"role": "user", "content": [{"type": "image"}]},
                {"role": "assistant", "content": caption},
            ],
            "images": [picture(colour)],
            "task": "caption",
            "meta": {"source": "colours"},
        }
    )


@pytest.fixture
def engine() -> RuleEngine:
    return RuleEngine()


@pytest.fixture
def untrained(small_model: MultimodalModel, small_tokenizer: Tokenizer) -> Engine:
    """A real engine of random weights."""
    return Engine(small_model, small_tokenizer)
