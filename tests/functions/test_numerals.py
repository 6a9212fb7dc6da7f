"""Numbers in words and digits, and what only looks like one."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multimodal_ai.functions.numerals import numbered, numbers_in

_SMALL = list(numbered("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"))
_SMALL += list(numbered("sixteen seventeen eighteen nineteen"))
_TENS = ["", "", *numbered("twenty thirty forty fifty sixty seventy eighty ninety")]


def in_words(number: int, joint: str = " and ") -> str:
    """A number below a thousand millions in English."""
    for size, name in ((10**6, "million"), (1000, "thousand"), (100, "hundred")):
        if number >= size:
            rest = number % size
            behind = (joint if rest < 100 else " ") + in_words(rest, joint) if rest else ""
            return f"{in_words(number // size, joint)} {name}{behind}"
    if number < 20:
        return _SMALL[number]
    return _TENS[number // 10] + (f"-{_SMALL[number % 10]}" if number % 10 else "")


@settings(deadline=None)
@given(st.integers(0, 10**9 - 1), st.sampled_from((" and ", " ")))
def test_every_number_comes_back_from_its_words(number: int, joint: str) -> None:
    text = in_words(number, joint)
    assert numbers_in(text) == [(0, len(text), Decimal(number))]
    assert numbers_in(f"Send {text.upper()}, please") == [(5, 5 + len(text), Decimal(number))]


@settings(deadline=None)
@given(st.integers(-(10**12), 10**12), st.integers(0, 99))
def test_every_number_comes_back_from_its_digits(whole: int, cents: int) -> None:
    for text in (f"{whole}.{cents:02d}", f"{whole:,}.{cents:02d}"):
        assert numbers_in(f"it is {text}!") == [(6, 6 + len(text), Decimal(f"{whole}.{cents:02d}"))]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("$1,299.50", ["1299.5"]),
        ("five thousand dollars", ["5000"]),
        ("five dollars and fifty cents", ["5.5"]),
        ("fifty cents", ["0.5"]),
        ("1.5 million or 5k", ["1500000", "5000"]),
        ("two and a half", ["2.5"]),
        ("a dozen eggs, two dozen rolls, a couple of pears", ["12", "24", "2"]),
        ("minus two", ["-2"]),
        ("two three", ["2", "3"]),
        ("one or two", ["1", "2"]),
        ("thirteen hundred", ["1300"]),
        ("3-bedroom flat", ["3"]),
        ("one room", ["1"]),
        ("that one", []),
        ("020", []),
        ("E-12", []),
        ("408-247-8880", []),
        ("10:30", []),
        ("3/8/2019", []),
        ("1.2.3", []),
        ("someone often", []),
        ("and a half", []),
    ],
)
def test_readings(text: str, values: list[str]) -> None:
    assert [value for _, _, value in numbers_in(text)] == [Decimal(value) for value in values]
