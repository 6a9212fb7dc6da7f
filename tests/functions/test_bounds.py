"""The copy of a schema that generation sees: bounded, and never wider than the original."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from multimodal_ai.functions import FunctionSpec, parse_calls, schema_report, validate_arguments
from multimodal_ai.functions.bounds import KNOWN_FORMATS, GenerationBounds, bounded_schema
from multimodal_ai.functions.schema import SchemaError

NAMES = st.sampled_from(["a", "b", "city", "unit price", "é"])
STRINGS: list[dict[str, Any]] = [
    {"type": "string"},
    {"type": "string", "minLength": 2, "maxLength": 6},
    {"type": "string", "pattern": "^[A-Z]{2}[0-9]+$"},
    *({"type": "string", "format": form} for form in sorted(KNOWN_FORMATS - {"email", "uuid"})),
    {"type": "string", "format": "email"},
    {"type": "string", "format": "uuid"},
    {"type": "string", "format": "made-up"},
    {"enum": ["x", "020", 5, None, True]},
    {"const": "fixed"},
    {"type": ["string", "null"]},
]
NUMBERS: list[dict[str, Any]] = [
    {"type": "integer"},
    {"type": "integer", "minimum": 3},
    {"type": "integer", "exclusiveMaximum": 0, "multipleOf": 5},
    {"type": "number"},
    {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
    {"type": "number", "multipleOf": 0.25},
    {"type": "boolean"},
    {"type": "null"},
]


def containers(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    objects = st.dictionaries(NAMES, inner, max_size=3).flatmap(
        lambda properties: st.builds(
            lambda required, extra: {"type": "object", "properties": properties, "required": required, **extra},
            st.lists(st.sampled_from(sorted(properties)), unique=True) if properties else st.just([]),
            st.sampled_from([{}, {"additionalProperties": False}, {"additionalProperties": {"type": "integer"}}]),
        )
    )
    arrays = st.builds(
        lambda items, extra: {"type": "array", "items": items, **extra},
        inner,
        st.sampled_from([{}, {"minItems": 1}, {"maxItems": 2}, {"minItems": 2, "maxItems": 2}]),
    )
    tuples = st.lists(inner, min_size=1, max_size=2).map(
        lambda fixed: {"type": "array", "prefixItems": fixed, "items": False, "minItems": len(fixed)}
    )
    unions = st.lists(inner, min_size=1, max_size=3).map(lambda branches: {"anyOf": branches})
    free = st.sampled_from([{"type": "object"}, {}, {"type": "object", "additionalProperties": True}])
    return st.one_of(objects, arrays, tuples, unions, free)


SCHEMAS = st.recursive(st.sampled_from(STRINGS + NUMBERS), containers, max_leaves=6)
PARAMETERS = st.dictionaries(NAMES, SCHEMAS, min_size=1, max_size=3).map(
    lambda properties: {"type": "object", "properties": properties, "required": sorted(properties)[:2]}
)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(parameters=PARAMETERS, seed=st.integers(0, 10_000))
def test_whatever_the_grammar_lets_through_is_valid(parameters, seed, compiler, walk, tokenizer) -> None:
    spec = FunctionSpec("f", "", parameters)
    grammar = compiler.compile([spec], "required", parallel=False)
    for offset in range(3):
        result = walk(grammar, seed + offset)
        assert result.ended, tokenizer.decode(result.ids, skip_special=False)[-400:]
        reply = parse_calls(result.ids, tokenizer, [spec])
        assert not reply.errors and len(reply.calls) == 1
        assert validate_arguments(spec, reply.calls[0].arguments) == [], reply.calls[0].arguments


def bounded(parameters: dict[str, Any], bounds: GenerationBounds | None = None) -> dict[str, Any]:
    return bounded_schema(parameters, bounds)[0]["properties"]


def test_open_schemas_get_limits_and_closed_ones_keep_theirs() -> None:
    copied = bounded(
        {
            "type": "object",
            "properties": {
                "text": {"type": "string", "title": "t", "default": ""},
                "long": {"type": "string", "maxLength": 2000},
                "least": {"type": "string", "minLength": 900},
                "whole": {"type": "integer"},
                "positive": {"type": "integer", "minimum": 5 * 10**17},
                "huge": {"type": "integer", "minimum": 10**20},
                "wide": {"type": "integer", "minimum": -(10**30), "exclusiveMaximum": 10**30},
                "list": {"type": "array", "items": {"type": "boolean"}},
                "many": {"type": "array", "items": {"type": "boolean"}, "minItems": 100},
            },
        }
    )
    assert copied["text"] == {"type": "string", "maxLength": 512}
    assert copied["long"]["maxLength"] == 2000 and copied["least"]["maxLength"] == 900
    assert copied["whole"] == {"type": "integer", "minimum": 1 - 10**18, "maximum": 10**18 - 1}
    assert copied["positive"] == {"type": "integer", "minimum": 5 * 10**17, "maximum": 10**18 - 1}
    assert copied["wide"] == {"type": "integer", "minimum": 1 - 10**18, "exclusiveMaximum": 10**18 - 1}
    assert "huge" not in copied, "the engine cannot count so far; what is not required is left out"
    assert copied["list"]["maxItems"] == 64 and copied["many"]["maxItems"] == 100


def test_the_limits_are_options() -> None:
    copied = bounded({"properties": {"a": {"type": "string"}}}, GenerationBounds(string_length=7))
    assert copied["a"]["maxLength"] == 7


def test_recursion_is_unrolled_and_impossible_recursion_is_refused() -> None:
    node: dict[str, Any] = {
        "type": "object",
        "properties": {"kids": {"type": "array", "items": {"$ref": "#/$defs/Node"}}},
        "required": ["kids"],
    }
    _, definitions, _ = bounded_schema(
        {"type": "object", "properties": {"tree": {"$ref": "#/$defs/Node"}}, "$defs": {"Node": node}},
        GenerationBounds(reference_depth=3),
    )
    assert len(definitions) == 3
    assert [d["properties"]["kids"]["maxItems"] for d in definitions.values()].count(0) == 1, "the last is a leaf"
    endless = {"type": "object", "properties": {"next": {"$ref": "#"}}, "required": ["next"]}
    with pytest.raises(SchemaError, match="no finite arguments"):
        bounded_schema(endless)


def test_references_survive_with_escapes_and_through_properties() -> None:
    parameters = {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"$ref": "#/properties/a"}, "c": {"$ref": "#/$defs/x~1y"}},
        "$defs": {"x/y": {"const": 1}},
    }
    schema, definitions, _ = bounded_schema(parameters)
    names = [schema["properties"][name]["$ref"].rsplit("/", 1)[1] for name in "bc"]
    assert definitions[names[0]]["type"] == "integer" and definitions[names[1]] == {"const": 1}


def test_what_no_grammar_holds_is_noted_not_dropped_in_silence() -> None:
    parameters = {
        "type": "object",
        "properties": {
            "a": {"type": "array", "items": {"type": "integer"}, "uniqueItems": True},
            "b": {"type": "string", "format": "made-up", "not": {"const": "x"}},
            "c": {"oneOf": [{"type": "integer"}, {"type": "string"}]},
            "d": {"type": "object", "properties": {"x": {}, "y": {}}, "minProperties": 1},
        },
    }
    schema, _, notes = bounded_schema(parameters)
    assert "uniqueItems" not in schema["properties"]["a"] and "not" not in schema["properties"]["b"]
    assert [note.split(" ")[0] + note.split(" ")[1] for note in notes] == [
        "/a:uniqueItems",
        "/b:format",
        "/b:not",
        "/c:oneOf",
        "/d:minProperties",
    ]
    report = dict(schema_report(FunctionSpec("f", "", parameters)))
    for keyword in ("uniqueItems", "not", "oneOf", "format:made-up", "minProperties"):
        assert report[keyword] == "validated"
    for keyword in ("type", "properties", "items"):
        assert report[keyword] == "enforced"
    refused = FunctionSpec("f", "", {"properties": {"a": {"pattern": "(?=x)"}, "b": {"$ref": "http://x"}}})
    assert dict(schema_report(refused))["pattern"] == dict(schema_report(refused))["$ref"] == "refused"


def test_the_report_agrees_with_what_the_compiler_notes(compiler) -> None:
    parameters = {"type": "object", "properties": {"a": {"type": "array", "contains": {"const": 1}}}}
    spec = FunctionSpec("f", "", parameters)
    assert compiler.compile([spec]).notes == ("f: /a: contains is not enforced, only validated",)
    assert ("contains", "validated") in schema_report(spec)


@pytest.mark.parametrize(
    "schema",
    [
        {
            "allOf": [
                {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
                {"required": ["b"], "properties": {"b": {"type": "boolean"}}},
            ]
        },
        {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "anyOf": [{"required": ["a"]}, {"required": ["b"]}],
        },
        {"allOf": [{"type": ["string", "integer"]}, {"type": "number"}, {"minimum": 3}, {"maximum": 5}]},
        {"anyOf": [{"$ref": "#/$defs/S"}, {"type": "null"}], "description": "beside"},
        {"type": "array", "items": [{"const": 1}, {"const": 2}], "additionalItems": False},
        {"type": "object", "patternProperties": {"^x-": {"type": "integer"}}, "additionalProperties": False},
        {"type": "object", "minProperties": 2},
    ],
)
def test_combinations_are_generated_and_valid(schema, compiler, walk, tokenizer) -> None:
    spec = FunctionSpec("f", "", {"properties": {"v": schema}, "required": ["v"], "$defs": {"S": {"type": "string"}}})
    seen = set()
    for seed in range(25):
        result = walk(compiler.compile([spec], "required", parallel=False), seed)
        assert result.ended
        [call] = parse_calls(result.ids, tokenizer).calls
        assert validate_arguments(spec, call.arguments) == [], call.arguments
        seen.add(str(call.arguments))
    assert len(seen) > 1 or "items" in schema
