"""Meter plates and payment slips composed of real handwritten digits, and functions that book them.

Every digit on an image is one of scikit-learn's 1,797 handwritten digits, and 20% of the digit images of
each class are kept for the test split: a test image never shows a digit image of the training split.
Names of meters and payees are combinations, some of which occur in the test split only.

Source: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI, as packed in scikit-learn.
Licence: CC BY 4.0 (digit images), Apache-2.0 (all else). Split: by digit image, and by name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

from multimodal_ai.data.recipes.common import (
    NO_FUNCTION,
    Recipe,
    RecipeContext,
    Row,
    assistant,
    calling,
    caption_row,
    in_split,
    read_yaml,
    result,
    row,
    stream,
    tool,
    user,
)
from multimodal_ai.data.recipes.function_cards import (
    Card,
    Function,
    arguments,
    card,
    draw_cards,
    functions,
    make_wish,
    phrase,
)
from multimodal_ai.data.recipes.function_words import VALUES
from multimodal_ai.data.recipes.plates import compose, digit_pools

NAME = "digits"
TILES = "digit_tiles"
UNITS = ("kWh", "m3", "L")
CURRENCIES = ("EUR", "USD", "GBP")
KIND_SHARES = {
    "call": 0.42,
    "vqa": 0.12,
    "caption": 0.28,
    "cannot": 0.06,
    "ask_missing": 0.05,
    "follow_up": 0.04,
    "other_call": 0.03,
}

_METER = (
    "Log a meter reading: the meter's name, the value on the plate and its unit",
    "Store the value that a meter shows",
    "Record what a meter plate reads",
)
_PAYMENT = (
    "Book a payment slip: who is paid, how much, in which currency",
    "Record a payment to a payee",
    "Enter the amount of a slip for a payee",
)


def log_reading(wording: int = 0) -> dict[str, Any]:
    """Card of `log_reading(meter, value, unit)`, its description in one of three wordings."""
    return tool(
        "log_reading",
        _METER[wording % 3],
        {
            "meter": {"type": "string", "description": "Name of the meter"},
            "value": {"type": "integer", "description": "Number on the plate"},
            "unit": {"type": "string", "enum": list(UNITS), "description": "Unit printed on the plate"},
        },
        ("meter", "value", "unit"),
    )


def record_payment(wording: int = 0) -> dict[str, Any]:
    """Card of `record_payment(payee, amount, currency)`, its description in one of three wordings."""
    return tool(
        "record_payment",
        _PAYMENT[wording % 3],
        {
            "payee": {"type": "string", "description": "Who is paid"},
            "amount": {"type": "number", "description": "Amount on the slip"},
            "currency": {"type": "string", "enum": list(CURRENCIES), "description": "Currency printed on the slip"},
        },
        ("payee", "amount", "currency"),
        side_effect=True,
    )


# -- names ------------------------------------------------------------------------------------------

_WORDS: dict[str, Any] = read_yaml("digits.yaml")


def draw_meter(rng: Random, split: str) -> str:
    """A meter's name, such as `north hall`, `flat 12` or `B-204`; combinations belong to one split."""
    while True:
        style = rng.random()
        if style < 0.7:
            name = rng.choice(_WORDS["sides"]) + rng.choice(_WORDS["spots"])
            if style < 0.15:
                name += f" {rng.randint(2, 9)}"
        elif style < 0.85:
            name = f"{rng.choice(('flat', 'unit', 'room', 'block'))} {rng.randint(1, 60)}"
            name += rng.choice(("", "", "A", "B", "C"))
        else:
            name = f"{rng.choice('ABCDEFGHKM')}-{rng.randint(10, 999)}"
        if in_split("meter " + name, split):
            return name


def draw_payee(rng: Random, split: str) -> str:
    """A payee's name, such as `Lee & Sons`; combinations belong to one split."""
    while True:
        family, other = rng.choice(VALUES["last_names"]), rng.choice(VALUES["last_names"])
        name = f"{family} and {other}" if rng.random() < 0.15 else f"{family} {rng.choice(_WORDS['trades'])}"
        if in_split("payee " + name, split):
            return name


# -- samples ----------------------------------------------------------------------------------------


def _sentence(template: str, name: str, rng: Random) -> str:
    """A filled template, now and then without a full stop or a capital; a name keeps its case."""
    text = template.format(name)
    if text[-1] not in ".?" and rng.random() < 0.7:
        text += "."
    if rng.random() < 0.15 and not template.startswith("{}"):
        text = text[0].lower() + text[1:]
    return text


def _reading(meter: bool, rng: Random, short: bool = False) -> tuple[str, str]:
    """Digits and label of an image: 3 or 4 digits (`short`: from 1) and a unit, or an amount with cents."""
    if meter:
        digits = str(rng.randint(1, 9)) + "".join(str(rng.randrange(10)) for _ in range(rng.randint(2, 3)))
        return digits[: rng.randint(1, 4) if short else 4], rng.choice(UNITS)
    whole = rng.randint(1, 9) if rng.random() < 0.4 else rng.randint(10, 99)
    return f"{whole}.{rng.randrange(100):02d}", rng.choice(CURRENCIES)


def _unlisted(rng: Random, split: str, cards: Sequence[Card]) -> Function:
    """A generated function that is none of the listed ones."""
    listed = {one.function.key for one in cards}
    while (function := rng.choice(functions(split))).key in listed:
        pass
    return function


def _sample(seed: int, split: str, number: int) -> Row:
    """Sample `number` of a split: an image, what is wanted, and the functions at hand."""
    rng = stream(NAME, seed, split, number)
    meter = rng.random() < 0.5
    kind = rng.choices(list(KIND_SHARES), list(KIND_SHARES.values()))[0]
    text, label = _reading(meter, rng, short=kind == "caption")
    image, used, _ = compose(text, label, digit_pools(seed, split), rng, varied=split == "train")
    if kind == "caption":
        thing = "meter plate" if meter else "payment slip"
        return caption_row(NAME, image, f"{thing}: {text} {label}", digits=used)

    words = _WORDS["meter" if meter else "slip"]
    wording = rng.randrange(3)
    gold, other = log_reading(wording), record_payment(wording)
    if not meter:
        gold, other = other, gold
    cards = draw_cards(rng, split, rng.choice((0, 0, 1, 2)))
    listed = [one.tool for one in cards]
    if rng.random() < 0.6:
        listed = [other, *listed[:1]]
    if kind == "vqa":
        by_number = rng.random() < 0.7
        question = rng.choice(words["ask_number" if by_number else "ask_label"][split])
        shown = _shuffled([gold, *listed], rng) if rng.random() < 0.3 else []
        decision = {"trigger": "answer"} if shown else {}
        turns = [user(question, 1), assistant(text if by_number else label)]
        return row(NAME, "vqa", turns, shown, [image], digits=used, **decision)

    name = draw_meter(rng, split) if meter else draw_payee(rng, split)
    function, served, more = str(gold["function"]["name"]), [gold], dict[str, Any]()
    ask = _sentence(rng.choice(words["request"][split]), name, rng)
    trigger = kind if kind in ("cannot", "ask_missing") else "answer" if kind == "follow_up" else "call"
    if kind == "ask_missing":
        ask = _sentence(rng.choice(words["request_without_name"][split]), "", rng)
        reply = [assistant(rng.choice(words["ask_name"]))]
        more["asks_for"] = [function, "meter" if meter else "payee"]
    elif kind == "cannot":
        served, listed = [], listed or [other]
        if rng.random() < 0.5:  # another wish that no listed function serves
            wanted = _unlisted(rng, split, cards)
            function, ask = wanted.key, phrase(make_wish(wanted, rng, split).text, rng, split)
        reply = [assistant(rng.choice(NO_FUNCTION))]
    elif kind == "other_call":  # the wish is served by a listed function, and the image does not matter
        wanted = _unlisted(rng, split, cards)
        function, wanted_card, wish = wanted.key, card(wanted, 0), make_wish(wanted, rng, split)
        listed = [gold, *(one for one in listed if one["function"]["name"] != wanted_card.name)]
        served, ask = [wanted_card.tool], phrase(wish.text, rng, split)
        reply = [calling((wanted_card.name, arguments(wanted_card, wish)))]
    else:
        values: dict[str, Any] = {"payee": name, "amount": json.loads(text), "currency": label}
        if meter:
            values = {"meter": name, "value": int(text), "unit": label}
        reply = [calling((function, values), train=kind == "call")]
        if kind == "follow_up":
            said = f"{'Logged' if meter else 'Booked'} {text} {label} for {name}."
            reply += [result(function, {"status": "ok", **values}), assistant(said)]
    tools = _shuffled(served + listed[:4], rng)
    more |= {"digits": used, "trigger": trigger, "function": function}
    return row(NAME, "call", [user(ask, 1), *reply], tools, [image], **more)


def tiles(context: RecipeContext, split: str) -> Iterator[Row]:
    """One to four bare digits on a small tile, without end: reading a plate begins with reading its digits."""
    number = 0
    while True:
        rng = stream(TILES, context.seed, split, number)
        text = "".join(str(rng.randrange(10)) for _ in range(rng.randint(1, 4)))
        image, used, _ = compose(text, "", digit_pools(context.seed, split), rng, varied=split == "train")
        yield caption_row(TILES, image, text, digits=used)
        number += 1


def _shuffled(tools: list[dict[str, Any]], rng: Random) -> list[dict[str, Any]]:
    rng.shuffle(tools)
    return tools


def rows(context: RecipeContext, split: str) -> Iterator[Row]:
    """Samples without end; sample `i` depends on (seed, split, i) alone."""
    number = 0
    while True:
        yield _sample(context.seed, split, number)
        number += 1


RECIPE = Recipe(
    name=NAME,
    licence="CC BY 4.0 (digit images: UCI optical recognition of handwritten digits)",
    description="meter plates and payment slips of handwritten digits: calls, questions, captions",
    splits=("train", "test"),
    rows=rows,
    sizes={"train": 20_000, "test": 1_000},
)

TILE_RECIPE = Recipe(
    name=TILES,
    licence=RECIPE.licence,
    description="one to four bare handwritten digits with what they say",
    splits=("train", "test"),
    rows=tiles,
    sizes={"train": 8_000, "test": 500},
)
