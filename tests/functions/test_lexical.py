"""BM25 over function cards: against the formula written out, and over thousands of cards in no time."""

from __future__ import annotations

import math
import random
import time
from collections import Counter

import pytest

from multimodal_ai.functions import FunctionSpec
from multimodal_ai.functions.lexical import LexicalIndex, lexical_scores, words

SPECS = [
    FunctionSpec("get_weather", "Weather of a city", {"properties": {"city": {"description": "name of the city"}}}),
    FunctionSpec("bookHotel", "Book a room in a city", {"properties": {"nights": {}}}),
    FunctionSpec("stop", ""),
]


def by_hand(request: str, specs: list[FunctionSpec]) -> list[float]:
    cards = [
        Counter(
            words(
                f"{spec.name} {spec.description} {' '.join(spec.parameter_names)} "
                + " ".join(str(spec.parameter_schema(name).get("description", "")) for name in spec.parameter_names)
            )
        )
        for spec in specs
    ]
    query, mean = set(words(request)), sum(card.total() for card in cards) / len(cards)
    return [
        sum(
            math.log1p((len(cards) + 10 - sum(word in c for c in cards)) / (sum(word in c for c in cards) + 0.5))
            * card[word]
            * 2.2
            / (card[word] + 1.2 * (0.25 + 0.75 * card.total() / mean))
            for word in query
        )
        / len(query)
        for card in cards
    ]


@pytest.mark.parametrize("request_text", ["What is the weather in the city of Rome?", "book hotels", "stop", "xyz"])
def test_scores_are_the_formula(request_text: str) -> None:
    assert lexical_scores(request_text, SPECS) == pytest.approx(by_hand(request_text, SPECS))
    assert lexical_scores(request_text, SPECS[:1]) == pytest.approx(by_hand(request_text, SPECS[:1]))


def test_nothing_in_common_is_zero_and_nothing_given_is_empty() -> None:
    assert lexical_scores("", SPECS) == [0.0, 0.0, 0.0] == lexical_scores("the of", SPECS)
    assert lexical_scores("weather", []) == []


def test_an_index_over_thousands_answers_at_once() -> None:
    rng = random.Random(0)
    vocabulary = [f"w{chr(97 + number % 26)}{chr(97 + number // 26 % 26)}{number}" for number in range(2000)]
    specs = [FunctionSpec(f"f{number}", " ".join(rng.choices(vocabulary, k=20))) for number in range(3000)]
    index = LexicalIndex(specs)
    began = time.perf_counter()
    for number in range(50):
        assert index.scores(specs[number].description).argmax() == number
    assert time.perf_counter() - began < 2  # quadratic counting takes minutes


def test_the_index_of_a_set_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    make = LexicalIndex.__init__
    monkeypatch.setattr(LexicalIndex, "__init__", lambda self, specs: made.append(specs) or make(self, specs))
    specs = [FunctionSpec(f"only_here_{number}", "Weather of a city") for number in range(3)]
    first = lexical_scores("weather in the city", specs)
    assert lexical_scores("weather in the city", list(specs)) == first and len(made) == 1
    lexical_scores("weather in the city", specs[:2])
    assert len(made) == 2
