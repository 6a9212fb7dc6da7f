"""The words that generated function cards and requests are made of, read from `function_words.yaml`.

A card says what a programmer would write; a request says what a person would say; the two lists of
wordings are kept apart, so that nothing but meaning connects them. Values are drawn here and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any

from multimodal_ai.data.recipes.common import read_yaml

NUMBER_WORDS = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six", 7: "seven", 8: "eight", 9: "nine", 10: "ten"}


@dataclass(frozen=True)
class Field:
    """A parameter: how cards name and describe it, and how a request states its value.

    `clauses` are appended to a request with `{v}` replaced by the value; `held_out` clauses occur in the
    test split only. A boolean has its clauses in `when_true` and `when_false`, an integer its range in
    `low` and `high`, an enum its values in `options`.
    """

    label: str
    kind: str
    names: tuple[str, ...]
    descriptions: tuple[str, ...]
    clauses: tuple[str, ...] = ()
    held_out: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    when_true: tuple[str, ...] = ()
    when_false: tuple[str, ...] = ()
    low: int = 0
    high: int = 0


@dataclass(frozen=True)
class Action:
    """What can be done with a kind of object: wording of cards, of requests, and the parameters.

    `required` and `optional` are keys of fields; `outcome` says what the function returns: `done`, a
    `list`, or a `state`.
    """

    key: str
    names: tuple[str, ...]
    descriptions: tuple[str, ...]
    requests: tuple[str, ...]
    held_out: tuple[str, ...]
    required: tuple[str, ...]
    optional: tuple[str, ...] = ()
    outcome: str = "done"
    side_effect: bool = False


def _frozen(entry: dict[str, Any]) -> dict[str, Any]:
    """Lists as tuples, so that what is read can be hashed and never changes."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}


_WORDS: dict[str, Any] = read_yaml("function_words.yaml")

FIELDS: dict[str, Field] = {key: Field(**_frozen(entry)) for key, entry in _WORDS["fields"].items()}

#: Actions by kind of object.
ACTIONS: dict[str, tuple[Action, ...]] = {
    kind: tuple(Action(key=key, **_frozen(entry)) for key, entry in actions.items())
    for kind, actions in _WORDS["actions"].items()
}

#: Objects by kind: the word on the card, and the word a person may use instead.
OBJECTS: dict[str, tuple[tuple[str, str], ...]] = {
    kind: tuple((noun, spoken) for noun, spoken in pairs) for kind, pairs in _WORDS["objects"].items()
}

#: Lists that values are drawn from, by name.
VALUES: dict[str, tuple[str, ...]] = _frozen(_WORDS["values"])


def draw_value(field: Field, rng: Random) -> Any:
    """A value of the field's JSON type: an integer, a number, a boolean, else a string."""
    if field.kind in VALUES:
        return rng.choice(VALUES[field.kind])
    return _DRAW[field.kind](field, rng)


def _title(field: Field, rng: Random) -> str:
    number = f" {rng.randint(1, 30)}" if rng.random() < 0.15 else ""
    return f"{rng.choice(VALUES['adjectives'])} {rng.choice(VALUES['nouns'])}{number}"


def _person(field: Field, rng: Random) -> str:
    first = rng.choice(VALUES["first_names"])
    return first if rng.random() < 0.2 else f"{first} {rng.choice(VALUES['last_names'])}"


def _place(field: Field, rng: Random) -> str:
    return f"{rng.choice(VALUES['place_first'])} {rng.choice(VALUES['place_second'])}"


def _number(field: Field, rng: Random) -> float:
    """A number with at most one decimal; a whole one without a point, as it would be said."""
    value = round(rng.uniform(1.5, 4.9) if "rating" in field.label else rng.uniform(3, 180), 1)
    return int(value) if value == int(value) else value


def _date(field: Field, rng: Random) -> str:
    day, month, style = rng.randint(1, 28), rng.randrange(12), rng.randrange(5)
    if style == 0:
        return f"{rng.randint(2024, 2027)}-{month + 1:02d}-{day:02d}"
    if style == 1:
        return f"{VALUES['month'][month]} {day}"
    if style == 2:
        return f"next {rng.choice(VALUES['weekday'])}"
    return f"{day} {VALUES['month'][month]}"


def _time(field: Field, rng: Random) -> str:
    hour, style = rng.randint(1, 12), rng.randrange(3)
    if style == 0:
        return f"{hour} {rng.choice(('am', 'pm'))}"
    if style == 1:
        return f"{hour + rng.choice((0, 11)):02d}:{rng.choice(('00', '15', '30', '45'))}"
    return f"{hour}:{rng.choice(('10', '20', '40', '50'))} {rng.choice(('am', 'pm'))}"


def _code(field: Field, rng: Random) -> str:
    letters = "".join(rng.choice("ABCDEFHKLMNPRSTX") for _ in range(rng.randint(1, 2)))
    return f"{letters}{rng.choice(('-', ''))}{rng.randint(100, 9999)}"


def _email(field: Field, rng: Random) -> str:
    first, last = rng.choice(VALUES["first_names"]).lower(), rng.choice(VALUES["last_names"]).lower()
    return f"{first}.{last}@{rng.choice(('mail', 'post', 'home'))}.{rng.choice(('org', 'net'))}"


def _phone(field: Field, rng: Random) -> str:
    return f"0{rng.randint(20, 99)} {rng.randint(1000, 9999)} {rng.randint(100, 999)}"


_DRAW = {
    "title": _title,
    "person": _person,
    "place": _place,
    "number": _number,
    "date": _date,
    "time": _time,
    "code": _code,
    "email": _email,
    "phone": _phone,
    "integer": lambda field, rng: rng.randint(field.low, field.high),
    "boolean": lambda field, rng: rng.random() < 0.6,
    "enum": lambda field, rng: rng.choice(field.options),
}
