"""Values that a text spells out, in the form that a parameter asks for; and that nothing else is touched."""

from __future__ import annotations

import datetime
import time
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multimodal_ai.functions.normalise import Form, facts_of, form_of, is_stated, read, value_facts

TODAY = datetime.date(2026, 11, 25)


def written(text: str, schema: dict[str, Any]) -> list[str]:
    form = form_of(schema)
    assert form is not None
    values = (form.write(fact) for reading in read(text, TODAY) for fact in reading.facts)
    return [value for value in values if value is not None]


@pytest.mark.parametrize(
    ("schema", "values"),
    [
        ({"type": "integer"}, ["5000", "11"]),
        ({"type": "number"}, ["5000", "11", "0.5"]),
        ({"type": ["integer", "null"]}, ["5000", "11"]),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, ["5000", "11"]),
        ({"type": "string", "format": "date"}, ["2026-11-26"]),
        ({"type": "string", "format": "time"}, ["11:30:00", "23:30:00"]),
        ({"type": "string", "format": "date-time"}, ["2026-11-26T"]),
        ({"type": "string", "description": "Day, as YYYY-MM-DD."}, ["2026-11-26"]),
        ({"type": "string", "description": "day (DD/MM/YYYY)"}, ["26/11/2026"]),
        ({"type": "string", "description": "When, in the format HH:MM"}, ["11:30", "23:30"]),
        ({"anyOf": [{"type": "string"}, {"type": "null"}], "description": "HH:MM"}, ["11:30", "23:30"]),
    ],
)
def test_a_parameter_gets_the_values_of_its_form(schema: dict[str, Any], values: list[str]) -> None:
    assert written("Pay five thousand dollars tomorrow at half past eleven, and fifty cents", schema) == values


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string"},
        {"type": "string", "description": "Postal code"},
        {"type": "string", "description": "A day as YYYY-MM-DD or DD/MM/YYYY"},
        {"type": "string", "format": "email"},
        {"type": "string", "pattern": "^[0-9]{3}$"},
        {"enum": ["1", "2"]},
        {"type": "integer", "enum": [1, 2]},
        {"const": 5},
        {"type": "boolean"},
        {"type": "array", "items": {"type": "integer"}},
        {"anyOf": [{"type": "integer"}, {"type": "string"}]},
        {},
        True,
    ],
)
def test_what_carries_no_form_is_left_alone(schema: Any) -> None:
    assert form_of(schema) is None


def test_a_time_goes_on_behind_a_date() -> None:
    form = form_of({"type": "string", "format": "date-time"})
    assert form is not None
    assert form.write(datetime.time(11, 30)) is None
    assert form.write(datetime.time(11, 30), "2026-11-26T") == "2026-11-26T11:30:00"
    assert form.write(datetime.time(11, 30), "2026-11-26T11:3") == "2026-11-26T11:30:00"


@pytest.mark.parametrize(
    ("value", "stated"),
    [
        ("11:30", True),
        ("11:30:00Z", True),
        ("23:30", True),
        ("11:00", False),
        ("2026-11-26", True),
        ("2026-11-25", False),
        ("2026-11-26T11:30:00+01:00", True),
        ("2026-11-27T11:30:00Z", False),
        ("2026-11-26T11:30:00Z, or later", False),
        ("5000", True),
        ("5000.0", True),
        ("$5,000", True),
        ("05000", False),
        ("50", False),
        ("tomorrow", True),
        ("a reminder", False),
        ("", False),
    ],
)
def test_a_value_is_stated_where_its_meaning_is(value: str, stated: bool) -> None:
    facts = facts_of("Pay five thousand dollars tomorrow at half past eleven", TODAY)
    assert is_stated(value, facts, TODAY) == stated


@settings(deadline=None)
@given(st.text(max_size=8))
def test_a_string_that_states_nothing_stays_what_it_is(text: str) -> None:
    """A value is compared as a whole: identifiers with digits in them have no value."""
    assert not value_facts(f"0{text}0", TODAY) or ":" in text or "." in text or "-" in text or "/" in text
    assert value_facts(f"x{text}", TODAY) == ()


_WORDS = (
    "one two hundred thousand and a half past quarter to 11 :30 am pm next last Friday March 8 th , . - / $ T Z the "
    "5th in of week month noon 2026-02-30 0 00"
)
_PIECES = st.sampled_from([*_WORDS.split(" "), "99:99", "٣", "½", "İ", "ß", "日", "\n", "\t", "\x00"])


@settings(deadline=None)
@given(st.one_of(st.text(), st.lists(_PIECES, max_size=40).map(" ".join), st.lists(_PIECES, max_size=40).map("".join)))
def test_no_text_is_too_strange(text: str) -> None:
    for reading in read(text, TODAY):
        assert 0 <= reading.start < reading.end <= len(text) and reading.facts
        kinds = {type(fact) for fact in reading.facts}
        assert len(kinds) == 1
    for form in (Form("%Y-%m-%d"), Form("%H:%M"), Form("%Y-%m-%dT%H:%M:%S"), Form(), Form(integral=True)):
        assert all(form.write(fact) != "" for fact in facts_of(text, TODAY))
    value_facts(text, TODAY)


_DAYS = st.dates(datetime.date(1000, 1, 1), datetime.date(2999, 12, 31))


@settings(deadline=None)
@given(
    st.one_of(_DAYS, st.times().map(lambda t: t.replace(second=0, microsecond=0, fold=0)), st.integers(-(10**9), 10**9))
)
def test_what_is_written_states_what_was_meant(value: Any) -> None:
    fact = Decimal(value) if isinstance(value, int) else value
    form = Form() if isinstance(value, int) else Form("%H:%M" if isinstance(value, datetime.time) else "%Y-%m-%d")
    text = form.write(fact)
    assert text is not None
    assert value_facts(text, TODAY) == (fact,)


@pytest.mark.parametrize(
    "piece", ["one ", "a ", "1,", "5th ", "quarter to ", "March ", "and ", " ", "9", "1/1", "in a "]
)
def test_reading_takes_time_in_proportion_to_the_text(piece: str) -> None:
    text = piece * (100_000 // len(piece))
    began = time.thread_time()
    read.__wrapped__(text, TODAY)
    assert time.thread_time() - began < 5
