"""How given function calls compare with the expected ones.

Equality knows JSON's types: 1 equals 1.0, "020" equals neither 20 nor "20", true is no number. The order of
parallel calls and of keys does not matter, the order inside a list does. Nothing here repairs a value or
guesses what was meant: a call is exact or it is not, and the scores per argument say how near it came.
"""

from __future__ import annotations

import datetime
import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from rapidfuzz.distance import Levenshtein
from scipy.optimize import linear_sum_assignment

from multimodal_ai.functions.normalise import Fact, facts_of, is_stated

COMMON = 20  # times that an argument is expected before it gets numbers of its own


@dataclass(frozen=True)
class NamedCall:
    """A function's name with its arguments: all that is compared."""

    name: str
    arguments: Mapping[str, Any]


def values_equal(left: object, right: object) -> bool:
    """Equality of JSON values by type: numbers by value, everything else exactly."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, int | float) and isinstance(right, int | float):
        return left == right
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return left.keys() == right.keys() and all(values_equal(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return len(left) == len(right) and all(map(values_equal, left, right))
    return type(left) is type(right) and left == right


def calls_equal(given: Sequence[NamedCall], expected: Sequence[NamedCall]) -> bool:
    """Whether both hold the same calls, names and arguments, in any order."""
    rest = list(expected)
    for call in given:
        for position, other in enumerate(rest):
            if call.name == other.name and values_equal(call.arguments, other.arguments):
                del rest[position]
                break
        else:
            return False
    return not rest


def align_calls(
    given: Sequence[NamedCall], expected: Sequence[NamedCall]
) -> list[tuple[NamedCall | None, NamedCall | None]]:
    """Pair calls of one name so that most arguments agree; what stays alone is paired with None."""
    pairs: list[tuple[NamedCall | None, NamedCall | None]] = []
    for name in dict.fromkeys(call.name for call in [*given, *expected]):
        left = [call for call in given if call.name == name]
        right = [call for call in expected if call.name == name]
        agree = np.array([[len(_equal_keys(a, b)) for b in right] for a in left]).reshape(len(left), len(right))
        rows, columns = linear_sum_assignment(agree, maximize=True)
        pairs += [(left[row], right[column]) for row, column in zip(rows, columns, strict=True)]
        pairs += [(left[row], None) for row in range(len(left)) if row not in rows]
        pairs += [(None, right[column]) for column in range(len(right)) if column not in columns]
    return pairs


@dataclass
class ArgumentCounts:
    """Counts over many requests, from which precision, recall and exactness by type follow."""

    given: int = 0
    expected: int = 0
    equal: int = 0
    shared: Counter[str] = field(default_factory=Counter)  # both gave the key, by type of the expected value
    shared_equal: Counter[str] = field(default_factory=Counter)
    by_name: defaultdict[str, list[tuple[bool, float]]] = field(default_factory=lambda: defaultdict(list))

    def add(
        self,
        given: Sequence[NamedCall],
        expected: Sequence[NamedCall],
        schemas: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """Count one request; `schemas` (function name to its JSON Schema) tells enums from plain strings."""
        for mine, gold in align_calls(given, expected):
            self.given += len(mine.arguments) if mine else 0
            self.expected += len(gold.arguments) if gold else 0
            if gold is None:
                continue
            for key, value in gold.arguments.items():
                got = mine.arguments.get(key) if mine else None
                exact = mine is not None and key in mine.arguments and values_equal(got, value)
                self.by_name[f"{gold.name}.{key}"].append((exact, similarity(got, value)))
            if mine is None:
                continue
            properties = (schemas or {}).get(gold.name, {}).get("properties", {})
            equal = _equal_keys(mine, gold)
            self.equal += len(equal)
            for key in mine.arguments.keys() & gold.arguments.keys():
                kind = value_type(gold.arguments[key], properties.get(key))
                self.shared[kind] += 1
                self.shared_equal[kind] += key in equal

    def metrics(self) -> dict[str, float]:
        """Precision and recall of whole arguments (key and value), exact values by type, and for every argument that is
        expected at least `COMMON` times how often it is exact and how near it comes, 0 where it is missing.
        """
        found = {
            "argument_precision": _share(self.equal, self.given),
            "argument_recall": _share(self.equal, self.expected),
            "argument_value_exact": _share(self.shared_equal.total(), self.shared.total()),
        }
        for kind in sorted(self.shared):
            found[f"argument_value_exact/{kind}"] = _share(self.shared_equal[kind], self.shared[kind])
        for name, values in sorted(self.by_name.items()):
            if len(values) >= COMMON:
                found[f"argument_exact/{name}"] = sum(exact for exact, _ in values) / len(values)
                found[f"argument_similarity/{name}"] = sum(near for _, near in values) / len(values)
        return found


def similarity(given: object, expected: object) -> float:
    """How near a value comes, 0 to 1: of strings, 1 less the Levenshtein distance by the longer one's length, case and
    spacing apart; of everything else, whether they are equal.
    """
    if isinstance(given, str) and isinstance(expected, str):
        return float(Levenshtein.normalized_similarity(_plain(given), _plain(expected)))
    return float(values_equal(given, expected))


def value_type(value: object, schema: object = None) -> str:
    """The JSON type of a value, or `enum` where the schema lists what is allowed."""
    if isinstance(schema, Mapping) and ("enum" in schema or "const" in schema):
        return "enum"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "integer"
    if isinstance(value, float):
        return "number"
    if isinstance(value, str):
        return "string"
    return "object" if isinstance(value, Mapping) else "array"


def hallucinated_arguments(
    given: Sequence[NamedCall],
    expected: Sequence[NamedCall],
    context: str,
    schemas: Mapping[str, Mapping[str, Any]] | None = None,
    today: datetime.date | None = None,
) -> tuple[int, int]:
    """Count arguments made out of nothing, and all arguments given.

    A value is grounded if it stands in the context (upper or lower case, spacing and the writing of dates,
    times and numbers apart; days are counted from `today`, the present one by default), if its schema names it
    (enum, const, default) or is boolean, or if it is the expected one. A wrong value is grounded too where the
    expected one does not stand in the text either: then it is read from an image or worked out (a sum), and the
    mistake is one of reading.
    """
    said = _Said.of(context, today or datetime.date.today())
    made_up = total = 0
    for mine, gold in align_calls(given, expected):
        if mine is None:
            continue
        properties = (schemas or {}).get(mine.name, {}).get("properties", {})
        wanted = gold.arguments if gold else {}
        for key, value in mine.arguments.items():
            total += 1
            if key in wanted and (values_equal(value, wanted[key]) or not said.holds(wanted[key])):
                continue
            made_up += not (_named_by(properties.get(key), value) or said.holds(value))
    return made_up, total


def _equal_keys(left: NamedCall, right: NamedCall) -> set[str]:
    both = left.arguments.keys() & right.arguments.keys()
    return {key for key in both if values_equal(left.arguments[key], right.arguments[key])}


def _named_by(schema: object, value: object) -> bool:
    if isinstance(value, bool) or value is None:
        return True
    if not isinstance(schema, Mapping):
        return False
    named = [*schema.get("enum", ()), *(schema[key] for key in ("const", "default") if key in schema)]
    return any(values_equal(value, each) for each in named)


@dataclass(frozen=True)
class _Said:
    """What a text says: its normalised words, its numbers, and the dates, times and numbers that it spells out."""

    text: str
    numbers: frozenset[float]
    facts: frozenset[Fact]
    today: datetime.date

    @classmethod
    def of(cls, text: str, today: datetime.date) -> _Said:
        return cls(_plain(text), _numbers(text), facts_of(text, today), today)

    def holds(self, value: object) -> bool:
        """Whether a value, or every value inside it, stands in the text."""
        if value is None or isinstance(value, bool):
            return True
        if isinstance(value, int | float):
            return float(value) in self.numbers or is_stated(str(value), self.facts, self.today)
        if isinstance(value, str):
            return _is_phrase_of(_plain(value), self.text) or is_stated(value, self.facts, self.today)
        inside = value.values() if isinstance(value, Mapping) else value
        return isinstance(inside, Iterable) and all(self.holds(item) for item in inside)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _is_phrase_of(phrase: str, text: str) -> bool:
    """Whether the text holds the phrase, not as a part of a longer ASCII word or number."""
    start = r"(?<![a-z0-9])" if phrase[:1].isascii() else ""
    end = r"(?![a-z0-9])" if phrase[-1:].isascii() else ""
    return re.search(start + re.escape(phrase) + end, text) is not None


_NUMBER = re.compile(r"\d{1,3}(?:[, ]\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+")


def _numbers(text: str) -> frozenset[float]:
    """Every number of a text by value, with either sign; `1,204` counts as 1204, and as 1 and 204."""
    found: set[float] = set()
    for match in _NUMBER.finditer(text):
        for written in (re.sub("[, ]", "", match.group()), *re.split("[, ]", match.group())):
            value = float(written)
            found.update((value, -value))
    return frozenset(found)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


def as_named_calls(calls: Iterable[object]) -> list[NamedCall]:
    """Calls from what has `.name` and `.arguments`, or from dicts in either chat shape."""
    found = []
    for call in calls:
        if isinstance(call, Mapping):
            inner = call.get("function", call)
            name, arguments = inner["name"], inner.get("arguments", {})
        else:
            name, arguments = call.name, call.arguments  # type: ignore[attr-defined]
        if isinstance(arguments, str):
            arguments = json.loads(arguments)
        found.append(NamedCall(name, arguments))
    return found
