"""What a function is, and what its arguments must look like.

`FunctionSpec` is the one description of a function that every part shares: rendering, grammar, head, loop,
server. Arguments have one canonical form (objects, keys in the schema's order, compact UTF-8 JSON), so that
training text, grammar and traces agree byte for byte. Values are never coerced by their looks: a string
stays a string, `"020"` keeps its zero.
"""

from __future__ import annotations

import copy
import datetime
import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import jsonschema
import referencing

from multimodal_ai.functions.canonical import (
    MAX_JSON_DEPTH,
    canonical_json,
    check_value,
    json_pointer,
    parse_json,
    plain_copy,
    short_json,
)
from multimodal_ai.functions.json_schema import (
    MAX_SCHEMA_DEPTH,
    SchemaError,
    check_schema,
    iter_subschemas,
    resolve_reference,
    resolve_schema,
)
from multimodal_ai.functions.patterns import matches

__all__ = [
    "ArgumentError",
    "FunctionSpec",
    "SchemaError",
    "canonical_arguments",
    "canonical_json",
    "check_schema",
    "json_pointer",
    "parse_json",
    "resolve_reference",
    "resolve_schema",
    "validate_arguments",
    "validate_value",
]

_SIDE_EFFECT_KEYS = ("side_effect", "x-side-effect")
_NAME = re.compile(r"[^\s\"\\\x00-\x1f\x7f<>]{1,128}")


@dataclass(frozen=True)
class FunctionSpec:
    """A function the model may call: name, description and a JSON Schema (type object) of its parameters.

    Immutable and comparable; `hash` identifies it across processes. `side_effect` marks a function that
    changes something and therefore needs approval. Raises SchemaError for a name with spaces, quotes or
    angle brackets and for parameters that are no object schema; `check_schema` looks at the whole schema.
    """

    name: str
    description: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    side_effect: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise SchemaError(
                f"function name {short_json(self.name)}: expected 1 to 128 characters without spaces, "
                "quotes, backslashes or angle brackets; rename the function"
            )
        where = f"function {self.name}: parameters"
        if not isinstance(self.parameters, Mapping):
            raise SchemaError(f"{where}: expected a JSON Schema object, got {short_json(self.parameters)}")
        try:
            parameters = copy.deepcopy(dict(self.parameters))
            if "$ref" in parameters:
                parameters = copy.deepcopy(resolve_schema(parameters, parameters))
            _modernize(parameters)
        except RecursionError:
            raise SchemaError(f"{where}: nested deeper than {MAX_SCHEMA_DEPTH}; flatten it") from None
        except SchemaError as error:
            raise SchemaError(f"{where}: {error}") from None
        parameters = {"type": "object", "properties": {}, **parameters}
        if parameters["type"] != "object":
            raise SchemaError(f"{where}: expected type object, got {short_json(parameters['type'])}")
        properties, required = parameters["properties"], parameters.get("required", [])
        if not isinstance(properties, Mapping):
            raise SchemaError(f"{where}/properties: expected an object, got {short_json(properties)}")
        if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
            raise SchemaError(f"{where}/required: expected a list of names, got {short_json(required)}")
        for name in required:
            if name not in properties:
                raise SchemaError(f"{where}/required: {name!r} is not among the properties; add or drop it")
        object.__setattr__(self, "parameters", parameters)
        object.__setattr__(self, "description", str(self.description or ""))
        object.__setattr__(self, "side_effect", bool(self.side_effect))

    def __hash__(self) -> int:
        return hash(self.hash)

    @classmethod
    def from_tool(cls, tool: Mapping[str, Any] | FunctionSpec) -> FunctionSpec:
        """Read the chat-completions form `{"type": "function", "function": …}` or the bare inner object."""
        if isinstance(tool, FunctionSpec):
            return tool
        if not isinstance(tool, Mapping):
            raise SchemaError(f"tool: expected an object, got {short_json(tool)}")
        inner = tool.get("function", tool)
        if not isinstance(inner, Mapping) or "name" not in inner:
            raise SchemaError(f"tool {short_json(tool)}: expected a name, directly or under 'function'")
        return cls(
            name=inner["name"],
            description=inner.get("description") or "",
            parameters=inner.get("parameters") or {},
            side_effect=any(bool(holder.get(key)) for holder in (tool, inner) for key in _SIDE_EFFECT_KEYS),
        )

    def to_tool(self) -> dict[str, Any]:
        """The chat-completions form; `x-side-effect` is added when the function has one."""
        return copy.deepcopy(self._tool())

    def _tool(self) -> dict[str, Any]:
        function: dict[str, Any] = {"name": self.name, "description": self.description, "parameters": self.parameters}
        if self.side_effect:
            function["x-side-effect"] = True
        return {"type": "function", "function": function}

    @cached_property
    def hash(self) -> str:
        """SHA-256 (hex) of the canonical JSON of `to_tool()`."""
        return hashlib.sha256(canonical_json(self._tool()).encode()).hexdigest()

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """All parameters, in the schema's order."""
        return tuple(self.parameters["properties"])

    @property
    def required(self) -> tuple[str, ...]:
        """Parameters that must be given, in the order of the schema's properties."""
        names = frozenset(self.parameters.get("required", ()))
        return tuple(name for name in self.parameter_names if name in names)

    @property
    def optional(self) -> tuple[str, ...]:
        """Parameters that may be left out, in the schema's order."""
        names = frozenset(self.parameters.get("required", ()))
        return tuple(name for name in self.parameter_names if name not in names)

    def parameter_schema(self, name: str) -> dict[str, Any]:
        """The schema of one parameter with its own `$ref` followed. Raises KeyError for an unknown name."""
        return resolve_schema(self.parameters["properties"][name], self.parameters)


def _modernize(schema: dict[str, Any]) -> None:
    """Rewrite, in place, the lists of `items` of older drafts as `prefixItems`."""
    for node in [node for _, node in iter_subschemas(schema)]:
        if isinstance(node, dict) and isinstance(node.get("items"), list):
            node["prefixItems"] = node.pop("items")
            if "additionalItems" in node:
                node["items"] = node.pop("additionalItems")


@dataclass(frozen=True)
class ArgumentError:
    """One thing wrong with a call's arguments: where (JSON pointer), what was expected, what was there."""

    path: str
    expected: str
    got: str

    def __str__(self) -> str:
        return f"{self.path or '/'}: expected {self.expected}, got {self.got}"


def canonical_arguments(spec: FunctionSpec | None, arguments: str | Mapping[str, Any]) -> dict[str, Any]:
    """Arguments as a dict in canonical order, from a JSON string or a mapping.

    Keys the schema knows come in the schema's order, at every depth, unknown ones after them as given; where
    the schema asks for an integer, `5.0` becomes `5`. Nothing else is changed and nothing is validated.
    Raises ValueError for text that is no JSON object, for repeated keys, NaN, infinities, deep nesting.
    """
    value = parse_json(arguments) if isinstance(arguments, str) else arguments
    if not isinstance(value, Mapping):
        raise ValueError(f"arguments: expected a JSON object, got {short_json(value)}")
    check_value(value)
    value = plain_copy(value)
    return value if spec is None else _order(value, spec.parameters, spec.parameters)


def validate_arguments(spec: FunctionSpec, arguments: Mapping[str, Any]) -> list[ArgumentError]:
    """Check arguments against the function's schema; an empty list means valid.

    Parameters the schema does not name are errors unless it allows them explicitly (`additionalProperties`
    or `patternProperties`). `format` is checked for the formats this package knows. At most 16 errors.
    """
    try:
        check_value(arguments)
    except ValueError as problem:
        return [ArgumentError("", "plain JSON values", str(problem))]
    if not isinstance(arguments, Mapping):
        return [ArgumentError("", "an object", short_json(arguments))]
    return _errors(_validator(spec), arguments)


def validate_value(value: Any, schema: Mapping[str, Any]) -> list[ArgumentError]:
    """Check any JSON value against a schema as it stands; an empty list means valid. At most 16 errors."""
    check_schema(schema)
    return _errors(_Validator(schema, registry=referencing.Registry(), format_checker=_FORMATS), value)


def _errors(validator: Any, value: Any) -> list[ArgumentError]:
    found: list[ArgumentError] = []
    for error in validator.iter_errors(plain_copy(value)):
        found.extend(_explain(error))
        if len(found) >= 16:
            break
    return sorted(dict.fromkeys(found), key=lambda item: item.path)[:16]


@lru_cache(maxsize=2048)
def _validator(spec: FunctionSpec) -> Any:
    check_schema(spec.parameters, f"function {spec.name}: parameters")
    schema = dict(spec.parameters)
    if not {"additionalProperties", "patternProperties", "allOf", "anyOf", "oneOf"} & schema.keys():
        schema["additionalProperties"] = False
    return _Validator(schema, registry=referencing.Registry(), format_checker=_FORMATS)


def _pattern(_: Any, pattern: str, value: Any, __: Any) -> Iterator[jsonschema.ValidationError]:
    if isinstance(value, str) and not matches(pattern, value):
        yield jsonschema.ValidationError(f"does not match {pattern}")


def _pattern_properties(
    validator: Any, patterns: Mapping[str, Any], value: Any, __: Any
) -> Iterator[jsonschema.ValidationError]:
    if not isinstance(value, Mapping):
        return
    for pattern, subschema in patterns.items():
        for key, item in value.items():
            if matches(pattern, key):
                yield from validator.descend(item, subschema, path=key, schema_path=pattern)


def _additional_properties(
    validator: Any, allowed: Any, value: Any, schema: Mapping[str, Any]
) -> Iterator[jsonschema.ValidationError]:
    if not isinstance(value, Mapping):
        return
    patterns = list(schema.get("patternProperties", ()))
    for key, item in value.items():
        if key in schema.get("properties", {}) or any(matches(pattern, key) for pattern in patterns):
            continue
        if allowed is False:
            yield jsonschema.ValidationError("unknown", path=[key])
        elif allowed is not True:
            yield from validator.descend(item, allowed, path=key)


_Validator = jsonschema.validators.extend(
    jsonschema.Draft202012Validator,
    {
        "pattern": _pattern,
        "patternProperties": _pattern_properties,
        "additionalProperties": _additional_properties,
    },
)
_FORMATS = jsonschema.FormatChecker(formats=("date", "ipv4", "ipv6", "uuid", "email"))


@_FORMATS.checks("date-time", raises=ValueError)
def _is_date_time(value: object) -> bool:
    if not isinstance(value, str):
        return True
    return datetime.datetime.fromisoformat(value).tzinfo is not None and value[10:11] in ("T", "t")


@_FORMATS.checks("time", raises=ValueError)
def _is_time(value: object) -> bool:
    return not isinstance(value, str) or datetime.time.fromisoformat(value).tzinfo is not None


def _explain(error: jsonschema.ValidationError) -> list[ArgumentError]:
    path, keyword = list(error.absolute_path), str(error.validator)
    rule: Any = error.validator_value
    schema: Any = error.schema
    instance: Any = error.instance
    if keyword == "required":
        missing = [json_pointer([*path, name]) for name in rule if name not in instance]
        return [ArgumentError(pointer, "a value (required)", "nothing") for pointer in missing]
    if keyword == "additionalProperties" and rule is False:
        known = ", ".join(schema.get("properties", {})) or "no parameters"
        return [ArgumentError(json_pointer(path), f"one of: {known[:300]}", "an unknown parameter")]
    if keyword == "type":
        expected = " or ".join(rule) if isinstance(rule, list) else str(rule)
    elif keyword in ("enum", "const"):
        options = rule if keyword == "enum" else [rule]
        expected = "one of " + short_json(options, 300)
    elif keyword in ("anyOf", "oneOf"):
        how_many = "exactly one" if keyword == "oneOf" else "at least one"
        expected = f"{how_many} of {len(rule)} forms: {short_json(rule, 200)}"
    else:
        expected = f"{keyword} {short_json(rule)}"
    return [ArgumentError(json_pointer(path), expected, short_json(instance))]


def _order(value: Any, schema: Any, root: Mapping[str, Any], depth: int = 0) -> Any:
    """Put keys into the schema's order and make integral numbers integers where the schema says integer."""
    try:
        schema = resolve_schema(schema, root)
    except SchemaError:
        return value
    if isinstance(value, float) and value.is_integer() and schema.get("type") == "integer":
        return int(value)
    if not isinstance(value, (dict, list)) or depth > MAX_JSON_DEPTH:
        return value
    for branch in _branches(schema, value, root):
        value = _order(value, branch, root, depth + 1)
    if isinstance(value, dict):
        properties = schema.get("properties")
        properties = properties if isinstance(properties, Mapping) else {}
        extra = schema.get("additionalProperties", {})
        known = [key for key in properties if key in value]
        known += [key for key in value if key not in properties]
        return {key: _order(value[key], properties.get(key, extra), root, depth + 1) for key in known}
    fixed = schema.get("prefixItems") if isinstance(schema.get("prefixItems"), list) else []
    items = schema.get("items", {})
    return [
        _order(item, fixed[index] if index < len(fixed) else items, root, depth + 1) for index, item in enumerate(value)
    ]


def _branches(schema: Mapping[str, Any], value: Any, root: Mapping[str, Any]) -> Iterator[Any]:
    """All of `allOf`, and of `anyOf` and `oneOf` the first branch whose keys and types fit."""
    yield from schema.get("allOf") or ()
    for keyword in ("anyOf", "oneOf"):
        for branch in schema.get(keyword) or ():
            try:
                resolved = resolve_schema(branch, root)
            except SchemaError:
                continue
            wanted = resolved.get("type", "object" if "properties" in resolved else None)
            kind = "object" if isinstance(value, dict) else "array"
            fits = wanted is None or wanted == kind or (isinstance(wanted, list) and kind in wanted)
            if fits and kind == "object":
                fits = all(key in value for key in resolved.get("required") or ())
            if fits:
                yield branch
                break
