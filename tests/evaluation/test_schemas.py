"""The schema suite: an untrained model passes, a model that breaks a schema does not."""

from __future__ import annotations

import random
from collections.abc import Sequence
from types import SimpleNamespace

import pytest

from multimodal_ai.data.recipes import RecipeContext
from multimodal_ai.evaluation import schemas
from multimodal_ai.functions import check_schema, schema_report
from multimodal_ai.inference import Engine
from multimodal_ai.inference.requests import Call, Reply, Request

CALL, CALL_END = 9, 10


class Scripted:
    """Calls the first function of each request with the arguments it is given."""

    def __init__(self, arguments: dict[str, object], ended: bool = True) -> None:
        self.arguments, self.ended = arguments, ended
        self.tokenizer = SimpleNamespace(special=SimpleNamespace(call=CALL, call_end=CALL_END))

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        tokens = [CALL, 1, *[CALL_END] * self.ended]
        return [Reply(calls=self._calls(request), token_ids=list(tokens)) for request in requests]

    def _calls(self, request: Request) -> list[Call]:
        return [Call("c", request.tools[0].name, self.arguments, 0.5)] if self.ended else []  # type: ignore[union-attr]


def test_an_untrained_model_makes_valid_calls_only(untrained: Engine) -> None:
    result = schemas.run(untrained, RecipeContext(limit=40), batch_size=16)
    assert result.metrics["valid"] == 1.0
    assert result.metrics["calls"] >= 40 and result.metrics["functions"] > 20
    assert result.metrics["cut_short"] < 0.5
    assert any(example.calls for example in result.examples)


def test_calls_that_break_their_schema_are_counted() -> None:
    result = schemas.run(Scripted({"nothing like this": 1}), RecipeContext(limit=8), batch_size=8)
    assert result.metrics["valid"] == 0.0
    assert "nothing like this" in result.examples[0].note


def test_a_refused_call_counts_and_a_missing_one_too() -> None:
    engine = Scripted({})
    engine._calls = lambda request: []  # type: ignore[method-assign]
    assert schemas.run(engine, RecipeContext(limit=2), batch_size=2).metrics["valid"] == 0.0
    engine.generate = lambda requests: [Reply("No.") for _ in requests]  # type: ignore[method-assign]
    result = schemas.run(engine, RecipeContext(limit=2), batch_size=2)
    assert result.metrics["valid"] == 0.0 and "no call" in result.examples[0].note


def test_a_model_that_finishes_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="none of 4 replies finished a call in 160 tokens"):
        schemas.run(Scripted({}, ended=False), RecipeContext(limit=2), batch_size=4)


def test_schemas_are_varied_the_same_every_time_and_enforced() -> None:
    keywords: set[str] = set()
    for number in range(300):
        first, again = schemas.random_request(0, number, 1), schemas.random_request(0, number, 1)
        assert first == again
        for spec in first.tools:
            check_schema(spec.parameters)  # type: ignore[union-attr]
            report = schema_report(spec)  # type: ignore[arg-type]
            assert {status for _, status in report} == {"enforced"}, report
            keywords |= {keyword for keyword, _ in report}
    assert {"$ref", "anyOf", "allOf", "pattern", "format:uuid", "prefixItems", "multipleOf", "const"} <= keywords
    assert schemas.random_function(random.Random(1), "a") != schemas.random_function(random.Random(2), "a")
