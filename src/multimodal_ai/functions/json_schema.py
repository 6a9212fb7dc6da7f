"""Walking, checking and resolving JSON Schemas.

Function schemas come from users, from files and from other people's servers, so they are untrusted input.
Everything here is bounded: depth, number of nodes, and references, which must be local (`#/...`).
Nothing here ever reads a file or the network, and a cyclic reference never loops.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from multimodal_ai.functions.canonical import json_pointer, short_json

MAX_SCHEMA_DEPTH = 64
MAX_SCHEMA_NODES = 20_000

_TYPES = ("object", "array", "string", "integer", "number", "boolean", "null")
# Keywords that hold one subschema, a list of them, or a mapping of names to them.
_SINGLE = (
    "items",
    "additionalItems",
    "additionalProperties",
    "unevaluatedItems",
    "unevaluatedProperties",
    "contains",
    "propertyNames",
    "not",
    "if",
    "then",
    "else",
    "contentSchema",
)
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
_MAPPINGS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies")
# These would let a schema name another document or change what a local reference means.
_UNSUPPORTED = ("$dynamicRef", "$dynamicAnchor", "$recursiveRef", "$recursiveAnchor")


class SchemaError(ValueError):
    """A schema that cannot be used. The message says where, what was expected, how to mend it."""


def iter_subschemas(schema: Any, pointer: str = "") -> Iterator[tuple[str, Any]]:
    """Yield `(JSON pointer, subschema)` for `schema` and every schema inside it, parents first.

    Values of `enum`, `const`, `default` and `examples` are data, not schemas, and are not entered.
    Raises SchemaError when the schema is nested deeper than MAX_SCHEMA_DEPTH or has too many nodes.
    """
    stack: list[tuple[str, Any, int]] = [(pointer, schema, 0)]
    nodes = 0
    while stack:
        where, node, depth = stack.pop()
        nodes += 1
        if depth > MAX_SCHEMA_DEPTH:
            raise SchemaError(f"schema at {where[:80]}…: nested deeper than {MAX_SCHEMA_DEPTH}; flatten it")
        if nodes > MAX_SCHEMA_NODES:
            raise SchemaError(f"schema has more than {MAX_SCHEMA_NODES:,} subschemas; split the function")
        yield where, node
        if isinstance(node, Mapping):
            stack.extend((w, s, depth + 1) for w, s in reversed(list(child_schemas(node, where))))


def child_schemas(node: Mapping[str, Any], pointer: str = "") -> Iterator[tuple[str, Any]]:
    """Yield `(JSON pointer, subschema)` for the direct children of one schema object."""
    for keyword, value in node.items():
        if keyword in _MAPPINGS:
            for name, child in value.items() if isinstance(value, Mapping) else ():
                if isinstance(child, (Mapping, bool)):  # `dependencies` may also hold lists of names
                    yield pointer + json_pointer((keyword, name)), child
        elif keyword in _LISTS and isinstance(value, list):
            for index, child in enumerate(value):
                yield f"{pointer}/{keyword}/{index}", child
        elif keyword in _SINGLE and isinstance(value, (Mapping, bool)):
            yield f"{pointer}/{keyword}", value


def resolve_reference(root: Mapping[str, Any], reference: str) -> Any:
    """Return the subschema that a local reference (`#`, `#/$defs/Address`) points to.

    Raises SchemaError for a remote reference or a pointer to nothing.
    """
    if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
        raise SchemaError(
            f"$ref {reference!r}: only local references (#/$defs/Name) are followed; "
            "copy the other document's schema under $defs"
        )
    node: Any = root
    for raw in reference[1:].split("/")[1:]:
        key = raw.replace("%25", "%").replace("~1", "/").replace("~0", "~")
        if isinstance(node, Mapping) and key in node:
            node = node[key]
        elif isinstance(node, list) and key.isascii() and key.isdigit() and int(key) < len(node):
            node = node[int(key)]
        else:
            raise SchemaError(f"$ref {reference!r}: nothing stands there; define it or correct the reference")
    return node


def resolve_schema(schema: Any, root: Mapping[str, Any]) -> dict[str, Any]:
    """Follow `$ref` at the top of `schema` until it stands for itself; keys beside a `$ref` win.

    Returns a new shallow dict without `$ref` at its top (references further inside stay).
    `true` becomes `{}` and `false` becomes `{"not": {}}`. A cycle of bare references raises SchemaError.
    """
    beside: dict[str, Any] = {}
    seen: set[str] = set()
    while isinstance(schema, Mapping) and "$ref" in schema:
        reference = schema["$ref"]
        if reference in seen:
            raise SchemaError(f"$ref {reference!r} leads back to itself without ever reaching a schema")
        beside = {**{k: v for k, v in schema.items() if k != "$ref"}, **beside}
        schema = resolve_reference(root, reference)
        seen.add(reference)
    if isinstance(schema, bool):
        schema = {} if schema else {"not": {}}
    if not isinstance(schema, Mapping):
        raise SchemaError(f"expected a schema (an object or a boolean), got {type(schema).__name__}")
    return {**schema, **beside}


def check_schema(schema: Mapping[str, Any], where: str = "schema") -> None:
    """Check a function's parameter schema: structure, references, patterns. `where` names it in errors.

    Raises SchemaError when the schema is no JSON Schema (draft 2020-12), refers to another document,
    refers to itself without end, is nested too deep, or holds a `pattern` that cannot be matched in
    linear time (look-around, back-references).
    """
    from multimodal_ai.functions.patterns import pattern_problem

    try:
        for pointer, node in iter_subschemas(schema):
            if isinstance(node, bool):
                continue
            if not isinstance(node, Mapping):
                raise SchemaError(f"{pointer or '/'}: expected an object or a boolean, got {short_json(node)}")
            _check_node(pointer, node, schema)
            patterns = [node["pattern"]] if "pattern" in node else []
            keyed = node.get("patternProperties")
            patterns += list(keyed) if isinstance(keyed, Mapping) else []
            for pattern in patterns:
                problem = pattern_problem(pattern)
                if problem:
                    raise SchemaError(f"{pointer or '/'}: pattern {short_json(pattern)}: {problem}")
    except SchemaError as error:
        raise SchemaError(f"{where}: {error}") from None


def _check_node(pointer: str, node: Mapping[str, Any], root: Mapping[str, Any]) -> None:
    for keyword in _UNSUPPORTED:
        if keyword in node:
            raise SchemaError(f"{pointer or '/'}: {keyword} is not supported; use $ref with #/$defs")
    if "$id" in node and pointer:
        raise SchemaError(f"{pointer}: $id inside a schema changes its references; remove it")
    for keyword, value in node.items():
        expected, fits = _FORMS.get(keyword, ("", None))
        if fits is not None and not fits(value):
            raise SchemaError(f"{pointer}/{keyword}: expected {expected}, got {short_json(value)}")
    if "$ref" in node:
        resolve_schema(node, root)


def _is_type(value: Any) -> bool:
    names = value if isinstance(value, list) else [value]
    return bool(names) and all(isinstance(name, str) and name in _TYPES for name in names)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return value.bit_length() < 1024 if isinstance(value, int) else math.isfinite(value)


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _is_schema(value: Any) -> bool:
    return isinstance(value, (Mapping, bool))


def _is_schemas(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_schema, value))


def _is_schema_mapping(value: Any) -> bool:
    return isinstance(value, Mapping) and all(map(_is_schema, value.values()))


# What the value of a keyword must look like: for a person, and as a check. Others are annotations.
_FORMS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "type": (f"one of {', '.join(_TYPES)}, or a list of them", _is_type),
    "enum": ("a list with at least one value", lambda value: isinstance(value, list) and bool(value)),
    "required": ("a list of names", _is_names),
    "multipleOf": ("a number above 0", lambda value: _is_number(value) and value > 0),
    "uniqueItems": ("true or false", lambda value: isinstance(value, bool)),
    "pattern": ("a string", lambda value: isinstance(value, str)),
    "format": ("a string", lambda value: isinstance(value, str)),
    "$ref": ("a string", lambda value: isinstance(value, str)),
    **{key: ("a schema", _is_schema) for key in _SINGLE},
    **{key: ("a list of schemas", _is_schemas) for key in _LISTS if key != "items"},
    **{key: ("an object of schemas", _is_schema_mapping) for key in _MAPPINGS if key != "dependencies"},
    **{key: ("a number", _is_number) for key in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")},
    **{
        key: ("a whole number, not negative", _is_count)
        for key in (
            "minLength",
            "maxLength",
            "minItems",
            "maxItems",
            "minProperties",
            "maxProperties",
            "minContains",
            "maxContains",
        )
    },
}
