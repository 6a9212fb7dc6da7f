"""A function's call as a rule of a grammar: names and keys as literals, and every distinct value once.

Rules are text in llguidance's dialect of Lark. A literal costs the engine next to nothing, a JSON Schema much, so only
values are schemas, named by what they say: equal ones of all functions of a grammar are one rule. It widens nothing:
a rule takes exactly the calls that the bounded schema takes, with the keys in its order.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from multimodal_ai.functions.bounds import GenerationBounds, bounded_schema
from multimodal_ai.functions.canonical import canonical_json
from multimodal_ai.functions.json_schema import SchemaError, check_schema
from multimodal_ai.functions.schema import FunctionSpec

_STYLE = '{"whitespace_flexible":false,"item_separator":",","key_separator":":","coerce_one_of":true,"lenient":false}'
_PLAIN_OBJECT = frozenset(("type", "properties", "required", "additionalProperties"))
_CHOICES = frozenset(("enum", "const", "anyOf", "allOf"))
_MOST_FREE = 12  # optional parameters beside no required one: any of them may come first
_json_text = lru_cache(maxsize=8192)(canonical_json)  # as it stands in a call
_literal = json.encoder.encode_basestring_ascii  # as it stands in Lark
_SORTED = json.JSONEncoder(sort_keys=True).encode


@dataclass(frozen=True)
class Rule:
    """A rule's body, the JSON Schemas (as text) of the values that it names, and what it does not enforce."""

    body: str
    values: Mapping[str, str]
    notes: tuple[str, ...]

    def lenient(self, problems: Mapping[str, str], label: str) -> Rule:
        """The rule with the values in `problems` (name to what the engine says of it) compiled leniently."""
        body, values = self.body, dict(self.values)
        for name in problems:
            document = values.pop(name).replace('"lenient":false}', '"lenient":true}')
            body, values = body.replace(name, _name(document)), {**values, _name(document): document}
        problem = next(iter(problems.values()))
        note = f"{label}: /: compiled leniently, only validated ({problem})"
        return replace(self, body=body, values=values, notes=(*self.notes, note))


def call_rule(spec: FunctionSpec, bounds: GenerationBounds) -> Rule:
    """The rule of `{"name":…,"arguments":{…}}`. Raises SchemaError for a schema that cannot be used."""
    where = f"function {spec.name}"
    check_schema(spec.parameters, f"{where}: parameters")
    schema, definitions, notes = _bounded(spec.parameters, bounds, where)
    values: dict[str, str] = {}
    opening = '{"name":' + _json_text(spec.name) + ',"arguments":'
    body = _arguments(schema, definitions, values, opening)
    if body is None:
        body = f'{_literal(opening)} {_value(schema, definitions, values)} "}}"'
    return Rule(body, values, tuple(f"{spec.name}: {note}" for note in notes))


def answer_rule(answer: Mapping[str, Any], bounds: GenerationBounds) -> Rule:
    """The rule of an answer under a response format's schema. Raises SchemaError as `call_rule` does."""
    check_schema(answer, "response_format")
    schema, definitions, notes = _bounded(answer, bounds, "response_format")
    values: dict[str, str] = {}
    body = _value(schema, definitions, values)
    return Rule(body, values, tuple(f"response_format: {note}" for note in notes))


def free_string(bounds: GenerationBounds) -> str:
    """The name that a string without any constraint of its own has in rules."""
    return _name(_document({"type": "string", "maxLength": bounds.string_length}, {}))


def _bounded(schema: Mapping[str, Any], bounds: GenerationBounds, where: str) -> tuple[Any, dict[str, Any], list[str]]:
    try:
        return bounded_schema(schema, bounds)
    except SchemaError as error:
        raise SchemaError(f"{where}: {error}") from None


def _arguments(schema: Any, definitions: Mapping[str, Any], values: dict[str, str], opening: str) -> str | None:
    """The body for an object of named parameters; None for any other schema.

    `opening {a,b?,c?}`: what may be missing brings its comma with it, so that none is left over.
    """
    if not isinstance(schema, dict) or not schema.keys() <= _PLAIN_OBJECT or schema.get("type") != "object":
        return None
    properties, required = schema.get("properties", {}), set(schema.get("required", ()))
    if schema.get("additionalProperties") is not False or not required <= properties.keys():
        return None
    opening += "{"
    if not properties:
        return _literal(opening + "}}")
    keys = list(properties)
    filled = {key: _value(properties[key], definitions, values) for key in keys}

    def item(key: str, before: str = "", after: str = "") -> str:
        literal = _literal(f"{before}{_json_text(key)}:")
        return f"{literal} {filled[key]}" + (f" {_literal(after)}" if after else "")

    def following(rest: Sequence[str]) -> list[str]:
        return [item(key, ",") if key in required else f"({item(key, ',')})?" for key in rest]

    first = next((place for place, key in enumerate(keys) if key in required), None)
    if first is None:
        if len(keys) > _MOST_FREE:
            return None
        ways = [" ".join([item(key), *following(keys[place + 1 :])]) for place, key in enumerate(keys)]
        return f'{_literal(opening)} ({" | ".join(ways)})? "}}}}"'
    before = [f"({item(key, after=',')})?" for key in keys[:first]]
    start = [item(keys[first], opening)] if not before else [_literal(opening), *before, item(keys[first])]
    return " ".join([*start, *following(keys[first + 1 :]), '"}}"'])


def _value(schema: Any, definitions: Mapping[str, Any], values: dict[str, str]) -> str:
    """What stands for a value in a body: literals where there are few, else the name of its schema's rule."""
    while isinstance(schema, dict) and schema.keys() == {"$ref"}:
        schema = definitions[schema["$ref"].removeprefix("#/$defs/")]
    if schema == {"type": "boolean"}:
        return '("true" | "false")'
    choices = schema.get("enum") if isinstance(schema, dict) and schema.keys() <= {"type", "enum"} else None
    if choices and schema.get("type", "string") == "string" and all(isinstance(each, str) for each in choices):
        return "(" + " | ".join(_literal(_json_text(each)) for each in dict.fromkeys(choices)) + ")"
    document = _document(schema, definitions)
    name = _name(document)
    values[name] = document
    return name


def _document(schema: Any, definitions: Mapping[str, Any]) -> str:
    """A schema with the definitions it needs, named in the order of their use: equal ones are equal texts."""
    names: dict[str, str] = {}
    shared: dict[str, str] = {}

    def moved(node: Any, top: bool = False) -> Any:
        """The node with its strings and numbers moved to definitions: a range of 18 digits takes the engine 0.5 ms."""
        if not isinstance(node, dict):
            return node
        if "$ref" in node:
            old = node["$ref"].removeprefix("#/$defs/")
            if old not in names:
                names[old] = f"d{len(names)}"
                shared[names[old]] = json.dumps(moved(definitions[old]))
            return {**node, "$ref": f"#/$defs/{names[old]}"}
        if len(node) > 1 and node.get("type") in ("string", "integer", "number") and not node.keys() & _CHOICES:
            if top:
                return node
            text = _SORTED(node)
            shared[_name(text)] = text
            return {"$ref": f"#/$defs/{_name(text)}"}
        result = dict(node)
        for keyword in ("items", "additionalProperties"):
            if keyword in result:
                result[keyword] = moved(result[keyword])
        for keyword in ("anyOf", "prefixItems", "allOf"):
            if keyword in result:
                result[keyword] = [moved(branch) for branch in result[keyword]]
        for keyword in ("properties", "patternProperties"):
            if keyword in result:
                result[keyword] = {key: moved(item) for key, item in result[keyword].items()}
        return result

    text = json.dumps(moved(schema, top=True))
    defined = ",".join(f'"{name}":{definition}' for name, definition in shared.items())
    return f'{{"allOf":[{text}],"$defs":{{{defined}}},"x-guidance":{_STYLE}}}'


@lru_cache(maxsize=8192)
def _name(text: str) -> str:
    return "v" + hashlib.sha256(text.encode()).hexdigest()[:16]
