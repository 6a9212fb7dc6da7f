"""Dates and times in English text: "March 8th", "next Friday", "in two days", "half past eleven in the morning".

Words leave things open ("half past five" is morning or afternoon), so a span is read as a list of values, the
likeliest first. Relative days are counted from a day that the caller gives: this module never asks the clock.
Patterns are ASCII and linear.
"""

from __future__ import annotations

import calendar
import datetime
import re
from collections.abc import Iterator

from multimodal_ai.functions.numerals import UNITS, numbered, outermost

Dates = tuple[int, int, tuple[datetime.date, ...]]  # start, end, values
Times = tuple[int, int, tuple[datetime.time, ...]]

_FLAGS = re.IGNORECASE | re.ASCII
_DAY = datetime.timedelta(days=1)
_MONTHS = {name.lower(): number for number, name in enumerate(calendar.month_name) if number}
_MONTHS |= {name[:3]: number for name, number in _MONTHS.items()} | {"sept": 9}
_WEEKDAYS = {name.lower(): number for number, name in enumerate(calendar.day_name)}
_WEEKDAYS |= {"mon": 0, "tue": 1, "tues": 1, "wed": 2, "thu": 3, "thur": 3, "thurs": 3, "fri": 4}  # sat, sun: words
_FIRST = numbered("first second third fourth fifth sixth seventh eighth ninth")
_ORDINAL = _FIRST | numbered("tenth eleventh twelfth thirteenth fourteenth fifteenth sixteenth seventeenth", 10)
_ORDINAL |= numbered("eighteenth nineteenth twentieth", 18) | {"thirtieth": 30, "thirty-first": 31}
_ORDINAL |= {f"twenty-{word}": 20 + number for word, number in _FIRST.items()}
_COUNT = {word: number for word, number in UNITS.items() if 0 < number <= 12} | {"a": 1, "an": 1, "couple of": 2}


def _any(words: dict[str, int]) -> str:
    return "(?:" + "|".join(sorted((word.replace("-", "[ -]") for word in words), key=len, reverse=True)) + ")"


_MONTH, _WEEKDAY = _any(_MONTHS), _any(_WEEKDAYS)
_NTH = rf"(?:[0-3]?[0-9](?:st|nd|rd|th)|{_any(_ORDINAL)})"
_YEAR = r"(?:,? (?P<year>[12][0-9]{3})\b)?"
_ISO = re.compile(r"(?<![\w/.-])([12][0-9]{3})([-/])([01]?[0-9])\2([0-3]?[0-9])(?=T[0-9]|(?![\w/-]))", _FLAGS)
_SLASHED = re.compile(r"(?<![\w/.-])([0-3]?[0-9])([/.-])([0-3]?[0-9])\2([12][0-9]{3})(?![\w/-])", _FLAGS)
_SHORT = re.compile(r"(?<![\w/.-])([01]?[0-9])/([0-3]?[0-9])(?![\w/-])", _FLAGS)
_MONTH_DAY = re.compile(
    rf"\b(?P<month>{_MONTH})\.? (?:the )?(?P<day>{_NTH}|[0-3]?[0-9](?![:\w]|\.[0-9])){_YEAR}", _FLAGS
)
_DAY_MONTH = re.compile(rf"\b(?P<day>{_NTH}|[0-3]?[0-9]) (?:of )?(?P<month>{_MONTH})\b{_YEAR}", _FLAGS)
_OF_MONTH = re.compile(rf"\b(?:the )?(?P<day>{_NTH}) of (?P<which>this|the|next) month\b", _FLAGS)
_THE_NTH = re.compile(r"\b[0-3]?[0-9](?:st|nd|rd|th)\b", _FLAGS)
_RELATIVE = re.compile(r"\b(?:the )?(day after tomorrow|tomorrow|today|tonight|yesterday)\b", _FLAGS)
_RELATIVE_DAYS = {"day after tomorrow": 2, "tomorrow": 1, "today": 0, "tonight": 0, "yesterday": -1}
_AFTER = re.compile(
    rf"\b(?:in )?(?P<count>[0-9]{{1,3}}|{_any(_COUNT)}) (?P<unit>day|week)s?(?P<tail> from (?:now|today)| later)?\b",
    _FLAGS,
)
_ON_WEEKDAY = re.compile(
    rf"\b(?:(?P<which>this|next|coming|last) )?(?P<day>{_WEEKDAY})\b(?: (?P<week>this|next|of this|of next) week\b)?",
    _FLAGS,
)

_HOURS = {word: number for word, number in UNITS.items() if 1 <= number <= 12}
_MINUTES = {"five": 5, "ten": 10, "quarter": 15, "a quarter": 15, "twenty": 20, "twenty-five": 25, "half": 30}
_SAID_MINUTES = {"fifteen": 15, "thirty": 30, "forty-five": 45, "twenty": 20, "forty": 40, "fifty": 50, "ten": 10}
_HOUR = rf"(?:[01]?[0-9]|2[0-3]|{_any(_HOURS)})"
_PART = r"a\.?m\b\.?|p\.?m\b\.?|(?:in the |at )?(?:early |late )?(?:morning|afternoon|evening|night)\b"
_BEHIND = rf"(?: ?(?P<part>{_PART}))?"
_BEFORE = r"(?:\b(?P<before>morning|afternoon|evening|night)(?: at| around)? )?"
_O_CLOCK = r" ?o ?['’\"]? ?clock\b"
_CLOCK = re.compile(
    rf"{_BEFORE}(?<![\w:.])(?P<hour>[01]?[0-9]|2[0-4])[:.](?P<minute>[0-5][0-9])(?P<second>:[0-5][0-9])?"
    rf"(?![0-9:]|\.[0-9]{{4}}){_BEHIND}",
    _FLAGS,
)
_ISO_TIME = re.compile(r"(?<=[0-9]T)([01][0-9]|2[0-3]):([0-5][0-9])", _FLAGS)
_PAST = re.compile(
    rf"{_BEFORE}\b(?P<minutes>[0-5]?[0-9]|{_any(_MINUTES)})(?: minutes?)? (?P<side>past|after|to|till|before|of) "
    rf"(?P<hour>{_HOUR})\b(?!:)(?:{_O_CLOCK})?{_BEHIND}",
    _FLAGS,
)
_SAID = re.compile(rf"{_BEFORE}\b(?P<hour>{_any(_HOURS)})[ -](?P<minute>{_any(_SAID_MINUTES)})\b{_BEHIND}", _FLAGS)
_FULL = re.compile(
    rf"{_BEFORE}(?P<at>\b(?:at|around|about|by|from|until|till|before|after|for) )?(?<![\w:.,$/-])(?P<hour>{_HOUR})"
    rf"(?![\w:/-]|[.,][0-9])(?P<clock>{_O_CLOCK})?{_BEHIND}",
    _FLAGS,
)
_NAMED = re.compile(r"\b(noon|midday|midnight)\b", _FLAGS)


def dates_in(text: str, today: datetime.date) -> list[Dates]:
    """Every date of a text with its place, relative ones counted from `today`."""
    found: list[Dates] = []

    def add(match: re.Match[str], *values: datetime.date | None) -> None:
        kept = tuple(dict.fromkeys(value for value in values if value is not None))
        if kept:
            found.append((match.start(), match.end(), kept))

    for match in _ISO.finditer(text):
        add(match, _date(int(match[1]), int(match[3]), int(match[4])))
    for match in _SLASHED.finditer(text):
        first, second, year = int(match[1]), int(match[3]), int(match[4])
        values = (_date(year, first, second), _date(year, second, first))
        add(match, *(values if match[2] == "/" else values[::-1]))
    for match in _SHORT.finditer(text):
        add(match, *_near(int(match[1]), int(match[2]), today), *_near(int(match[2]), int(match[1]), today))
    for pattern in (_MONTH_DAY, _DAY_MONTH):
        for match in pattern.finditer(text):
            month, day = _MONTHS[match["month"].lower()], _nth(match["day"])
            add(match, *((_date(int(match["year"]), month, day),) if match["year"] else _near(month, day, today)))
    for match in _OF_MONTH.finditer(text):
        add(match, _in_month(today, match["which"].lower() == "next", _nth(match["day"])))
    for match in _THE_NTH.finditer(text):
        months = [_in_month(today, offset, _nth(match.group())) for offset in (0, 1, -1)]
        add(match, *sorted((month for month in months if month), key=lambda value: (value < today, abs(value - today))))
    for match in _RELATIVE.finditer(text):
        add(match, _shifted(today, _RELATIVE_DAYS[match[1].lower()]))
    for match in _AFTER.finditer(text):
        if match["tail"] or match.group().lower().startswith("in "):
            count = match["count"].lower()
            days = (int(count) if count.isdigit() else _COUNT[count]) * (7 if match["unit"].lower() == "week" else 1)
            add(match, _shifted(today, days))
    for match in _ON_WEEKDAY.finditer(text):
        add(match, *_weekday(match, today))
    return outermost(found)


def _weekday(match: re.Match[str], today: datetime.date) -> Iterator[datetime.date | None]:
    """A day of the week. "Next Friday" is the coming one to most, the one after it to some."""
    day = _WEEKDAYS[match["day"].lower()]
    coming = (day - today.weekday()) % 7
    which, week = (match["which"] or "").lower(), (match["week"] or "").lower()
    if week:
        monday = day - today.weekday() + (7 if week.endswith("next") else 0)
        yield _shifted(today, monday)
        if day == 6:  # where the week begins with Sunday
            yield _shifted(today, monday - 7)
    elif which == "last":
        yield _shifted(today, coming - 7)
    elif which == "next":
        yield _shifted(today, coming or 7)
        yield _shifted(today, (coming or 7) + 7)
    else:
        yield _shifted(today, coming)
        yield _shifted(today, coming + 7)


def times_in(text: str) -> list[Times]:
    """Every time of day of a text with its place."""
    found: list[Times] = []

    def add(match: re.Match[str], hour: int, minute: int, exact: bool = False) -> None:
        groups = match.groupdict()
        part = groups.get("part") or groups.get("before") or ""
        hours = _hours(hour, part.lower(), exact)
        found.append((match.start(), match.end(), tuple(datetime.time(value, minute) for value in hours)))

    for match in _ISO_TIME.finditer(text):
        add(match, int(match[1]), int(match[2]), exact=True)
    for match in _CLOCK.finditer(text):
        add(match, int(match["hour"]), int(match["minute"]), exact=match["hour"][0] == "0")
    for match in _PAST.finditer(text):
        minutes, hour = match["minutes"].lower().replace(" ", "-").replace("a-", "a "), _hour(match["hour"])
        count = int(minutes) if minutes.isdigit() else _MINUTES[minutes]
        if match["side"].lower() in ("past", "after"):
            add(match, hour, count)
        elif 0 < count < 60:
            add(match, hour - 1 if hour != 1 else 12, 60 - count)
    for match in _SAID.finditer(text):
        add(match, _hour(match["hour"]), _SAID_MINUTES[match["minute"].lower().replace(" ", "-")])
    for match in _FULL.finditer(text):
        if match["at"] or match["part"] or match["before"] or match["clock"]:
            add(match, _hour(match["hour"]), 0)
    for match in _NAMED.finditer(text):
        add(match, 0 if match[1].lower() == "midnight" else 12, 0, exact=True)
    return outermost(found)


def _hours(hour: int, part: str, exact: bool) -> tuple[int, ...]:
    """The hours of the day that an hour may mean, the likeliest first."""
    if hour > 12 or hour == 0 or (exact and not part):
        return (hour % 24,)
    early, late = hour % 12, hour % 12 + 12
    if part[:2] in ("am", "a."):
        return (early,)
    if "morning" in part:
        return (early,) if hour != 12 else (late, early)
    if part.startswith("p") or "afternoon" in part or "evening" in part:
        return (late,)
    if "night" in part:
        return (early, late) if hour == 12 or hour < 5 else (late,)
    return (late, early) if hour == 12 or hour < 7 else (early, late)


def _hour(text: str) -> int:
    return int(text) if text.isdigit() else _HOURS[text.lower()]


def _nth(text: str) -> int:
    digits = re.match(r"[0-9]+", text)
    return int(digits.group()) if digits else _ORDINAL[text.lower().replace(" ", "-")]


def _date(year: int, month: int, day: int) -> datetime.date | None:
    try:
        return datetime.date(year, month, day)
    except ValueError:
        return None


def _shifted(day: datetime.date, days: int) -> datetime.date | None:
    try:
        return day + days * _DAY
    except OverflowError:
        return None


def _near(month: int, day: int, today: datetime.date) -> list[datetime.date | None]:
    """A day of the year without its year: the next one, then the last one."""
    years = [_date(today.year + offset, month, day) for offset in range(-8, 9)]  # 29 February may be 8 years off
    found = [value for value in years if value is not None]
    return [*[value for value in found if value >= today][:1], *[value for value in found if value < today][-1:]]


def _in_month(today: datetime.date, offset: int, day: int) -> datetime.date | None:
    months = today.year * 12 + today.month - 1 + offset
    return _date(months // 12, months % 12 + 1, day)
