"""DESIGN 7.11: strings stay strings, Unicode stays Unicode, nested `$ref`, `anyOf`, enums and arrays survive."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multimodal_ai.data.tokenizer import Tokenizer
from multimodal_ai.functions import (
    FunctionLoop,
    FunctionRegistry,
    FunctionSpec,
    GrammarCompiler,
    canonical_arguments,
    canonical_json,
    parse_calls,
    validate_arguments,
)

SPEC = FunctionSpec(
    "keep",
    "Keep everything.",
    {
        "type": "object",
        "properties": {
            "zip": {"type": "string"},
            "choice": {"enum": ["1", 1, True, None, "é"]},
            "nested": {"$ref": "#/$defs/Outer"},
            "either": {"anyOf": [{"type": "integer"}, {"type": "string"}, {"type": "null"}]},
            "list": {"type": "array", "items": {"type": "array", "items": {"type": "string"}}},
        },
        "required": ["zip"],
        "$defs": {
            "Outer": {
                "type": "object",
                "properties": {"inner": {"$ref": "#/$defs/Inner"}, "again": {"$ref": "#/$defs/Outer"}},
            },
            "Inner": {"type": "object", "properties": {"code": {"type": "string"}}, "required": ["code"]},
        },
    },
)
LOOKS_LIKE_SOMETHING_ELSE = ["020", "5000", "1e5", "true", "null", "NaN", "[1]", '{"a":1}', "2024-01-01", "-0", " 7 "]
UNICODE = [
    "日本語",
    "한국어",
    "🙂👩‍👩‍👧",
    "Zürich",
    "ﷺ",
    "\u202e",
    "a\u0301",
    '"\\/\b\f\n\r\t',
    "\x00\x1f\x7f",
    "＜function_call＞",
]
TEXT = st.one_of(
    st.sampled_from(LOOKS_LIKE_SOMETHING_ELSE + UNICODE), st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train([canonical_json(SPEC.to_tool()), *UNICODE] * 3, 400)


@pytest.fixture(scope="module")
def grammar(tokenizer):
    return GrammarCompiler(tokenizer).compile([SPEC], "required")


ARGUMENTS = st.fixed_dictionaries(
    {"zip": TEXT},
    optional={
        "choice": st.sampled_from(["1", 1, True, None, "é"]),
        "nested": st.fixed_dictionaries({"inner": st.fixed_dictionaries({"code": TEXT})}),
        "either": st.one_of(st.none(), TEXT, st.integers(-(10**17), 10**17)),
        "list": st.lists(st.lists(TEXT, max_size=3), max_size=3),
    },
)


def same(first: Any, second: Any) -> bool:
    """Equal in value and in type: 1, True and "1" are three things."""
    return json.dumps(first) == json.dumps(second)


@settings(deadline=None)
@given(arguments=ARGUMENTS)
def test_values_pass_through_text_tokens_grammar_and_parser_unchanged(arguments, tokenizer, grammar) -> None:
    canonical = canonical_arguments(SPEC, arguments)
    assert same(canonical, canonical_arguments(SPEC, canonical_json(canonical)))
    assert canonical == arguments and validate_arguments(SPEC, canonical) == []
    ids = tokenizer.encode(canonical_json({"name": "keep", "arguments": canonical}))
    matcher = grammar.matcher()
    for id in (reply := [tokenizer.special.call, *ids, tokenizer.special.call_end]):
        assert matcher.allowed()[id]
        matcher.consume(id)
    assert matcher.may_end
    [call] = parse_calls(reply, tokenizer, [SPEC]).calls
    assert same(call.arguments, canonical)


@settings(deadline=None, max_examples=30)
@given(arguments=ARGUMENTS)
def test_a_function_receives_what_was_called(arguments) -> None:
    received: list[dict[str, Any]] = []
    registry = FunctionRegistry()
    registry.add(SPEC, call=lambda **given: received.append(given) or given, read_only=True)

    class Turn:
        def __init__(self, calls: list[Any], content: str = "") -> None:
            self.calls, self.content = calls, content

    class Call:
        id, name = "1", "keep"

        def __init__(self) -> None:
            self.arguments = canonical_json(arguments)

    turns = iter([Turn([Call()]), Turn([], "done")])
    result = FunctionLoop(lambda *_: next(turns), registry).run([{"role": "user", "content": "go"}])
    assert same(received, [canonical_arguments(SPEC, arguments)])
    assert result.messages[2]["content"] == canonical_json(canonical_arguments(SPEC, arguments))


@pytest.mark.parametrize(
    "wrong", [{"zip": 20}, {"zip": None}, {"zip": "1", "choice": 1.5}, {"zip": "1", "list": [["a", 1]]}]
)
def test_wrong_types_are_never_accepted(wrong, tokenizer, grammar) -> None:
    assert validate_arguments(SPEC, wrong)
    ids = tokenizer.encode(canonical_json({"name": "keep", "arguments": wrong}))
    matcher = grammar.matcher()
    with pytest.raises(ValueError):
        for id in [tokenizer.special.call, *ids, tokenizer.special.call_end]:
            matcher.consume(id)


def test_enumerations_tell_one_from_true_and_from_text() -> None:
    strict = FunctionSpec("f", "", {"properties": {"a": {"enum": [1, "x"]}}})
    assert validate_arguments(strict, {"a": 1}) == []
    assert validate_arguments(strict, {"a": "1"}) and validate_arguments(strict, {"a": True})
