"""Choosing the caption of an image among others by its likelihood."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from multimodal_ai.evaluation import captions
from multimodal_ai.inference.requests import Request

from .conftest import caption_sample

NAMES = {"#ff0000": "red", "#00ff00": "a very green one", "#0000ff": "blue"}


class Seeing:
    """Finds the right caption likelier by `sight` nats, and every byte of a caption less likely by `price`."""

    def __init__(self, sight: float, price: float) -> None:
        self.sight, self.price = sight, price

    def score(self, requests: Sequence[Request], replies: Sequence[Any]) -> list[float]:
        return [self._score(request, reply) for request, reply in zip(requests, replies, strict=True)]

    def _score(self, request: Request, reply: str) -> float:
        pixel = Image.open(io.BytesIO(request.images[0])).convert("RGB").getpixel((0, 0))
        right = NAMES["#{:02x}{:02x}{:02x}".format(*pixel)] == reply
        return self.sight * right - self.price * len(reply)


SAMPLES = [caption_sample(colour, name) for colour, name in NAMES.items()]


def test_the_likeliest_caption_is_chosen() -> None:
    result = captions.run(Seeing(1.0, 0.0), SAMPLES, batch_size=2)
    assert [result.metrics[name] for name in ("accuracy", "accuracy_per_byte", "accuracy_relative")] == [1, 1, 1]
    assert (result.metrics["choices"], result.metrics["count"]) == (3, 3)


def test_a_long_caption_is_only_found_relative_to_its_own_likelihood() -> None:
    result = captions.run(Seeing(1.0, 1.0), SAMPLES)
    assert result.metrics["accuracy"] < 1 and result.metrics["accuracy_relative"] == 1
    wrong = next(example for example in result.examples if not example.correct)
    assert (wrong.expected, wrong.given) == ("a very green one", "red")


def test_a_blind_model_is_at_chance_or_below() -> None:
    result = captions.run(Seeing(0.0, 1.0), SAMPLES)
    assert result.metrics["accuracy"] == pytest.approx(1 / 3) == pytest.approx(result.metrics["chance"])


@given(st.lists(st.sampled_from("abcdefgh"), min_size=2, max_size=60), st.integers(2, 9))
def test_a_gallery_holds_different_captions_and_no_row_twice(texts: list[str], choices: int) -> None:
    if len(set(texts)) < 2:
        with pytest.raises(ValueError, match="two different captions"):
            captions.galleries(texts, choices)
        return
    found = captions.galleries(texts, choices)
    rows = [row for gallery in found for row in gallery]
    assert found and len(rows) == len(set(rows))
    for gallery in found:
        assert len({texts[row] for row in gallery}) == len(gallery) == min(choices, len(set(texts)))
    assert found == captions.galleries(texts, choices)


def test_scores_keep_their_places() -> None:
    nats = captions._likelihoods(Seeing(5.0, 0.0), SAMPLES, batch_size=4)
    assert np.array_equal(nats, 5 * np.eye(3))
