"""Grammars over token ids: choices, forced tokens, ends, limits."""

from __future__ import annotations

import itertools
import random
import time
from typing import Any

import numpy as np
import pytest

from multimodal_ai.functions import (
    FunctionSpec,
    GrammarCompiler,
    GrammarError,
    SchemaError,
    canonical_json,
    parse_calls,
    validate_arguments,
)
from multimodal_ai.functions.choices import format_errors


def call_ids(tokenizer: Any, name: str, arguments: dict[str, Any]) -> list[int]:
    text = canonical_json({"name": name, "arguments": arguments})
    return [tokenizer.special.call, *tokenizer.encode(text), tokenizer.special.call_end]


def accepts(grammar: Any, ids: list[int]) -> bool:
    matcher = grammar.matcher()
    for id in ids:
        if not matcher.allowed()[id]:
            return False
        matcher.consume(id)
    return True


@pytest.mark.parametrize("choice", ["auto", "required", {"name": "log_reading"}, "none"])
@pytest.mark.parametrize("parallel", [True, False])
def test_random_policies_only_make_valid_replies(choice, parallel, compiler, functions, walk, tokenizer) -> None:
    grammar = compiler.compile(functions, choice, parallel)
    by_name = {spec.name: spec for spec in functions}
    counts = set()
    for seed in range(30):
        result = walk(grammar, seed)
        assert result.ended
        reply = parse_calls(result.ids, tokenizer, functions)
        assert not reply.errors
        for call in reply.calls:
            assert validate_arguments(by_name[call.name], call.arguments) == []
        counts.add(len(reply.calls))
        if choice == "none":
            assert reply.content and not reply.calls
        if choice == "required":
            assert not reply.content and reply.calls
        if isinstance(choice, dict):
            assert not reply.content and [call.name for call in reply.calls] == ["log_reading"]
        assert reply.content or reply.calls, "an empty reply is no answer"
    if choice == "required":
        assert (max(counts) > 1) is parallel


def test_text_may_come_before_calls_and_nothing_after_them(compiler, functions, tokenizer) -> None:
    grammar = compiler.compile(functions, "auto", parallel=True)
    call, end = call_ids(tokenizer, "refresh", {}), tokenizer.special.end
    text = tokenizer.encode("I will.")
    assert accepts(grammar, [*text, end]) and accepts(grammar, [*call, end])
    assert accepts(grammar, [*text, *call, *call, end])
    assert not accepts(grammar, [*call, *text]) and not accepts(grammar, [end])
    assert not accepts(compiler.compile(functions, "auto", parallel=False), [*call, *call])


def test_names_argument_order_and_spacing_are_fixed(compiler, functions, tokenizer) -> None:
    grammar = compiler.compile(functions, "required")
    special = tokenizer.special
    good = '{"name":"log_reading","arguments":{"meter":"a","value":1}}'
    assert accepts(grammar, [special.call, *tokenizer.encode(good), special.call_end])
    for bad in (
        good.replace(",", ", "),
        good.replace(":", ": "),
        good.replace("log_reading", "log_everything"),
        '{"arguments":{"meter":"a","value":1},"name":"log_reading"}',
        '{"name":"log_reading","arguments":{"value":1,"meter":"a"}}',
        '{"name":"log_reading","arguments":{"meter":"a"}}',
        '{"name":"log_reading","arguments":{"meter":"a","value":1,"more":1}}',
        '{"name":"log_reading","arguments":{"meter":"a","value":"1"}}',
        '{"name":"log_reading","arguments":{"meter":"a","value":1.5}}',
        '{"name":"log_reading","arguments":{"meter":"\\u65e5","value":1}}',
        '{"name":"log_reading","arguments":{"meter":"a","value":1,"unit":"m"}}',
    ):
        assert not accepts(grammar, [special.call, *tokenizer.encode(bad), special.call_end]), bad


def test_forced_tokens_are_those_that_training_text_has(compiler, functions, tokenizer, make_call) -> None:
    """What is written without asking the model is cut into tokens just as the tokenizer cuts whole calls."""
    rng = random.Random(1)
    forced = total = 0
    for choice in ("auto", "required", {"name": "log_reading"}):
        grammar = compiler.compile(functions, choice)
        for _ in range(60):
            name, arguments = make_call(rng)
            if isinstance(choice, dict) and name != choice["name"]:
                continue
            ids = [*call_ids(tokenizer, name, arguments), tokenizer.special.end]
            matcher, position = grammar.matcher(), 0
            while position < len(ids):
                following = matcher.forced()
                forced += len(following)
                assert following == ids[position : position + len(following)]
                following = following or [ids[position]]
                assert matcher.allowed()[following[0]]
                for id in following:
                    matcher.consume(id)
                position += len(following)
            assert matcher.is_done and matcher.forced() == []
            total += len(ids)
    assert forced / total > 0.4


def test_every_canonical_call_is_allowed(compiler, functions, tokenizer, make_call) -> None:
    rng = random.Random(2)
    grammar = compiler.compile(functions)
    for _ in range(100):
        assert accepts(grammar, [*call_ids(tokenizer, *make_call(rng)), tokenizer.special.end])


def test_a_forbidden_token_is_refused_and_changes_nothing(compiler, functions, tokenizer) -> None:
    matcher = compiler.compile(functions, "required").matcher()
    before = matcher.allowed()
    for bad in (tokenizer.special.end, tokenizer.special.pad, tokenizer.encode("x")[0]):
        with pytest.raises(GrammarError, match="not allowed"):
            matcher.consume(bad)
    assert (matcher.allowed() == before).all() and before.dtype == bool and before.sum() == 1


def test_copies_go_their_own_way(compiler, functions, tokenizer) -> None:
    matcher = compiler.compile(functions).matcher()
    twin = matcher.copy()
    twin.consume(tokenizer.special.call)
    assert matcher.allowed()[tokenizer.encode("x")[0]] and not twin.allowed()[tokenizer.encode("x")[0]]
    assert not matcher.may_end


def test_the_end_is_allowed_exactly_where_the_reply_is_complete(compiler, functions, tokenizer) -> None:
    matcher = compiler.compile(functions, {"name": "refresh"}).matcher()
    ids = call_ids(tokenizer, "refresh", {})
    for id in ids:
        assert not matcher.allowed()[tokenizer.special.end] and not matcher.may_end
        matcher.consume(id)
    assert np.flatnonzero(matcher.allowed()).tolist() == [tokenizer.special.end] == matcher.forced()
    matcher.consume(tokenizer.special.end)
    assert matcher.is_done and not matcher.allowed().any()
    with pytest.raises(GrammarError):
        matcher.consume(tokenizer.special.end)


def test_grammars_are_kept_and_the_oldest_forgotten(tokenizer, functions) -> None:
    compiler = GrammarCompiler(tokenizer, cache_size=2)
    first = compiler.compile(functions)
    assert compiler.compile(list(functions)) is first
    assert compiler.compile(functions, "required").hash != first.hash
    assert compiler.compile(functions) is first, "used again, so not the oldest"
    compiler.compile(functions, parallel=False)
    assert compiler.compile(functions) is first and len(compiler._cache) == 2


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ({"name": "nothing"}, "log_reading, log_error, refresh"),
        ({"type": "function", "function": {"name": "x"}}, "'x'"),
        ("always", "auto, none, required"),
    ],
)
def test_unknown_choices_are_errors(choice, said, compiler, functions) -> None:
    with pytest.raises(GrammarError, match=said):
        compiler.compile(functions, choice)
    with pytest.raises(GrammarError, match="no functions"):
        compiler.compile((), "required")
    assert compiler.compile((), "auto").tool_choice.mode == "none"
    nested = {"type": "function", "function": {"name": "refresh"}}
    assert compiler.compile(functions, nested) is compiler.compile(functions, {"name": "refresh"})


def test_unusable_functions_are_named(compiler, functions) -> None:
    with pytest.raises(GrammarError, match="'refresh'"):
        compiler.compile([*functions, FunctionSpec("refresh", "again")])
    remote = FunctionSpec("far", "", {"properties": {"a": {"$ref": "https://example.org/a.json"}}})
    with pytest.raises(SchemaError, match=r"function far: .*local references"):
        compiler.compile([remote])


def test_what_the_engine_refuses_is_compiled_leniently_and_said(compiler, tokenizer, walk) -> None:
    branches = [{"items": {"const": 1}}, {"items": {"const": 2}, "uniqueItems": True}]
    odd = FunctionSpec("f", "", {"properties": {"a": {"allOf": branches}}})
    grammar = compiler.compile([odd, FunctionSpec("g")], "required")
    assert all(note.startswith("f: ") for note in grammar.notes)
    assert any("leniently" in note for note in grammar.notes)
    assert walk(grammar, 0).ended
    contrary = {"properties": {"a": {"type": "string", "pattern": "^x", "format": "date"}}, "required": ["a"]}
    with pytest.raises(SchemaError, match="function h: no grammar"):
        compiler.compile([FunctionSpec("h", "", contrary)])


def test_runaway_values_end(compiler, tokenizer) -> None:
    """A policy that always wants another digit, letter or item comes to an end."""
    endless = {
        "whole": {"type": "integer"},
        "number": {"type": "number"},
        "text": {"type": "string"},
        "list": {"type": "array", "items": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2}},
        "tree": {"$ref": "#"},
        "free": {"type": "object"},
        "any": {},
    }
    for name, schema in endless.items():
        spec = FunctionSpec("f", "", {"type": "object", "properties": {name: schema}})
        matcher = compiler.compile([spec], "required", parallel=False).matcher()
        ids: list[int] = []
        wanted = [tokenizer.encode(text)[0] for text in ("9", ".", "x", ",", "[", "{", '"')]
        while not matcher.is_done and len(ids) < 60_000:
            following = matcher.forced()
            if not following:
                mask = matcher.allowed()
                choice = [id for id in wanted if mask[id]] or np.flatnonzero(mask).tolist()
                following = choice[:1]
            for id in following:
                matcher.consume(id)
            ids += following
        assert matcher.is_done, (name, tokenizer.decode(ids)[-200:])
        [call] = parse_calls(ids, tokenizer).calls
        assert validate_arguments(spec, call.arguments) == []


def test_many_functions_fit_and_masks_stay_cheap(compiler, tokenizer, functions) -> None:
    many = [FunctionSpec(f"{spec.name}_{index}", "", spec.parameters) for index in range(60) for spec in functions]
    grammar = compiler.compile(many, "required")
    matcher = grammar.matcher()
    for id in call_ids(tokenizer, "refresh_59", {}):
        began = time.thread_time()
        assert matcher.allowed()[id]
        matcher.consume(id)
        assert time.thread_time() - began < 0.5


def allowed_tools(mode: str, *names: str) -> dict[str, Any]:
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


def test_a_subset_of_the_functions_may_be_allowed(compiler, functions, tokenizer) -> None:
    refresh, reading = (
        call_ids(tokenizer, "refresh", {}),
        call_ids(tokenizer, "log_reading", {"meter": "a", "value": 1}),
    )
    text, end = tokenizer.encode("I will."), tokenizer.special.end
    auto = compiler.compile(functions, allowed_tools("auto", "refresh", "log_error"))
    assert (
        accepts(auto, [*refresh, end])
        and accepts(auto, [*text, *refresh, *refresh, end])
        and accepts(auto, [*text, end])
    )
    assert not accepts(auto, reading)
    required = compiler.compile(functions, allowed_tools("required", "refresh"), parallel=False)
    assert accepts(required, [*refresh, end]) and not accepts(required, text) and not accepts(required, reading)
    assert not accepts(required, [*refresh, *refresh])
    assert compiler.compile(functions, allowed_tools("auto", "log_error", "refresh")) is auto, "in any order"
    for choice, said in (
        (allowed_tools("auto", "fly"), "'fly'"),
        (allowed_tools("none", "refresh"), "auto or required"),
        (allowed_tools("auto"), "at least one"),
    ):
        with pytest.raises(GrammarError, match=said):
            compiler.compile(functions, choice)


ANSWER = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "array", "items": {"enum": ["Mon", "Tue"]}, "minItems": 1},
    },
    "required": ["city", "days"],
}


def json_schema(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


def test_a_response_format_binds_the_text_and_keeps_the_calls(compiler, functions, tokenizer) -> None:
    end, call = tokenizer.special.end, call_ids(tokenizer, "refresh", {})
    good, other = tokenizer.encode('{"city":"Lagos","days":["Mon"]}'), tokenizer.encode('{"city":"Lagos"}')
    for choice, calls in (
        ("auto", True),
        ("none", False),
        ("required", True),
        (allowed_tools("auto", "refresh"), True),
    ):
        grammar = compiler.compile(functions, choice, response_format=json_schema(ANSWER))
        assert accepts(grammar, [*good, end]) is (choice != "required"), choice
        assert accepts(grammar, [*call, end]) is calls, choice
        assert not accepts(grammar, [*other, end]) and not accepts(grammar, tokenizer.encode("Lagos"))
        assert not accepts(grammar, [*good, *call]), "an answer or calls, never both"
    any_object = compiler.compile(functions, "auto", response_format={"type": "json_object"})
    assert accepts(any_object, [*other, end]) and accepts(any_object, [*call, end])
    assert not accepts(any_object, tokenizer.encode("[1]"))
    assert compiler.compile(functions, response_format={"type": "text"}) is compiler.compile(functions)
    alone = compiler.compile((), "auto", response_format=json_schema(ANSWER))
    assert accepts(alone, [*good, end]) and not accepts(alone, call)


@pytest.mark.parametrize(
    "schema",
    [
        ANSWER,
        {"type": "array", "items": {"type": "integer", "minimum": 3, "maximum": 5}, "minItems": 1, "maxItems": 3},
        {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/Node"}], "$defs": {
            "Node": {"type": "object", "properties": {"next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/Node"}]}},
                     "required": ["next"]}}},
        {"type": "string", "pattern": "^[A-Z]{3}$"},
    ],
)  # fmt: skip
def test_any_policy_under_a_response_format_makes_what_fits(schema, compiler, walk, tokenizer) -> None:
    wanted = json_schema(schema)
    grammar = compiler.compile((), response_format=wanted)
    for seed in range(15):
        result = walk(grammar, seed)
        assert result.ended and format_errors(parse_calls(result.ids, tokenizer).content, wanted) == ()


def test_what_breaks_a_response_format_is_said(compiler) -> None:
    unique = {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}
    assert (
        "response_format: /: uniqueItems is not enforced, only validated"
        in compiler.compile((), response_format=json_schema(unique)).notes
    )
    [problem] = format_errors("[1,1]", json_schema(unique))
    assert "uniqueItems" in problem
    assert "not JSON" in format_errors('{"a', {"type": "json_object"})[0]
    for bad in ({"type": "xml"}, {"type": "json_schema"}, {"type": "json_schema", "json_schema": {}}):
        with pytest.raises(GrammarError, match="response_format"):
            compiler.compile((), response_format=bad)
    with pytest.raises(SchemaError, match="response_format"):
        compiler.compile((), response_format=json_schema({"type": "text"}))


@pytest.mark.parametrize("required", [(), ("a",), ("c",), ("b", "d"), ("a", "b", "c", "d")])
@pytest.mark.parametrize("more", [0, 12])
def test_every_set_of_optional_keys_is_a_call_and_nothing_else(compiler, tokenizer, required, more) -> None:
    """In the schema's order, with commas between them and nowhere else; `more` optional ones stay away."""
    names = ["a", "b", "c", "d"]
    properties = {name: {"enum": ["x"]} for name in [*names, *(f"e{number}" for number in range(more))]}
    grammar = compiler.compile(
        [FunctionSpec("f", "", {"properties": properties, "required": list(required)})], "required"
    )
    for size in range(5):
        for keys in itertools.permutations(names, size):
            fits = list(keys) == sorted(keys) and set(required) <= set(keys)
            assert accepts(grammar, call_ids(tokenizer, "f", dict.fromkeys(keys, "x"))) == fits
    for broken in ('{"a":"x",}', '{,"a":"x"}', '{"a":"x""b":"x"}', '{"a":"x","a":"x"}', '{"a":"x"}}', "", "{}}"):
        special = tokenizer.special
        text = tokenizer.encode('{"name":"f","arguments":' + broken + "}")
        assert not accepts(grammar, [special.call, *text, special.call_end, special.end])


def test_names_and_choices_are_written_as_in_json(compiler, tokenizer) -> None:
    values = ['x"y', "back\\slash", "日本語", "🙂", "line\nbreak", "\u007f", "", "a", "ab"]
    properties = {f"k {value}": {"enum": values} for value in values}
    spec = FunctionSpec("größe🙂", "", {"properties": properties, "required": list(properties)})
    grammar = compiler.compile([spec], "required")
    for shift in range(len(values)):
        given = dict(zip(properties, values[shift:] + values[:shift], strict=True))
        assert accepts(grammar, call_ids(tokenizer, spec.name, given))
    assert not accepts(grammar, call_ids(tokenizer, spec.name, dict.fromkeys(properties, "abc")))


def test_schemas_share_what_they_have_in_common_and_nothing_else(compiler, tokenizer) -> None:
    """Functions of one grammar with equal and with equally named definitions keep their own meaning."""
    node = {"type": "object", "properties": {"next": {"$ref": "#/$defs/N"}}, "required": []}
    specs = [
        FunctionSpec("f", "", {"properties": {"a": {"$ref": "#/$defs/N"}}, "$defs": {"N": {"type": "integer"}}}),
        FunctionSpec("g", "", {"properties": {"a": {"$ref": "#/$defs/N"}}, "$defs": {"N": node}}),
        FunctionSpec("h", "", {"properties": {"a": {"type": "integer"}, "b": {"type": "integer", "maximum": 5}}}),
    ]
    grammar = compiler.compile(specs, "required")
    assert accepts(grammar, call_ids(tokenizer, "f", {"a": 7})) and not accepts(
        grammar, call_ids(tokenizer, "f", {"a": {}})
    )
    assert accepts(grammar, call_ids(tokenizer, "g", {"a": {"next": {}}}))
    assert not accepts(grammar, call_ids(tokenizer, "g", {"a": 7}))
    assert accepts(grammar, call_ids(tokenizer, "h", {"a": 7})) and not accepts(
        grammar, call_ids(tokenizer, "h", {"b": 7})
    )
    assert grammar.source.count('"maximum": 999999999999999999') == 1, "one range for all integers"
