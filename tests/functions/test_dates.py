"""Dates and times as people write them."""

from __future__ import annotations

import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multimodal_ai.functions.dates import dates_in, times_in

TODAY = datetime.date(2026, 11, 25)  # a Wednesday


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("2026-12-05", ["2026-12-05"]),
        ("on 12/05/2026", ["2026-12-05", "2026-05-12"]),
        ("25.12.2026", ["2026-12-25"]),
        ("March 8th", ["2027-03-08", "2026-03-08"]),
        ("the 8th of March, 2020", ["2020-03-08"]),
        ("second of december", ["2026-12-02", "2025-12-02"]),
        ("Dec 2", ["2026-12-02", "2025-12-02"]),
        ("today", ["2026-11-25"]),
        ("the day after tomorrow", ["2026-11-27"]),
        ("in two weeks", ["2026-12-09"]),
        ("3 days from now", ["2026-11-28"]),
        ("this Friday", ["2026-11-27", "2026-12-04"]),
        ("next Friday", ["2026-11-27", "2026-12-04"]),
        ("Friday next week", ["2026-12-04"]),
        ("Sunday of next week", ["2026-12-06", "2026-11-29"]),
        ("last Friday", ["2026-11-20"]),
        ("the 28th", ["2026-11-28", "2026-12-28", "2026-10-28"]),
        ("the 5th of next month", ["2026-12-05"]),
        ("February 29th", ["2028-02-29", "2024-02-29"]),
        ("May I march on?", []),
        ("two days", []),
        ("3.5 of 12", []),
    ],
)
def test_days(text: str, values: list[str]) -> None:
    found = dates_in(text, TODAY)
    assert [value.isoformat() for _, _, days in found for value in days] == values
    assert all(text[start:end].strip() for start, end, _ in found)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("11:30", ["11:30", "23:30"]),
        ("05:30", ["05:30"]),
        ("5:30 p.m.", ["17:30"]),
        ("19:00", ["19:00"]),
        ("half past eleven", ["11:30", "23:30"]),
        ("half past 11 in the morning", ["11:30"]),
        ("a quarter to six in the evening", ["17:45"]),
        ("ten past one pm", ["13:10"]),
        ("5 to 1 pm", ["12:55"]),
        ("seven thirty at night", ["19:30"]),
        ("at two PM", ["14:00"]),
        ("at 5", ["17:00", "05:00"]),
        ("8 o'clock", ["08:00", "20:00"]),
        ("morning 8", ["08:00"]),
        ("12 am", ["00:00"]),
        ("12 in the afternoon", ["12:00"]),
        ("noon", ["12:00"]),
        ("midnight", ["00:00"]),
        ("2026-12-05T07:15:00Z", ["07:15"]),
        ("5 people", []),
        ("25:00 or 12:75", []),
        ("half a pound", []),
    ],
)
def test_times(text: str, values: list[str]) -> None:
    found = times_in(text)
    assert [value.strftime("%H:%M") for _, _, times in found for value in times] == values
    assert all(text[start:end].strip() for start, end, _ in found)


@settings(deadline=None)
@given(st.dates(datetime.date(1000, 1, 1), datetime.date(2999, 12, 31)))
def test_every_day_comes_back_however_it_is_written(day: datetime.date) -> None:
    month = day.strftime("%B")
    for text in (day.isoformat(), f"{month} {day.day}, {day.year}", f"{day.day} {month[:3]} {day.year}"):
        [(start, end, days)] = dates_in(f"on {text}.", TODAY)
        assert days == (day,) and (start, end) == (3, 3 + len(text))


@settings(deadline=None)
@given(st.integers(-400, 400))
def test_relative_days_are_counted_from_the_day_given(offset: int) -> None:
    base = TODAY + datetime.timedelta(days=offset)
    [(_, _, (tomorrow,))] = dates_in("tomorrow", base)
    [(_, _, (friday, later))] = dates_in("on Friday", base)
    assert tomorrow == base + datetime.timedelta(days=1)
    assert friday.weekday() == 4 and 0 <= (friday - base).days < 7 and (later - friday).days == 7


@settings(deadline=None)
@given(st.times())
def test_every_time_comes_back(time: datetime.time) -> None:
    time = time.replace(second=0, microsecond=0, fold=0)
    twelve = time.strftime("%I:%M %p")
    for text in (time.strftime("%H:%M"), twelve, twelve.lower().replace(" ", "")):
        [(_, _, times)] = times_in(text)
        assert times[0] == time


def test_the_ends_of_the_calendar_are_no_trouble() -> None:
    for day in (datetime.date.min, datetime.date.max):
        assert isinstance(
            dates_in("yesterday, tomorrow, next week Friday, last Monday, the 31st, May 5, in 999 weeks", day), list
        )
