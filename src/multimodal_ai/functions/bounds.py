"""A function's schema as generation sees it: a bounded subset that always can end.

JSON Schema sets no limits: a string, a number, a list or a recursive tree may go on for ever, and a free
object takes any key. The copy made here accepts only values the original accepts, in the order of its keys,
within `GenerationBounds`, so a model under the grammar cannot run away. What a grammar cannot express
(`not`, `uniqueItems`, …) is left out and noted, never dropped in silence: the finished call is validated
against the original.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from multimodal_ai.functions.json_schema import (
    SchemaError,
    check_schema,
    iter_subschemas,
    resolve_reference,
    resolve_schema,
)
from multimodal_ai.functions.schema import FunctionSpec

# Checked by jsonschema when the call is complete; no grammar holds them.
VALIDATED_KEYWORDS = frozenset(
    keyword
    for line in (
        "not if then else oneOf uniqueItems contains minContains maxContains propertyNames dependencies",
        "dependentRequired dependentSchemas unevaluatedItems unevaluatedProperties",
    )
    for keyword in line.split()
)
KNOWN_FORMATS = frozenset(("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid"))
_ANNOTATIONS = frozenset(
    keyword
    for line in (
        "title description default examples example deprecated readOnly writeOnly $comment $schema $id $anchor",
        "contentEncoding contentMediaType contentSchema",
    )
    for keyword in line.split()
)
_DEFINITIONS = ("$defs", "definitions")
_KEYWORD_TYPES = {
    "object": "properties patternProperties additionalProperties required minProperties maxProperties",
    "array": "items prefixItems minItems maxItems",
    "string": "pattern format minLength maxLength",
    "number": "minimum maximum exclusiveMinimum exclusiveMaximum multipleOf",
}
_RANGE = frozenset(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"))
_WIDEST = 10**18 - 1  # llguidance counts in 64 bits: beyond them it saturates, and overflows its stack at the least one
_SCALARS: list[Any] = ["string", "number", "boolean", "null"]
# The engine's own dates include 30 February; these are days that exist, in the years 1000 to 2999.
_LEAP_YEAR = r"(?:[12]\d(?:0[48]|[2468][048]|[13579][26])|(?:12|16|20|24|28)00)"
_DATE = (
    r"(?:[12]\d{3}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\d|30)|"
    rf"02-(?:0[1-9]|1\d|2[0-8]))|{_LEAP_YEAR}-02-29)"
)
_TIME = r"(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,6})?(?:Z|[+-](?:[01]\d|2[0-3]):[0-5]\d)"
_EXACT_FORMATS = {"date": f"^{_DATE}$", "time": f"^{_TIME}$", "date-time": f"^{_DATE}T{_TIME}$"}
_FREE_KEY = r"^[^\x00-\x1f\x7f]{1,64}$"

Status = Literal["enforced", "validated", "refused"]


@dataclass(frozen=True)
class GenerationBounds:
    """Limits where a schema sets none. Lengths are in characters, digits and items."""

    string_length: int = 512
    integer_digits: int = 18
    number_digits: int = 15
    number_decimals: int = 9
    array_items: int = 64
    free_keys: int = 16
    reference_depth: int = 4
    free_depth: int = 2


def bounded_schema(
    parameters: Mapping[str, Any], bounds: GenerationBounds | None = None
) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """Return `(schema, definitions, notes)` for one function's parameters.

    References in `schema` point to `#/$defs/<name>` and `definitions` holds those names, so the two can be put
    into a larger document. Cyclic references are unrolled `reference_depth` times. Raises SchemaError when
    no finite value exists.
    """
    copier = _BoundedCopy(parameters, bounds or GenerationBounds())
    schema = copier.copy(parameters, 0, "", top=True)
    if schema is None or schema is False:
        beyond = [note for note in copier.notes if "can be generated" in note]
        raise SchemaError(
            f"no finite arguments satisfy the schema ({'; '.join(beyond) or 'a required parameter needs itself'})"
        )
    return schema, copier.definitions, sorted(set(copier.notes))


def schema_report(spec: FunctionSpec) -> list[tuple[str, Status]]:
    """Which keywords of a function's schema the grammar enforces, which are only validated, which refused.

    "enforced": generation cannot break it. "validated": `validate_arguments` checks the finished call.
    "refused": the schema cannot be used until it is changed (`check_schema` says why). Sorted by keyword.
    """
    report: dict[str, Status] = {}
    for _, node in iter_subschemas(spec.parameters):
        if not isinstance(node, Mapping):
            continue
        for keyword, value in node.items():
            if keyword in _ANNOTATIONS or keyword in _DEFINITIONS or keyword.startswith("x-"):
                continue
            name = f"format:{value}" if keyword == "format" else keyword
            status: Status = "enforced"
            unknown_format = keyword == "format" and value not in KNOWN_FORMATS
            uncounted = keyword in ("minProperties", "maxProperties") and not _all_required(node)
            if keyword in VALIDATED_KEYWORDS or unknown_format or uncounted:
                status = "validated"
            elif keyword in ("$dynamicRef", "$recursiveRef") or _is_refused(keyword, value, spec):
                status = "refused"
            if status != "enforced" or name not in report:
                report[name] = status
    return sorted(report.items())


def _is_refused(keyword: str, value: Any, spec: FunctionSpec) -> bool:
    if keyword not in ("$ref", "pattern"):
        return False
    try:
        if keyword == "$ref":
            resolve_schema({"$ref": value}, spec.parameters)
        else:
            check_schema({"type": "string", "pattern": value})
    except SchemaError:
        return True
    return False


def _reaches(key: str, bound: float) -> bool:
    """Whether a bound lies beyond the widest range on its own side, where it can be drawn in."""
    return bound < -_WIDEST if key in ("minimum", "exclusiveMinimum") else bound > _WIDEST


def _all_required(node: Mapping[str, Any]) -> bool:
    return set(node.get("properties") or ()) <= set(node.get("required") or ())


def _common_types(first: str | list[str], second: str | list[str]) -> list[str]:
    left, right = ([kinds] if isinstance(kinds, str) else kinds for kinds in (first, second))
    common = [kind for kind in left if kind in right]
    if ("integer" in left and "number" in right) or ("number" in left and "integer" in right):
        common.append("integer")
    return list(dict.fromkeys(common))


class _BoundedCopy:
    """Copies a schema; a result of None means that no value fits within the depth that is left."""

    def __init__(self, root: Mapping[str, Any], bounds: GenerationBounds) -> None:
        self.root = root
        self.bounds = bounds
        self.definitions: dict[str, Any] = {}
        self.notes: list[str] = []
        self._names: dict[tuple[str, int], str] = {}
        self._reachable: dict[str, frozenset[str]] = {}

    def copy(self, schema: Any, level: int, where: str, top: bool = False) -> Any:
        if schema is False or schema is None:
            return False
        if schema is True:
            return self._anything(0)
        node = {key: value for key, value in schema.items() if key not in _ANNOTATIONS}
        for keyword in sorted(VALIDATED_KEYWORDS & node.keys()):
            meaning = "generated as anyOf, " if keyword == "oneOf" else "not enforced, "
            self.notes.append(f"{where or '/'}: {keyword} is {meaning}only validated")
            if keyword != "oneOf":
                del node[keyword]
        if "$ref" in node:
            return self._reference(node, level, where)
        for keyword in _DEFINITIONS:
            node.pop(keyword, None)
        if "enum" in node or "const" in node:
            return {key: node[key] for key in ("type", "enum", "const") if key in node}
        if "allOf" in node:
            merged = self._merge_all(node)
            return self._strip(node, level, where) if merged is None else self.copy(merged, level, where, top)
        for keyword in ("anyOf", "oneOf"):
            if keyword in node:
                return self._alternatives(node, keyword, level, where, top)
        types = node.get("type")
        if types is None:
            types = [kind for kind, words in _KEYWORD_TYPES.items() if any(word in node for word in words.split())]
            if not types:
                return self._anything(0)
        elif isinstance(types, str):
            types = [types]
        possible = [kind for kind in types if self._bound(kind, node, level, where, top)]
        if not possible:
            return None
        node["type"] = possible[0] if len(possible) == 1 else possible
        return node

    def _bound(self, kind: str, node: dict[str, Any], level: int, where: str, top: bool) -> bool:
        """Bound the keywords of one type in place; False when no value of this type can be finite."""
        if kind == "string":
            self._string(node, where)
        elif kind in ("integer", "number"):
            return self._number(node, kind, where)
        elif kind == "array":
            return self._array(node, level, where)
        elif kind == "object":
            return self._object(node, level, where, top)
        return True

    def _string(self, node: dict[str, Any], where: str) -> None:
        if "format" in node and node["format"] not in KNOWN_FORMATS:
            self.notes.append(f"{where or '/'}: format {node['format']!r} is not enforced")
            del node["format"]
        if node.get("format") in _EXACT_FORMATS and "pattern" not in node:
            node["pattern"] = _EXACT_FORMATS[node.pop("format")]
        elif node.get("format") in (None, "email", "hostname", "uri"):  # the others are short by themselves
            node.setdefault("maxLength", max(self.bounds.string_length, node.get("minLength", 0)))

    def _number(self, node: dict[str, Any], kind: str, where: str) -> bool:
        """Bound a number; False where its range lies beyond what the engine can hold."""
        digits = self.bounds.integer_digits if kind == "integer" else self.bounds.number_digits
        limit = 10**digits - 1
        for key in node.keys() & _RANGE:
            node[key] = min(max(node[key], -_WIDEST), _WIDEST) if _reaches(key, node[key]) else node[key]
        low = max((node[key] for key in ("minimum", "exclusiveMinimum") if key in node), default=None)
        high = min((node[key] for key in ("maximum", "exclusiveMaximum") if key in node), default=None)
        if (low is not None and low > _WIDEST) or (high is not None and high < -_WIDEST):
            self.notes.append(f"{where or '/'}: no {kind} of more than 18 digits can be generated")
            return False
        if low is None:
            node["minimum"] = -limit if high is None or high > -limit else max(high * 10, -_WIDEST)
        if high is None:
            node["maximum"] = limit if low is None or low < limit else min(low * 10, _WIDEST)
        if kind == "number" and "multipleOf" not in node:
            node["multipleOf"] = 10**-self.bounds.number_decimals
        return True

    def _array(self, node: dict[str, Any], level: int, where: str) -> bool:
        fixed = node.pop("prefixItems", None)
        items = node.get("items", True)
        least = node.get("minItems", 0)
        if fixed is not None:
            copies = [self.copy(item, level, f"{where}/{index}") for index, item in enumerate(fixed)]
            possible = next((i for i, item in enumerate(copies) if item is None or item is False), len(copies))
            node["prefixItems"] = copies[:possible]
            open_ended = items is not False and possible == len(copies)
            node["items"] = self.copy(items, level, f"{where}/*") if open_ended and items is not True else False
            if items is True and least > possible == len(copies):
                node["items"] = self._anything(1)
        else:
            node["items"] = self.copy(items, level, f"{where}/*") if items is not True else self._anything(1)
        if node["items"] is None or node["items"] is False:
            node["items"] = False
            node["maxItems"] = min(len(node.get("prefixItems", ())), node.get("maxItems", 1_000_000))
            return least <= node["maxItems"]
        node.setdefault("maxItems", max(self.bounds.array_items, least))
        return True

    def _object(self, node: dict[str, Any], level: int, where: str, top: bool) -> bool:
        required = set(node.get("required", ()))
        declared = bool(node.get("properties"))
        properties: dict[str, Any] = {}
        for name, schema in (node.get("properties") or {}).items():
            copied = self.copy(schema, level, f"{where}/{name}")
            if copied is None or copied is False:
                if name in required:
                    return False
                continue
            properties[name] = copied
        node["properties"] = properties
        if not _all_required(node):
            for keyword in ("minProperties", "maxProperties"):
                if keyword in node:
                    self.notes.append(f"{where or '/'}: {keyword} is not enforced, only validated")
                    del node[keyword]
        extra = node.get("additionalProperties")
        keyed = {
            pattern: self.copy(schema, level, f"{where}/*")
            for pattern, schema in (node.pop("patternProperties", None) or {}).items()
        }
        keyed = {pattern: schema for pattern, schema in keyed.items() if schema is not None}
        if keyed:
            node["patternProperties"] = keyed
        if extra is None:
            extra = not (top or declared or keyed or required)
        free = self._anything(1) if extra is True else self.copy(extra, level, f"{where}/*")
        node["additionalProperties"] = False
        if free is None or free is False:
            return True
        if properties or keyed or required:
            node["additionalProperties"] = free
        else:
            node["patternProperties"] = {_FREE_KEY: free}
            least = node.get("minProperties", 0)
            node.setdefault("maxProperties", max(self.bounds.free_keys, least))
        return True

    def _reference(self, node: dict[str, Any], level: int, where: str) -> Any:
        pointer = node["$ref"]
        if pointer in self._targets(pointer):
            level += 1
        if level > self.bounds.reference_depth:
            return None
        if (pointer, level) not in self._names:
            name = f"r{len(self._names)}"
            self._names[pointer, level] = name
            target = resolve_reference(self.root, pointer)
            self.definitions[name] = self.copy(target, level, where)
        name = self._names[pointer, level]
        if self.definitions.get(name) is None:
            return None
        beside = {key: value for key, value in node.items() if key not in ("$ref", *_DEFINITIONS)}
        return {"$ref": f"#/$defs/{name}", **beside}

    def _targets(self, pointer: str) -> frozenset[str]:
        """Every reference that can be reached from the schema a reference points to."""
        if pointer not in self._reachable:
            found: set[str] = set()
            pending = [pointer]
            while pending:
                for _, node in iter_subschemas(resolve_reference(self.root, pending.pop())):
                    reference = node.get("$ref") if isinstance(node, Mapping) else None
                    if isinstance(reference, str) and reference not in found:
                        found.add(reference)
                        pending.append(reference)
            self._reachable[pointer] = frozenset(found)
        return self._reachable[pointer]

    def _alternatives(self, node: dict[str, Any], keyword: str, level: int, where: str, top: bool) -> Any:
        """`anyOf` or `oneOf`; what stands beside it holds for every branch and is merged into each."""
        beside = {key: value for key, value in node.items() if key != keyword}
        branches = []
        for branch in node[keyword]:
            joined = {"allOf": [beside, branch]} if beside else branch
            copied = self.copy(joined, level, where, top)
            if copied is not None and copied is not False:
                branches.append(copied)
        if not branches:
            return None
        return {"anyOf": branches} if len(branches) > 1 else branches[0]

    def _merge_all(self, node: dict[str, Any]) -> dict[str, Any] | bool | None:
        """`allOf` and the keywords beside it as one schema; None if they disagree, False if none can hold."""
        merged: dict[str, Any] = {key: value for key, value in node.items() if key != "allOf"}
        for branch in node["allOf"]:
            part = resolve_schema(branch, self.root)
            for key, value in part.items():
                if key in _ANNOTATIONS or key in _DEFINITIONS or merged.get(key) == value:
                    continue
                if key not in merged:
                    merged[key] = value
                elif key == "type":
                    merged[key] = _common_types(merged[key], value)
                    if not merged[key]:
                        return False
                elif key == "required":
                    merged[key] = [*merged[key], *(name for name in value if name not in merged[key])]
                elif key == "properties":
                    both = {name: {"allOf": [merged[key][name], value[name]]} for name in value if name in merged[key]}
                    merged[key] = {**merged[key], **value, **both}
                elif key in ("minimum", "minLength", "minItems", "minProperties"):
                    merged[key] = max(merged[key], value)
                elif key in ("maximum", "maxLength", "maxItems", "maxProperties"):
                    merged[key] = min(merged[key], value)
                else:
                    return None
        return merged

    def _strip(self, node: dict[str, Any], level: int, where: str) -> Any:
        """An `allOf` that cannot be merged: branches are kept as they are, without bounds."""
        self.notes.append(f"{where or '/'}: allOf is kept without bounds on length")
        branches = []
        for branch in node["allOf"]:
            part = self._reference(branch, level, where) if "$ref" in branch else branch
            if part is None:
                return None
            branches.append(part)
        return {**node, "allOf": branches}

    def _anything(self, depth: int) -> dict[str, Any]:
        """Any JSON value, nested at most `free_depth` deep."""
        name = f"any{depth}"
        if name not in self.definitions:
            self.definitions[name] = {}
            branches = [self.copy({"type": kind}, 0, "") for kind in _SCALARS]
            if depth < self.bounds.free_depth:
                inner = self._anything(depth + 1)
                branches.append({"type": "array", "items": inner, "maxItems": self.bounds.array_items})
                branches.append(
                    {
                        "type": "object",
                        "patternProperties": {_FREE_KEY: inner},
                        "additionalProperties": False,
                        "maxProperties": self.bounds.free_keys,
                    }
                )
            self.definitions[name] = {"anyOf": branches}
        return {"$ref": f"#/$defs/{name}"}
