"""Specs, canonical arguments, validation."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multimodal_ai.functions import (
    FunctionSpec,
    SchemaError,
    canonical_arguments,
    canonical_json,
    check_schema,
    resolve_schema,
    validate_arguments,
)
from multimodal_ai.functions.schema import parse_json

TREE = {
    "type": "object",
    "properties": {"tree": {"$ref": "#/$defs/Node"}},
    "required": ["tree"],
    "$defs": {
        "Node": {
            "type": "object",
            "properties": {"value": {"type": "string"}, "left": {"$ref": "#/$defs/Node"}},
            "required": ["value"],
        }
    },
}
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), TEXT),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


def spec(**properties: Any) -> FunctionSpec:
    return FunctionSpec("f", "", {"type": "object", "properties": properties, "required": list(properties)[:1]})


def test_both_forms_of_a_tool_give_the_same_spec() -> None:
    bare = {"name": "f", "description": "d", "parameters": TREE, "side_effect": True}
    wrapped = {"type": "function", "function": {**bare, "x-side-effect": True}}
    first, second = FunctionSpec.from_tool(bare), FunctionSpec.from_tool(wrapped)
    assert first == second and first.hash == second.hash and first.side_effect
    assert FunctionSpec.from_tool(first.to_tool()) == first
    assert FunctionSpec.from_tool({"name": "g"}).parameters == {"type": "object", "properties": {}}


def test_specs_are_hashable_picklable_and_do_not_share_their_schema() -> None:
    parameters = {"type": "object", "properties": {"a": {"type": "string"}}}
    first = FunctionSpec("f", "", parameters)
    before = first.hash
    parameters["properties"]["b"] = {}
    first.to_tool()["function"]["parameters"]["properties"]["c"] = {}
    assert first.parameter_names == ("a",)
    twin = pickle.loads(pickle.dumps(first))
    assert twin == first and {first: 1}[twin] == 1 and twin.hash == before
    assert FunctionSpec("f", "other").hash != FunctionSpec("f", "").hash


def test_names_come_in_the_order_of_the_schema() -> None:
    f = FunctionSpec("f", "", {"type": "object", "properties": {"z": {}, "a": {}, "m": {}}, "required": ["m", "z"]})
    assert (f.parameter_names, f.required, f.optional) == (("z", "a", "m"), ("z", "m"), ("a",))


@pytest.mark.parametrize(
    ("tool", "said"),
    [
        ({"name": "two words"}, "without spaces"),
        ({"name": "<function_call>"}, "angle brackets"),
        ({"name": ""}, "1 to 128"),
        ({"description": "x"}, "expected a name"),
        ({"name": "f", "parameters": {"type": "array"}}, "expected type object"),
        ({"name": "f", "parameters": {"properties": {"a": {}}, "required": ["b"]}}, "'b' is not among"),
        ({"name": "f", "parameters": {"properties": ["a"]}}, "expected an object"),
        ({"name": "f", "parameters": [1]}, "expected a JSON Schema object"),
        ("f", "expected an object"),
    ],
)
def test_unusable_tools_say_what_is_wrong(tool: Any, said: str) -> None:
    with pytest.raises(SchemaError, match=said):
        FunctionSpec.from_tool(tool)


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"properties": {"a": {"$ref": "https://example.org/x.json"}}}, "only local references"),
        ({"properties": {"a": {"$ref": "other.json#/A"}}}, "only local references"),
        ({"properties": {"a": {"$ref": "#/$defs/A"}}}, "nothing stands there"),
        ({"properties": {"a": {"$ref": 3}}}, "expected a string"),
        ({"properties": {"a": {"$ref": "#/properties/a"}}}, "back to itself"),
        ({"$defs": {"A": {"$ref": "#/$defs/B"}, "B": {"$ref": "#/$defs/A"}}}, "back to itself"),
        ({"properties": {"a": {"$dynamicRef": "#x"}}}, "not supported"),
        ({"properties": {"a": {"$id": "x", "type": "string"}}}, r"\$id inside"),
        ({"properties": {"a": {"type": "float"}}}, "/properties/a/type: expected one of"),
        ({"properties": {"a": {"minLength": "3"}}}, "/properties/a/minLength: expected a whole number"),
        ({"properties": {"a": {"enum": []}}}, "at least one"),
        ({"properties": {"a": {"anyOf": {}}}}, "list of schemas"),
        ({"properties": {"a": 3}}, "expected an object of schemas"),
        ({"properties": {"a": {"pattern": "(?!x)y"}}}, "linear time"),
        ({"properties": {"a": {"pattern": "(a)\\1"}}}, "linear time"),
        ({"properties": {"a": {"pattern": "["}}}, "pattern"),
    ],
)
def test_schemas_that_cannot_be_used_are_refused_with_a_place(schema: dict[str, Any], said: str) -> None:
    with pytest.raises(SchemaError, match=said) as raised:
        check_schema(schema, "function f: parameters")
    assert str(raised.value).startswith("function f: parameters")


def test_depth_is_limited_and_cycles_are_not_followed() -> None:
    deep: dict[str, Any] = {"type": "string"}
    for _ in range(1000):
        deep = {"type": "array", "items": deep}
    with pytest.raises(SchemaError, match="deeper than"):
        check_schema({"type": "object", "properties": {"a": deep}})
    check_schema(TREE)
    assert resolve_schema({"$ref": "#/$defs/Node", "description": "d"}, TREE)["description"] == "d"


@settings(deadline=None)
@given(JSON)
def test_canonical_json_is_compact_and_exact(value: Any) -> None:
    text = canonical_json(value)
    assert parse_json(text) == value and canonical_json(parse_json(text)) == text
    assert json.loads(text) == value


def test_canonical_json_leaves_printable_characters_alone() -> None:
    assert canonical_json({"b": "日本 한국 🙂 é", "a": [1, None]}) == '{"b":"日本 한국 🙂 é","a":[1,null]}'
    for bad in (float("nan"), float("inf"), "\ud800", {1, 2}, b"x"):
        with pytest.raises(ValueError, match="cannot be written"):
            canonical_json(bad)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a":NaN}', "NaN"),
        ('{"a":-Infinity}', "Infinity"),
        ('{"a":1e999}', "out of range"),
        ('{"a":1,"a":2}', "'a' is given twice"),
        ('{"b":{"a":1,"a":2}}', "given twice"),
        ('{"a":"\\ud800"}', "surrogate"),
        ('{"a":' + "[" * 1000 + "]" * 1000 + "}", "nested deeper"),
        ('{"a":' + "[" * 100_000 + "]" * 100_000 + "}", "nested deeper"),
        ("[1]", "JSON object"),
        ("{'a':1}", "not JSON"),
        ("", "not JSON"),
    ],
)
def test_arguments_that_are_no_plain_object_are_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        canonical_arguments(None, text)


def test_arguments_come_in_the_order_of_the_schema_at_every_depth() -> None:
    f = FunctionSpec("f", "", TREE)
    given_text = '{"extra":1,"tree":{"left":{"left":{"value":"c"},"value":"b"},"value":"a"}}'
    expected = '{"tree":{"value":"a","left":{"value":"b","left":{"value":"c"}}},"extra":1}'
    assert canonical_json(canonical_arguments(f, given_text)) == expected
    assert canonical_json(canonical_arguments(f, json.loads(given_text))) == expected
    nested = spec(a={"type": "array", "items": {"anyOf": [{"type": "null"}, {"properties": {"y": {}, "x": {}}}]}})
    assert canonical_json(canonical_arguments(nested, '{"a":[{"x":1,"y":2}]}')) == '{"a":[{"y":2,"x":1}]}'


def test_nothing_is_coerced_by_its_looks() -> None:
    f = spec(zip={"type": "string"}, count={"type": "integer"}, rate={"type": "number"})
    arguments = canonical_arguments(f, '{"rate":5.0,"count":5.0,"zip":"020"}')
    assert canonical_json(arguments) == '{"zip":"020","count":5,"rate":5.0}'
    assert [error.path for error in validate_arguments(f, {"zip": 20, "count": "5", "rate": "1"})] == [
        "/count",
        "/rate",
        "/zip",
    ]


def test_the_caller_s_arguments_are_not_shared() -> None:
    inner: dict[str, Any] = {"a": [1]}
    canonical_arguments(None, inner)["a"].append(2)
    assert inner == {"a": [1]}


@pytest.mark.parametrize(
    ("arguments", "path", "expected", "got"),
    [
        ({}, "/unit", "a value (required)", "nothing"),
        ({"unit": "kWh", "x": 1}, "/x", "one of: unit, n, when, tree", "an unknown parameter"),
        ({"unit": "m"}, "/unit", 'one of ["kWh", "L"]', '"m"'),
        ({"unit": "L", "n": True}, "/n", "integer", "true"),
        ({"unit": "L", "n": -1}, "/n", "minimum 0", "-1"),
        ({"unit": "L", "when": "2023-02-30"}, "/when", 'format "date"', '"2023-02-30"'),
        ({"unit": "L", "tree": {"value": "a", "left": {"value": 3}}}, "/tree/left/value", "string", "3"),
        ({"unit": "L", "tree": {"left": {}}}, "/tree/left/value", "a value (required)", "nothing"),
    ],
)
def test_errors_say_where_what_was_expected_and_what_was_there(
    arguments: dict[str, Any], path: str, expected: str, got: str
) -> None:
    f = FunctionSpec(
        "f",
        "",
        {
            "type": "object",
            "properties": {
                "unit": {"enum": ["kWh", "L"]},
                "n": {"type": "integer", "minimum": 0},
                "when": {"type": "string", "format": "date"},
                "tree": {"$ref": "#/$defs/Node"},
            },
            "required": ["unit"],
            "$defs": TREE["$defs"],
        },
    )
    errors = validate_arguments(f, arguments)
    assert (path, expected, got) in [(error.path, error.expected, error.got) for error in errors]


def test_parameters_are_closed_unless_the_schema_opens_them() -> None:
    closed = FunctionSpec("f", "", {"type": "object", "properties": {"a": {}}})
    opened = FunctionSpec("f", "", {**closed.parameters, "additionalProperties": {"type": "integer"}})
    assert validate_arguments(closed, {"b": 1}) and not validate_arguments(opened, {"b": 1})
    assert validate_arguments(opened, {"b": "1"})


def test_values_that_no_json_can_hold_are_errors_not_exceptions() -> None:
    deep: Any = 1
    for _ in range(1000):
        deep = [deep]
    for bad in (deep, float("nan"), {1: 2}, b"x", "\udc00", object()):
        assert validate_arguments(spec(a={}), {"a": bad})


@pytest.mark.timeout(20)
@pytest.mark.parametrize("pattern", ["^(a+)+$", "^(a|aa)+$", "^(([a-z])+.)+[A-Z]([a-z])+$", "(x+x+)+y"])
def test_a_regular_expression_cannot_stop_the_program(pattern: str) -> None:
    f = spec(a={"type": "string", "pattern": pattern})
    assert validate_arguments(f, {"a": "a" * 20_000 + "!"})


def test_patterns_are_searched_as_json_schema_says() -> None:
    f = spec(a={"type": "string", "pattern": "b+"})
    assert validate_arguments(f, {"a": "abbc"}) == [] and validate_arguments(f, {"a": "ac"})
    anything = spec(a={"type": "string", "pattern": "^[^x]*$"})
    for text in ("", 'q"q', "back\\slash", "line\nbreak", "日本🙂", "\x00\x7f\t"):
        assert validate_arguments(anything, {"a": text}) == [], repr(text)
