"""DESIGN 7.9: every call parses, names a known function and validates; generation always can end; deltas add up.

Shown for the grammar and the parser with a policy that knows nothing: it chooses at random.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from multimodal_ai.data.tokenizer import Tokenizer
from multimodal_ai.functions import (
    CallParser,
    FunctionSpec,
    GrammarCompiler,
    canonical_json,
    validate_arguments,
)

SPECS = [
    FunctionSpec(
        "order",
        "Order goods.",
        {
            "type": "object",
            "properties": {
                "items": {"type": "array", "items": {"$ref": "#/$defs/Item"}, "minItems": 1},
                "zip": {"type": "string", "pattern": "^[0-9]{3,5}$"},
                "when": {"type": "string", "format": "date-time"},
                "price": {"type": "number", "minimum": 0},
                "to": {"anyOf": [{"type": "null"}, {"type": "string", "maxLength": 20}, {"$ref": "#/$defs/Item"}]},
                "notes": {},
            },
            "required": ["items", "zip"],
            "$defs": {
                "Item": {
                    "type": "object",
                    "properties": {
                        "name": {"type": "string"},
                        "size": {"enum": ["S", "M", 3, None]},
                        "parts": {"type": "array", "items": {"$ref": "#/$defs/Item"}},
                    },
                    "required": ["name", "size"],
                }
            },
        },
    ),
    FunctionSpec("stop", "Stop."),
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    texts = [canonical_json(spec.to_tool()) for spec in SPECS] + ['"}},{"', '","', '":[{"', "</function_call><|end|>"]
    return Tokenizer.train(texts * 5, 450)


@pytest.mark.parametrize("choice", ["auto", "required", {"name": "order"}])
@pytest.mark.parametrize("seed", range(15))
def test_a_random_policy_only_makes_valid_calls_and_comes_to_an_end(tokenizer, choice, seed) -> None:
    rng = random.Random(seed)
    special = tokenizer.special
    grammar = GrammarCompiler(tokenizer).compile(SPECS, choice)
    matcher = grammar.matcher()
    parser = CallParser(tokenizer, SPECS)
    known = {spec.name: spec for spec in SPECS}
    deltas: dict[int, str] = {}
    specials = set(range(len(tokenizer.special.masks) + 12)) - {special.call, special.call_end, special.end}
    count = calls = 0
    while not matcher.is_done:
        following = matcher.forced()
        if not following:
            allowed = np.flatnonzero(matcher.allowed()).tolist()
            assert allowed, "generation is stuck"
            assert specials.isdisjoint(allowed), "a special token is offered as content"
            closing = [id for id in allowed if id == special.end or tokenizer.token_bytes(id)[:1] in (b'"', b"}", b"]")]
            following = [rng.choice(closing if closing and count > 60 else allowed)]
        for id in following:
            matcher.consume(id)
            for event in parser.push(id):
                if event.kind == "arguments":
                    deltas[event.index] = deltas.get(event.index, "") + event.text
                elif event.kind == "call_end":
                    calls += 1
                    assert event.name in known and event.arguments is not None
                    assert validate_arguments(known[event.name], event.arguments) == []
                    assert deltas[event.index] == event.text
                else:
                    assert event.kind in ("text", "call_start")
        count += len(following)
        assert count < 100_000, "generation does not end"
    assert parser.close() == [] and (calls or choice == "auto")


def test_the_same_ids_give_the_same_call_one_by_one_or_all_at_once(tokenizer) -> None:
    arguments: dict[str, Any] = {"items": [{"name": "日本 🙂", "size": None}], "zip": "020", "notes": {"a": [1.5, "x"]}}
    text = canonical_json({"name": "order", "arguments": arguments})
    whole = tokenizer.encode(text)
    single = [
        next(i for i in range(28, tokenizer.vocab_size) if tokenizer.token_bytes(i) == bytes([b]))
        for b in text.encode()
    ]
    found = []
    for ids in (whole, single):
        parser = CallParser(tokenizer, SPECS)
        events = [e for id in [tokenizer.special.call, *ids, tokenizer.special.call_end] for e in parser.push(id)]
        assert "".join(e.text for e in events if e.kind == "arguments") == canonical_json(arguments)
        found.append(events[-1].arguments)
    assert found == [arguments, arguments]
