"""From a span of text to the value a parameter asks for: "half past eleven" is 11:30, "five thousand dollars" 5000.

Texts and values are reduced to facts (a day, a time of day, a number), which are compared and written out. It
offers, it never replaces: a string without a format keeps its every character ("020"), and what a span may mean
besides (morning or afternoon) stays open.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Any

from multimodal_ai.functions.dates import dates_in, times_in
from multimodal_ai.functions.numerals import numbers_in

Fact = datetime.date | datetime.time | Decimal

_FORMATS = {"date": "%Y-%m-%d", "time": "%H:%M:%S", "date-time": "%Y-%m-%dT%H:%M:%S"}
# a pattern in a description, such as YYYY-MM-DD, HH:MM or DD/MM/YYYY
_PATTERN = re.compile(r"(?<!\w)(?:YYYY|MM|DD|HH|hh)(?:[-/.:](?:YYYY|MM|DD|mm|SS|ss)){1,2}(?!\w|[-/.:]\w)", re.ASCII)
_FIELDS = {"YYYY": "%Y", "DD": "%d", "HH": "%H", "hh": "%H", "mm": "%M", "SS": "%S", "ss": "%S"}
_MOMENT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}", re.ASCII)
_OFFSET = re.compile(r"(?::[0-9]{2})?(?:\.[0-9]+)?(?:Z|[+-][0-9]{2}:[0-9]{2})?", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True)
class Reading:
    """A span of a text, and the facts it may state, the likeliest first; all are of one kind."""

    start: int
    end: int
    facts: tuple[Fact, ...]


@lru_cache(maxsize=512)
def read(text: str, today: datetime.date) -> tuple[Reading, ...]:
    """All dates, times and numbers of an English text. `today`: the day that "tomorrow" is counted from."""
    days = [Reading(*found) for found in dates_in(text, today)]
    times = [Reading(*found) for found in times_in(text)]
    return (*days, *times, *(Reading(start, end, (value,)) for start, end, value in numbers_in(text)))


@lru_cache(maxsize=512)
def facts_of(text: str, today: datetime.date) -> frozenset[Fact]:
    """Everything that a text may state."""
    return frozenset(fact for reading in read(text, today) for fact in reading.facts)


def value_facts(text: str, today: datetime.date) -> tuple[Fact, ...]:
    """What a value states as a whole: one fact, two for a date with a time; () for any other text.

    The likeliest meaning counts: 05:30 is in the morning.
    """
    text = text.strip()
    if _MOMENT.match(text):
        if not _OFFSET.fullmatch(text, 16):
            return ()
        return (*value_facts(text[:10], today), *value_facts(text[11:16], today))
    seconds = re.fullmatch(r"([0-9]{2}:[0-9]{2}):[0-9]{2}(?:\.[0-9]+)?(?:[Zz]|[+-][0-9]{2}:[0-9]{2})?", text, re.ASCII)
    text = seconds[1] if seconds else text
    if len(text) > 64:
        return ()
    return next(
        (reading.facts[:1] for reading in read(text, today) if (reading.start, reading.end) == (0, len(text))), ()
    )


def is_stated(text: str, facts: frozenset[Fact], today: datetime.date) -> bool:
    """Whether a value is a date, time or number that is among the facts of a text."""
    found = value_facts(text, today)
    return bool(found) and facts.issuperset(found)


@dataclass(frozen=True)
class Form:
    """How a parameter writes its value: a strftime pattern, or for numbers none."""

    pattern: str = ""
    integral: bool = False

    def write(self, fact: Fact, written: str = "") -> str | None:
        """A fact in this form, None where it is of another kind. A date begins a date with a time, and a time goes on
        behind the date that is `written` already.
        """
        if isinstance(fact, Decimal):
            if self.pattern or (self.integral and fact != fact.to_integral_value()):
                return None
            return f"{fact.normalize():f}"
        wants_date, wants_time = "%Y" in self.pattern or "%d" in self.pattern, "%H" in self.pattern
        if isinstance(fact, datetime.time):
            if not wants_time:
                return None
            before, divider, _ = written.partition("T")
            if wants_date:
                return before + divider + fact.strftime(self.pattern.partition("T")[2]) if divider else None
            return fact.strftime(self.pattern)
        if not wants_date:
            return None
        return _strftime(fact, self.pattern.partition("T")[0]) + ("T" if wants_time else "")


def form_of(schema: Any) -> Form | None:
    """The form that a parameter's schema asks for by `type`, by `format`, or by a pattern such as YYYY-MM-DD in the
    description of a string; None for everything else. Of `anyOf` with null the other branch counts.
    """
    if not isinstance(schema, Mapping) or "enum" in schema or "const" in schema:
        return None
    for union in ("anyOf", "oneOf"):
        if union in schema:
            branches = [branch for branch in schema[union] if branch != {"type": "null"}]
            return form_of({**branches[0], **_described(schema)}) if len(branches) == 1 else None
    kind = schema.get("type")
    if isinstance(kind, list):
        kinds = [name for name in kind if name != "null"]
        kind = kinds[0] if len(kinds) == 1 else None
    if kind in ("integer", "number"):
        return Form(integral=kind == "integer")
    if kind != "string":
        return None
    if "format" in schema:
        pattern = _FORMATS.get(str(schema["format"]), "")
    else:
        pattern = _strftime_pattern(str(schema.get("description") or ""))
    return Form(pattern) if pattern else None


def _described(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"description": schema["description"]} if "description" in schema else {}


def _strftime_pattern(description: str) -> str:
    """YYYY-MM-DD as %Y-%m-%d, HH:MM as %H:%M; "" where a description names no pattern, or several."""
    patterns = set(_PATTERN.findall(description))
    if len(patterns) != 1:
        return ""
    pattern, clock = patterns.pop(), False
    written = ""
    for part in re.findall(r"\w+|\W", pattern):
        clock = clock or part in ("HH", "hh")
        written += "%M" if part == "MM" and clock else "%m" if part == "MM" else _FIELDS.get(part, part)
    return written


def _strftime(day: datetime.date, pattern: str) -> str:
    """As `strftime`, with four digits for every year on every platform."""
    return day.strftime(pattern.replace("%Y", f"{day.year:04d}"))
