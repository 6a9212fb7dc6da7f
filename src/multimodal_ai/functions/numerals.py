"""Numbers and amounts of money in English text: "five thousand", "$1,299.50", "two and a half", "a dozen".

It reads what is written and guesses nothing: digits with a leading zero, or grown together with letters, dots or
dashes, are identifiers and no numbers ("020", "E-12", "408-247-8880"). Patterns are ASCII and linear.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Any, TypeVar


def numbered(words: str, first: int = 1) -> dict[str, int]:
    """Words of a line, numbered in order."""
    return {word: number for number, word in enumerate(words.split(), first)}


UNITS = numbered("zero one two three four five six seven eight nine ten eleven twelve", 0)
UNITS |= numbered("thirteen fourteen fifteen sixteen seventeen eighteen nineteen", 13)
_TENS = numbered("twenty thirty forty fifty sixty seventy eighty ninety", 2)
_VALUES = UNITS | {word: 10 * number for word, number in _TENS.items()}
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9}
_GROUPS = {"couple": 2, "pair": 2, "dozen": 12, "hundred": 100}
WORD = "(?:" + "|".join(sorted((*_VALUES, *_SCALES, *_GROUPS), key=len, reverse=True)) + ")"
_WORDS = re.compile(rf"\b(?:a +)?{WORD}(?:(?: +and)?[ -]+{WORD})*\b", re.IGNORECASE | re.ASCII)
_DIGITS = re.compile(
    r"(?<![\w.,:/'-])(?:-(?=[0-9.$€£]))?[$€£]? ?"
    r"(?P<number>[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]{1,15})?|[0-9]{1,15}(?:\.[0-9]{1,15})?|\.[0-9]{1,15})"
    r"(?P<scale> ?(?:k|thousand|million|billion)\b)?(?!\w|[.,:/][0-9]|-[0-9])",
    re.IGNORECASE | re.ASCII,
)
_HALF = re.compile(r" and a half\b", re.IGNORECASE)
_CENTS = re.compile(r" (?:dollars|euros|pounds|bucks|dollar|euro|pound|buck)(?: and)? ", re.IGNORECASE)
_CENT = re.compile(r" cents?\b", re.IGNORECASE)
_MINUS = re.compile(r"(?:minus|negative) $", re.IGNORECASE)
# "one" behind these is a pronoun
_PRONOUN = re.compile(r"\b(?:another|any|each|every|no|other|some|that|the|this|which) $", re.IGNORECASE)

_MOST_WORDS = 32  # in one number

Number = tuple[int, int, Decimal]  # start, end, value
T = TypeVar("T", bound=tuple[int, int, Any])


def outermost(spans: Iterable[T]) -> list[T]:
    """Spans (start, end, …) in order, without those that lie inside another one."""
    kept: list[T] = []
    for span in sorted(spans, key=lambda item: (item[0], -item[1])):
        if not kept or span[1] > kept[-1][1]:
            kept.append(span)
    return kept


def numbers_in(text: str) -> list[Number]:
    """Every number of a text with its place, in order; parts of longer ones are not numbers of their own."""
    found = outermost([*_in_digits(text), *_in_words(text)])
    joined: list[Number] = []
    for start, end, value in found:
        if half := _HALF.match(text, end):
            end, value = half.end(), value + Decimal("0.5")
        if minus := _MINUS.search(text, max(0, start - 10), start):
            start, value = minus.start(), -value
        if cent := _CENT.match(text, end):
            end, value = cent.end(), value / 100
            whole = _CENTS.fullmatch(text, joined[-1][1], start) if joined else None
            if whole:
                start, _, amount = joined.pop()
                value += amount
        joined.append((start, end, value))
    return joined


def _in_digits(text: str) -> Iterator[Number]:
    for match in _DIGITS.finditer(text):
        number = match["number"].replace(",", "")
        if len(number) > 1 and number[0] == "0" and number[1] != ".":
            continue
        value = Decimal(number)
        if match["scale"]:
            value *= _SCALES.get(match["scale"].strip().lower(), 1000)
        yield match.start(), match.end(), -value if match.group().startswith("-") else value


def _in_words(text: str) -> Iterator[Number]:
    """Numbers in words; a run that makes no single number ("two three") gives several."""
    for run in _WORDS.finditer(text):
        words = list(re.finditer(r"[a-z]+", run.group().lower()))
        offset, place = run.start(), 0
        while place < len(words):
            size, value = _longest([word.group() for word in words[place : place + _MOST_WORDS]])
            if size:
                start, end = offset + words[place].start(), offset + words[place + size - 1].end()
                pronoun = text[start:end].lower() == "one" and _PRONOUN.search(text, max(0, start - 12), start)
                if not pronoun:
                    yield start, end, Decimal(value)
            place += max(size, 1)


def _longest(words: list[str]) -> tuple[int, int]:
    """How many of the first words make one number, and which; (0, 0) where they begin none."""
    total, current, size, least = 0, 0, 0, 10**12
    for place, word in enumerate(words):
        previous = words[place - 1] if place else ""
        if word == "a":
            if place:
                break
            current = 1
            continue
        if word == "and":
            if previous != "hundred" and previous not in _SCALES:
                break
            continue
        if word in _SCALES:
            if (current == 0 and place) or _SCALES[word] >= least:
                break
            least = _SCALES[word]
            total, current = total + max(current, 1) * least, 0
        elif word in _GROUPS:
            if place and not 0 < current < 100:
                break
            current = max(current, 1) * _GROUPS[word]
        else:
            value, after_tens = _VALUES[word], current % 100 >= 20 and current % 10 == 0
            fits = current % 100 == 0 or (after_tens and 0 < value < 10)
            if (place and not fits) or (value == 0 and place) or previous in ("a", "couple", "pair", "dozen", "zero"):
                break
            current += value
        size = place + 1
    return (size, total + current) if size else (0, 0)
