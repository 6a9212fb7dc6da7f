"""A function call as the text the model writes, with the place of every value in it.

The wire format is `{"name":"…","arguments":{…}}`: compact separators, name first, printable characters
never escaped. Places are offsets in UTF-8 bytes, because tokens are bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from multimodal_ai.functions.schema import canonical_json


@dataclass(frozen=True)
class Value:
    """The value of one top-level argument: bytes [start, end), without the quotes of a string.

    leaves: the strings and numbers inside it, each a place that may have been copied from the source.
    """

    parameter: str
    start: int
    end: int
    leaves: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class CallText:
    """The JSON of a call and the places of its arguments' values."""

    text: str
    values: tuple[Value, ...]


def render_call(name: str, arguments: Mapping[str, Any]) -> CallText:
    """The canonical text of a call. Raises ValueError for what JSON cannot hold (NaN, infinities)."""
    pieces = ['{"name":', canonical_json(name), ',"arguments":{']
    length = sum(len(piece.encode()) for piece in pieces)
    values = []
    for number, (key, value) in enumerate(arguments.items()):
        head = ("," if number else "") + canonical_json(key) + ":"
        leaves: list[tuple[int, int]] = []
        body = canonical_json(value)
        start = length + len(head.encode())
        _leaves(value, start, leaves)
        end = start + len(body.encode())
        quoted = isinstance(value, str)
        values.append(Value(key, start + quoted, end - quoted, tuple(leaves)))
        pieces += [head, body]
        length = end
    pieces.append("}}")
    return CallText("".join(pieces), tuple(values))


def _leaves(value: Any, start: int, found: list[tuple[int, int]]) -> int:
    """Note the places of strings (inside their quotes) and numbers in `value`; returns where it ends."""
    if isinstance(value, Mapping):
        position = start + 1
        for key, item in value.items():
            position = _leaves(item, position + len(canonical_json(key).encode()) + 1, found) + 1
        return max(position, start + 2)
    if isinstance(value, (list, tuple)):
        position = start + 1
        for item in value:
            position = _leaves(item, position, found) + 1
        return max(position, start + 2)
    end = start + len(canonical_json(value).encode())
    if isinstance(value, str):
        found.append((start + 1, end - 1))
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        found.append((start, end))
    return end
