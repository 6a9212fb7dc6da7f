"""Draws small scenes with print on them: signs, price tags, displays of devices and windows of programs.

Each drawer returns the picture together with what can be said and asked about it; whatever is asked stands on it.
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

from multimodal_ai.data.recipes.common import tool
from multimodal_ai.data.recipes.fonts import Face, draw_face
from multimodal_ai.data.recipes.function_words import VALUES
from multimodal_ai.data.recipes.page import Page
from multimodal_ai.data.recipes.printed_text import WORDS, cased, digits, title
from multimodal_ai.data.recipes.printing import Colour, Type, fitting

_ASCII = string.ascii_letters + string.digits + ".,:-/()%&'"
COLOURS: dict[str, tuple[int, int, int]] = {
    "white": (250, 250, 248),
    "yellow": (252, 214, 40),
    "orange": (240, 130, 30),
    "red": (200, 30, 35),
    "green": (20, 115, 60),
    "blue": (25, 75, 165),
    "black": (25, 25, 28),
    "grey": (150, 152, 155),
    "brown": (110, 70, 40),
    "pink": (240, 150, 175),
    "purple": (110, 60, 140),
}
_LIGHT = {"white", "yellow", "orange", "grey", "pink"}


#: Wordings of a question, the last for testing alone, and its answer.
Question = tuple[tuple[str, ...], str]


@dataclass
class Scene:
    """A picture and what it holds: a caption, questions with their answers, and perhaps a call that it serves.

    `key` names what decides the split. `requests` asks for the call by the number of a wording.
    """

    kind: str
    key: str
    page: Page
    caption: str
    questions: list[Question] = field(default_factory=list)
    card: dict[str, Any] | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    requests: tuple[str, ...] = ()


def draw_print(rng: Random, split: str, kind: str | None = None, text: str = "") -> Face:
    """A face of the split with letters, digits, common signs and the characters of `text`."""
    return draw_face(rng, split, _ASCII + text, kind or rng.choice(("sans", "sans", "sans", "serif", "mono")))


def _ink_on(colour: str) -> tuple[int, int, int]:
    return COLOURS["black"] if colour in _LIGHT else COLOURS["white"]


def _lines(text: str, most: int) -> list[str]:
    """Words in lines of about equal length, at most `most` characters where words allow it."""
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > most:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def sign(rng: Random, split: str) -> Scene:
    """A sign with a notice, or with a place, its distance and an arrow."""
    colour = rng.choice(("white", "yellow", "orange", "red", "green", "blue", "black", "brown"))
    ink, face = _ink_on(colour), draw_print(rng, split, rng.choice(("sans", "sans", "sans", "serif")))
    way = rng.random() < 0.3
    if way:
        place, far, side = title(rng.choice(WORDS["towns"])[0]), rng.randint(2, 240), rng.choice(("left", "right"))
        text = f"{place} {far} km"
        lines = [place, f"{far} km"] if len(place) > 8 else [text]
    else:
        text = cased(rng.choice(WORDS["signs"]), rng, 0.7)
        lines = _lines(text, rng.choice((8, 11, 16)))
    width, height = rng.randint(120, 240), rng.randint(24, 36) * len(lines) + rng.randint(24, 40)
    room = width - (70 if way else 26)
    style = fitting(Type(face, min(26.0, 0.5 * (height - 16) / len(lines)), bold=rng.random() < 0.3), lines, room)
    page = Page(width, height, COLOURS[colour])
    if rng.random() < 0.7:
        page.box(3, 3, width - 4, height - 4, ink=ink, width=2, radius=rng.choice((0, 6, 10)))
    pitch = style.cap * 1.75
    top = height / 2 - pitch * (len(lines) - 1) / 2 + style.cap / 2
    middle = width / 2
    if way:
        x, y, tip = (26.0, height / 2, -14.0) if side == "left" else (width - 26.0, height / 2, 14.0)
        middle += 18 if side == "left" else -18
        page.line(x - tip, y, x + tip * 0.5, y, ink, 4)
        page.shape([(x + tip, y), (x, y - 9), (x, y + 9)], fill=ink)
    for place_in, line in enumerate(lines):
        page.text(line, middle, top + pitch * place_in, style, "c", ink)
    questions: list[Question] = [
        (("What does the sign say?", "What is written on the sign?", "Which words are on the sign?"), text),
        (("What colour is the sign?", "Which colour has the sign?", "In which colour is this sign?"), colour),
    ]
    if way:
        questions += [
            ((f"How far is it to {place}?", f"How many kilometres are left to {place}?"), f"{far} km"),
            ((f"Which way is {place}?", f"Where do I turn for {place}?"), side),
        ]
    return Scene("sign", text, page, f"a {colour} sign: {text}", questions)


_PRICE = {
    "item": {"type": "string", "description": "Product as printed on the tag"},
    "price": {"type": "number", "description": "Price now"},
    "currency": {"type": "string", "enum": ["MYR", "USD", "EUR", "GBP"], "description": "Currency of the price"},
}
_CURRENCIES = {"RM": "MYR", "$": "USD", "€": "EUR", "£": "GBP"}


def price_tag(rng: Random, split: str) -> Scene:
    """A shelf label with a product and its price; an old price and a price per kilogram distract."""
    mark = rng.choice(tuple(_CURRENCIES))
    name = cased(rng.choice(WORDS["items"]), rng, 0.35)
    price = rng.choice((rng.randint(20, 999), rng.randint(100, 9_999), 10 * rng.randint(3, 99) - 1))
    shown = f"{mark}{' ' if mark == 'RM' and rng.random() < 0.5 else ''}{price // 100}.{price % 100:02d}"
    colour = rng.choice(("white", "white", "yellow", "yellow", "orange", "red", "pink"))
    ink, width, height = _ink_on(colour), rng.randint(140, 230), rng.randint(84, 130)
    page = Page(width, height, COLOURS[colour])
    face = draw_print(rng, split, rng.choice(("sans", "sans", "serif")), mark)
    if rng.random() < 0.5:
        page.box(2, 2, width - 3, height - 3, ink=ink, width=1.5, radius=rng.choice((0, 5)))
    head = fitting(Type(draw_print(rng, split), rng.uniform(8, 11)), [name], width - 20)
    left = rng.random() < 0.5
    page.text(name, 10 if left else width / 2, 10 + head.cap, head, "l" if left else "c", ink)
    big = fitting(Type(face, rng.uniform(22, 30), bold=True), [shown], width - 24)
    base = height / 2 + big.cap / 2 + 4
    page.text(shown, width / 2, base, big, "c", COLOURS["red"] if colour == "white" and rng.random() < 0.4 else ink)
    small = Type(draw_print(rng, split), rng.uniform(6.5, 8))
    questions: list[Question] = [
        (("What does it cost?", "How much is it?", "What is the price?", "Which price is on the tag?"), shown),
        (("Which product is this tag for?", "What is sold here?", "What is the product?"), name),
    ]
    if rng.random() < 0.35:
        old = price + rng.choice((50, 100, rng.randint(20, 500)))
        was = f"{mark}{old // 100}.{old % 100:02d}"
        wide = page.text(f"was {was}", 10, height - 10, small, "l", ink)
        if rng.random() < 0.5:
            page.line(10, height - 10 - small.cap / 2, 10 + wide, height - 10 - small.cap / 2, ink, 0.6)
        questions.append((("What was the old price?", "What did it cost before?"), was))
    elif rng.random() < 0.5:
        page.text(f"1 kg = {mark}{rng.randint(2, 60)}.{digits(rng, 2)}", 10, height - 10, small, "l", ink)
    if rng.random() < 0.4:
        page.bars(rng, width - 62, height - 24, width - 10, height - 8, ink)
    return Scene(
        "price_tag",
        f"{name} {shown}",
        page,
        f"a price tag: {name}, {shown}",
        questions,
        tool("set_price", "Set the price of a product as its shelf label shows it", _PRICE, tuple(_PRICE), True),
        {"item": name, "price": price / 100, "currency": _CURRENCIES[mark]},
        (
            "Set this price",
            "Take over the price on the tag",
            "Update the product with this label",
            "Enter this shelf price",
            "Put this price into the system",
        ),
    )


_DEVICES = (  # device, units, smallest, largest, decimals
    ("thermometer", ("°C", "°F"), -20, 110, 1),
    ("scale", ("kg", "g", "lb"), 0, 150, 2),
    ("water meter", ("m3", "L"), 0, 99_999, 0),
    ("power meter", ("kWh", "W"), 0, 99_999, 0),
    ("fuel pump", ("L", "gal"), 0, 90, 2),
    ("pressure gauge", ("bar", "kPa"), 0, 300, 1),
    ("blood pressure monitor", ("mmHg",), 60, 190, 0),
    ("voltmeter", ("V", "mV"), 0, 480, 1),
)
_LOG = {
    "device": {"type": "string", "description": "Name printed on the device"},
    "value": {"type": "number", "description": "Number on the display"},
    "unit": {"type": "string", "description": "Unit beside the number"},
}


def display(rng: Random, split: str) -> Scene:
    """A device with digits of seven segments, a unit and its name."""
    device, units, low, high, places = rng.choice(_DEVICES)
    unit = rng.choice(units)
    steps = 10**places
    value = rng.randint(low * steps, high * steps) / steps if rng.random() < 0.5 else rng.randint(0, 99 * steps) / steps
    value = max(float(low), value)
    text = f"{value:.{places}f}"
    name = cased(device.upper(), rng, 0.4)
    body, lit = rng.choice(("white", "grey", "black", "blue")), rng.random() < 0.4
    width, height = rng.randint(130, 220), rng.randint(72, 110)
    page = Page(width, height, COLOURS[body])
    glass: Colour = (15, 18, 16) if lit else (176, 190, 165)
    on: Colour = rng.choice(((255, 60, 40), (90, 255, 110), (255, 190, 60))) if lit else (25, 32, 28)
    page.box(10, 24, width - 10, height - 12, fill=glass, ink=(90, 90, 90), radius=3)
    face = draw_face(rng, split, text, "segments") if rng.random() < 0.8 else draw_print(rng, split, "mono")
    if not face.covers(text):
        face = draw_print(rng, split, "mono")
    small = Type(draw_print(rng, split, "sans", "°³"), rng.uniform(7, 9))
    shown = fitting(Type(face, (height - 36) * rng.uniform(0.5, 0.7)), [text], width - 62)
    page.text(text, width - 46, (24 + height - 12) / 2 + shown.cap / 2, shown, "r", on)
    page.text(unit, width - 42, (24 + height - 12) / 2 + shown.cap / 2, fitting(small, [unit], 30), "l", on)
    page.text(name, width / 2, 16 + small.cap / 3, fitting(small, [name], width - 20), "c", _ink_on(body))
    reading = f"{text} {unit}"
    return Scene(
        "display",
        f"{device} {reading}",
        page,
        f"a {device} showing {reading}",
        [
            (("What does the display show?", "Which value is on the display?", "What is the reading?"), reading),
            (("Which unit is shown?", "What is the unit of the reading?"), unit),
            (("Which device is this?", "What kind of device is it?"), device),
        ],
        tool("log_measurement", "Store what a device shows", _LOG, tuple(_LOG)),
        {"device": name, "value": value if places else int(value), "unit": unit},
        (
            "Log this measurement",
            "Store the reading",
            "Save what the display shows",
            "Note this value",
            "Keep this one",
        ),
    )


_BUTTONS = (
    ("OK",),
    ("OK", "Cancel"),
    ("Yes", "No"),
    ("Retry", "Cancel"),
    ("Save", "Discard"),
    ("Continue", "Back"),
    ("Close",),
)


def dialog(rng: Random, split: str) -> Scene:
    """A window of a program with a message and buttons."""
    heading = rng.choice(
        ("Warning", "Error", "Update", "Settings", "Message", "Printer", "Battery", "Network", "Payment")
    )
    things = [word.lower() for word in VALUES["topic"]] + [word.lower() for word in VALUES["room"]]
    person = rng.choice(VALUES["first_names"])
    message = rng.choice(
        (
            f"Battery at {rng.randint(2, 99)}%",
            f"{rng.randint(2, 90)} files were copied",
            f"Cannot open {rng.choice(VALUES['nouns'])}.{rng.choice(('txt', 'pdf', 'csv'))}",
            f"Delete {rng.randint(2, 40)} messages?",
            f"Meeting with {person} at {rng.randint(8, 18)}:{rng.choice(('00', '15', '30', '45'))}",
            f"New message from {person}",
            f"Search for {rng.choice(things)}?",
            f"Error {rng.randint(100, 599)}: try again later",
            f"Disk {rng.choice('CDEF')} is {rng.randint(70, 99)}% full",
        )
    )
    buttons = rng.choice(_BUTTONS)
    dark = rng.random() < 0.3
    back, ink = ((40, 42, 48), (235, 235, 235)) if dark else ((244, 244, 246), (30, 30, 30))
    accent = COLOURS[rng.choice(("blue", "green", "purple", "red", "grey"))]
    style = Type(draw_print(rng, split, rng.choice(("sans", "sans", "mono"))), rng.uniform(7.5, 9))
    lines = _lines(message, rng.choice((16, 22, 30)))
    width = rng.randint(150, 230)
    style = fitting(style, [*lines, heading], width - 26)
    height = round(44 + len(lines) * style.cap * 1.8 + 34)
    page = Page(width, height, back)
    page.box(0, 0, width, 22, fill=accent)
    page.text(heading, 8, 15, style, "l", COLOURS["white"])
    page.line(width - 16, 7, width - 8, 15, COLOURS["white"], 1)
    page.line(width - 16, 15, width - 8, 7, COLOURS["white"], 1)
    for place, line in enumerate(lines):
        page.text(line, 12, 40 + place * style.cap * 1.8, style, "l", ink)
    x = float(width - 8)
    for text in reversed(buttons):
        wide = len(text) * style.cap * 0.95 + 14
        page.box(x - wide, height - 28, x, height - 8, fill=None, ink=ink, radius=4)
        page.text(text, x - wide / 2, height - 18 + style.cap / 2, fitting(style, [text], wide - 6), "c", ink)
        x -= wide + 8
    return Scene(
        "dialog",
        message,
        page,
        f"a window {heading}: {message}",
        [
            (("What does the message say?", "Which message is shown?", "What is the window telling me?"), message),
            (("Which buttons are there?", "What can I click?"), ", ".join(buttons)),
            (("What is the title of the window?", "Which title has the window?"), heading),
        ],
    )
