"""Calls under many generated JSON Schemas: whatever the model, every call must be valid.

Schemas are drawn at random, the same ones every time, from the keywords that the grammar enforces. The
model must call (`required`) and samples at temperature 1, so that an untrained model goes everywhere the
grammar lets it. Calls are judged by `jsonschema` alone, not by the engine's own checks, and a finished call
that the engine had to refuse counts as invalid.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random
from typing import Any

import jsonschema

from multimodal_ai.data.recipes.common import RecipeContext, stream
from multimodal_ai.evaluation.common import Example, Generator, SuiteResult
from multimodal_ai.functions.schema import FunctionSpec
from multimodal_ai.inference.requests import Reply, Request
from multimodal_ai.utils.logger import progress

CALLS = 10_000
_WORDS = ("amount", "city", "Größe", "date", "id", "items", "名前", "note", "owner", "rate", "tag", "unit", "zip_code")
_PATTERNS = ("^[0-9]{3,5}$", "^[A-Z]{2}-[0-9]{2}$", "^(north|south)[a-z]?$", "^#[0-9a-f]{6}$")
_FORMATS = ("date", "time", "date-time", "email", "ipv4", "uuid")
_VALUES = ("a", "b c", "020", 'say "hi"', "é", "日本", 0, -7, 2.5, True, False, None)
_CHECKER = jsonschema.Draft202012Validator.FORMAT_CHECKER

Schema = dict[str, Any]


def run(engine: Generator, context: RecipeContext, batch_size: int = 32, max_tokens: int = 160) -> SuiteResult:
    """Generate `context.limit` calls (10,000 where there is no limit), each request under functions of its own.

    Returns:
        `valid`: calls that fit their schema, of all that were finished; `cut_short`: calls that the token limit
        ended, of all that were begun; `calls` (finished) and `functions`, counted.

    Raises:
        ValueError: where a whole batch finishes no call.
    """
    wanted = context.limit or CALLS
    special = getattr(getattr(engine, "tokenizer", None), "special", None)
    result, flags, cut, number = SuiteResult(), list[bool](), 0, 0
    functions: set[FunctionSpec] = set()
    with progress() as bar:
        task = bar.add_task("Calling under schemas", total=wanted)
        while len(flags) < wanted:
            before = len(flags)
            requests = [random_request(context.seed, number + place, max_tokens) for place in range(batch_size)]
            for request, reply in zip(requests, engine.generate(requests), strict=True):
                finished = reply.token_ids.count(special.call_end) if special else len(reply.calls)
                begun = reply.token_ids.count(special.call) if special else len(reply.calls)
                problems = [problem_of(call.name, call.arguments, request) for call in reply.calls]
                problems += ["the engine refused a call"] * (finished - len(problems))
                problems += ["no call, though one was required"] * (not begun)
                cut += begun - finished
                flags += [not problem for problem in problems]
                result.examples.append(_example(request, reply, problems))
            functions.update(spec for request in requests for spec in map(FunctionSpec.from_tool, request.tools))
            number += batch_size
            bar.update(task, completed=len(flags))
            if len(flags) == before:
                raise ValueError(f"suite schemas: none of {batch_size} replies finished a call in {max_tokens} tokens")
    result.add_proportion("valid", flags)
    result.metrics["cut_short"] = cut / (len(flags) + cut)
    result.metrics["calls"] = float(len(flags))
    result.metrics["functions"] = float(len(functions))
    return result


def problem_of(name: str, arguments: Mapping[str, Any], request: Request) -> str:
    """Why a call does not fit the schema of the function it names; empty where it does."""
    for spec in map(FunctionSpec.from_tool, request.tools):
        if spec.name == name:
            errors = jsonschema.Draft202012Validator(spec.parameters, format_checker=_CHECKER).iter_errors(arguments)
            return "; ".join(f"{name}{error.json_path[1:]}: {error.message}" for error in errors)
    return f"unknown function {name}"


def random_request(seed: int, number: int, max_tokens: int) -> Request:
    """Request `number`: one to three functions with random schemas, of which at least one must be called."""
    rng = stream("schemas", seed, number)
    specs = [random_function(rng, f"{rng.choice(_WORDS[:2])}_{place}") for place in range(rng.randint(1, 3))]
    message = {"role": "user", "content": f"Please use {specs[0].name} for {number} and tell me 'done'."}
    return Request([message], specs, tool_choice="required", max_tokens=max_tokens, temperature=1.0, seed=number)


def random_function(rng: Random, name: str) -> FunctionSpec:
    """A function with up to three parameters, nested at most twice."""
    definitions: dict[str, Schema] = {"Shared": _object(rng, 1, {})}
    if rng.random() < 0.5:  # a list that may hold lists of its own kind
        definitions["Tree"] = {
            "type": "object",
            "properties": {"label": _string(rng, 0, {}), "parts": _list_of({"$ref": "#/$defs/Tree"}, 0, 1)},
            "required": ["label"],
            "additionalProperties": False,
        }
    parameters = _object(rng, 2, definitions)
    return FunctionSpec(name, f"Do {name}.", {**parameters, "$defs": definitions})


def random_schema(rng: Random, depth: int, definitions: Mapping[str, Schema]) -> Schema:
    """A schema of any kind; `depth` levels may nest, and `definitions` can be referred to as `#/$defs/…`."""
    return rng.choice(_FLAT + _NESTED if depth else _FLAT)(rng, depth, definitions)


def _string(rng: Random, depth: int, definitions: Mapping[str, Schema]) -> Schema:
    least = rng.choice((0, 0, 1, 3))
    return {"type": "string", "minLength": least, "maxLength": least + rng.randint(1, 6)}


def _pattern(rng: Random, depth: int, definitions: Mapping[str, Schema]) -> Schema:
    return {"type": "string", "pattern": rng.choice(_PATTERNS)}


def _format(rng: Random, depth: int, definitions: Mapping[str, Schema]) -> Schema:
    return {"type": "string", "format": rng.choice(_FORMATS), "maxLength": 40}


def _enum(rng: Random, depth: int, definitions: Mapping[str, Schema]) -> Schema:
    return {"enum": rng.sample(_VALUES, rng.randint(1, 5))}


def _const(rng: Random, depth: int, definitions: Mapping[str, Schema]) -> Schema:
    return {"const": rng.choice(_VALUES)}


def _integer(rng: Random, depth: int, definitions: Mapping[str, Schema]) -> Schema:
    low = rng.randint(-1000, 1000)
    bounds: list[Schema] = [
        {},
        {"minimum": low},
        {"minimum": low, "maximum": low + rng.randint(0, 5000)},
        {"exclusiveMinimum": low, "exclusiveMaximum": low + rng.randint(2, 90)},
        {"multipleOf": rng.choice((2, 5, 10)), "minimum": 0, "maximum": 1000},
    ]
    return {"type": "integer", **rng.choice(bounds)}


def _number(rng: Random, depth: int, definitions: Mapping[str, Schema]) -> Schema:
    low = rng.randint(-100, 100) / 4
    return {"type": "number", **rng.choice(({}, {"minimum": low}, {"minimum": low, "exclusiveMaximum": low + 10}))}


def _simple(rng: Random, depth: int, definitions: Mapping[str, Schema]) -> Schema:
    return {"type": rng.choice(("boolean", "null", ["boolean", "null"], ["integer", "null"]))}


def _list_of(items: Schema, least: int, most: int) -> Schema:
    return {"type": "array", "items": items, "minItems": least, "maxItems": most}


def _array(rng: Random, depth: int, definitions: Mapping[str, Schema]) -> Schema:
    least = rng.randint(0, 2)
    return _list_of(random_schema(rng, depth - 1, definitions), least, least + rng.randint(0, 2))


def _tuple(rng: Random, depth: int, definitions: Mapping[str, Schema]) -> Schema:
    first = [random_schema(rng, depth - 1, definitions) for _ in range(rng.randint(1, 3))]
    return {"type": "array", "prefixItems": first, "items": False, "minItems": len(first)}


def _object(rng: Random, depth: int, definitions: Mapping[str, Schema]) -> Schema:
    names = rng.sample(_WORDS, rng.randint(1, 3 if depth > 1 else 2))
    properties = {name: random_schema(rng, depth - 1, definitions) for name in names}
    required = [name for name in names if rng.random() < 0.6]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _map(rng: Random, depth: int, definitions: Mapping[str, Schema]) -> Schema:
    return {"type": "object", "properties": {"id": {"type": "integer"}}, "additionalProperties": _simple(rng, 0, {})}


def _union(rng: Random, depth: int, definitions: Mapping[str, Schema]) -> Schema:
    return {"anyOf": [random_schema(rng, depth - 1, definitions) for _ in range(rng.randint(2, 3))]}


def _both(rng: Random, depth: int, definitions: Mapping[str, Schema]) -> Schema:
    return {"allOf": [_integer(rng, 0, {}), {"maximum": 9999}]}


def _reference(rng: Random, depth: int, definitions: Mapping[str, Schema]) -> Schema:
    return {"$ref": f"#/$defs/{rng.choice(sorted(definitions))}"} if definitions else _string(rng, 0, {})


_Kind = Callable[[Random, int, Mapping[str, Schema]], Schema]
_FLAT: tuple[_Kind, ...] = (_string, _pattern, _format, _enum, _const, _integer, _number, _simple, _both)
_NESTED: tuple[_Kind, ...] = (_array, _tuple, _object, _map, _union, _reference)


def _example(request: Request, reply: Reply, problems: list[str]) -> Example:
    return Example(
        suite="schemas",
        question=str(request.messages[0]["content"]),
        expected="valid calls",
        given=reply.content,
        correct=not any(problems),
        calls=[
            {"name": call.name, "arguments": call.arguments, "confidence": call.confidence, "sources": {}}
            for call in reply.calls
        ],
        note="; ".join(filter(None, problems)),
    )
