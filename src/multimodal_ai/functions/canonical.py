"""Strict JSON with one canonical spelling.

Calls are compared, hashed, trained on and replayed, so one value must have one text: compact separators,
printable characters unescaped, the order of keys kept. What JSON cannot hold (NaN, infinities, halves of
surrogate pairs, repeated keys) and what could exhaust the stack is refused, never repaired.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

MAX_JSON_DEPTH = 64


def canonical_json(value: Any) -> str:
    """Compact JSON: no spaces, printable characters unescaped, the dicts' key order kept.

    Raises ValueError for NaN, infinities, lone surrogates and anything that JSON cannot hold.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        text.encode("utf-8")
    except (TypeError, RecursionError, UnicodeEncodeError, ValueError) as error:
        raise ValueError(f"cannot be written as JSON: {error}") from None
    return text.replace("\x7f", "\\u007f")


def parse_json(text: str) -> Any:
    """Parse JSON strictly: no NaN, no infinities, no repeated keys, no lone surrogates, limited nesting.

    Raises ValueError that says what is wrong.
    """
    try:
        value = json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_no_constant, parse_float=_finite)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at character {error.pos}") from None
    except RecursionError:
        raise ValueError(f"nested deeper than {MAX_JSON_DEPTH}") from None
    check_value(value)
    return value


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        keys = [key for key, _ in pairs]
        repeated = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"key {repeated[:80]!r} is given twice")
    return result


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON value")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"number {text[:40]} is out of range")
    return value


def check_value(value: Any) -> None:
    """Raise ValueError unless `value` is plain JSON data of limited depth (checked without recursion)."""
    stack: list[tuple[Any, int]] = [(value, 0)]
    while stack:
        node, depth = stack.pop()
        if depth > MAX_JSON_DEPTH:
            raise ValueError(f"nested deeper than {MAX_JSON_DEPTH}")
        if isinstance(node, Mapping):
            for key in node:
                if not isinstance(key, str):
                    raise ValueError(f"key {key!r}: expected a string")
                stack.append((key, depth + 1))
            stack.extend((item, depth + 1) for item in node.values())
        elif isinstance(node, (list, tuple)):
            stack.extend((item, depth + 1) for item in node)
        elif isinstance(node, str):
            if not node.isascii() and any("\ud800" <= char <= "\udfff" for char in node):
                raise ValueError(f"text {short_json(node)} holds half of a surrogate pair")
        elif isinstance(node, float):
            if not math.isfinite(node):
                raise ValueError(f"{node} is not a JSON value")
        elif node is not None and not isinstance(node, (bool, int)):
            raise ValueError(f"{type(node).__name__} is not a JSON value")


def plain_copy(value: Any) -> Any:
    """Copy into plain dicts and lists, so that nothing shared can be changed through the result."""
    if isinstance(value, Mapping):
        return {key: plain_copy(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_copy(item) for item in value]
    return value


def json_pointer(path: Iterable[Any]) -> str:
    """`["items", 0, "a/b"]` -> `/items/0/a~1b`; the whole document is the empty string."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)


def short_json(value: Any, limit: int = 80) -> str:
    """JSON of a value for a message to a person, cut to `limit` characters; never raises."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        text = f"a value of type {type(value).__name__}"
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return text if len(text) <= limit else text[: limit - 1] + "…"
