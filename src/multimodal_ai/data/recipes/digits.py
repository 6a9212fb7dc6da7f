"""Meter plates and payment slips composed of real handwritten digits, and functions that book them.

Every digit on an image is one of scikit-learn's 1,797 handwritten digits, and 20% of the digit images of
each class are kept for the test split: a test image never shows a digit image of the training split.
Names of meters and payees are combinations, some of which occur in the test split only.

Source: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI, as packed in scikit-learn.
Licence: CC BY 4.0 (digit images), Apache-2.0 (all else). Split: by digit image, and by name.
"""

from __future__ import annotations

import functools
import json
import struct
import zlib
from collections.abc import Iterator
from random import Random
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from multimodal_ai.data.recipes.common import (
    NO_FUNCTION,
    Recipe,
    RecipeContext,
    Row,
    assistant,
    calling,
    caption_row,
    in_split,
    result,
    row,
    stream,
    tool,
    user,
)
from multimodal_ai.data.recipes.function_cards import arguments, card, draw_cards, functions, make_wish, phrase
from multimodal_ai.data.recipes.function_words import LAST

NAME = "digits"
HEIGHT = 32
CELL = 16
UNITS = ("kWh", "m3", "L")
CURRENCIES = ("EUR", "USD", "GBP")
KIND_SHARES = {
    "call": 0.42,
    "vqa": 0.18,
    "caption": 0.15,
    "cannot": 0.08,
    "ask_missing": 0.07,
    "other_call": 0.04,
    "follow_up": 0.06,
}

Mask = npt.NDArray[np.float32]

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


# -- digit images -----------------------------------------------------------------------------------


@functools.lru_cache(maxsize=1)
def _digit_bank() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """All digits as masks float32[1797, 16, 16] of ink in 0..1, and their classes int64[1797]."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    masks = np.empty((len(digits.target), CELL, CELL), np.float32)
    for index, image in enumerate(digits.images):
        small = Image.fromarray((image * (255 / 16)).astype(np.uint8))
        masks[index] = np.asarray(small.resize((CELL, CELL), Image.Resampling.BICUBIC), np.float32) / 255
    return np.clip(masks * np.float32(1.15), 0, 1).astype(np.float32), digits.target.astype(np.int64)


@functools.lru_cache(maxsize=8)
def digit_pools(seed: int, split: str) -> tuple[tuple[int, ...], ...]:
    """Indices of the digit images of a split, one tuple for each class 0 to 9."""
    classes = _digit_bank()[1]
    pools = []
    for digit in range(10):
        indices = np.random.default_rng((seed, digit)).permutation(np.flatnonzero(classes == digit))
        held_out = round(0.2 * len(indices))
        pools.append(tuple(int(i) for i in (indices[:held_out] if split == "test" else indices[held_out:])))
    return tuple(pools)


@functools.lru_cache(maxsize=64)
def _printed(text: str, size: int) -> Mask:
    """Printed text as a mask float32[h, w] of ink in 0..1."""
    font = ImageFont.load_default(size=size)
    left, top, right, bottom = (round(edge) for edge in font.getbbox(text))
    image = Image.new("L", (right - left, bottom - top), 0)
    ImageDraw.Draw(image).text((-left, -top), text, fill=255, font=font)
    return np.asarray(image, np.float32) / 255


@functools.lru_cache(maxsize=1)
def _grain() -> npt.NDArray[np.float32]:
    """A sheet of paper grain, float32[256, 512, 1] of about ±6 levels."""
    grain = np.random.default_rng(20_11).normal(0, 3, (256, 512, 1))
    return np.clip(grain, -6, 6).astype(np.float32)


def _colours(rng: Random) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Ink and background, one dark and one light, at least 110 levels apart in each channel."""
    dark = np.array([rng.randint(0, 70) for _ in range(3)], np.float32)
    light = np.array([rng.randint(180, 250) for _ in range(3)], np.float32)
    return (dark, light) if rng.random() < 0.8 else (light, dark)


def compose(text: str, label: str, pools: tuple[tuple[int, ...], ...], rng: Random) -> tuple[bytes, list[int]]:
    """A plate or slip as PNG bytes, 32 pixels high and 96 to 160 wide, and the digit images used.

    `text` holds digits and at most one decimal point, drawn as handwritten digits and a dot; `label`
    (unit or currency) is printed behind them, or before them for a slip now and then.
    """
    bank, _ = _digit_bank()
    used: list[int] = []
    printed = _printed(label, rng.randint(13, 15))
    before = "." in text and rng.random() < 0.3
    content = sum(CELL if char.isdigit() else 6 for char in text) + printed.shape[1] + 6
    width = max(96, -(-(content + 12) // CELL) * CELL)
    ink = np.zeros((HEIGHT, width), np.float32)
    x = rng.randint(5, max(5, min(width - content - 5, 12)))
    baseline = (HEIGHT - CELL) // 2 + rng.randint(-3, 3)
    if before:
        x = _stamp(ink, printed, x, baseline + CELL - 2 - printed.shape[0]) + 6
    for char in text:
        if char == ".":
            _stamp(ink, np.ones((3, 3), np.float32), x + 1, baseline + CELL - 3)
            x += 6
            continue
        index = rng.choice(pools[int(char)])
        used.append(index)
        _stamp(ink, bank[index], x, baseline + rng.randint(-1, 1))
        x += CELL
    if not before:
        _stamp(ink, printed, x + 6, baseline + CELL - 2 - printed.shape[0])
    ink_colour, paper = _colours(rng)
    image = paper + ink[:, :, None] * (ink_colour - paper)
    if rng.random() < 0.7:
        thickness = rng.randint(1, 2)
        edge = paper + 0.55 * (ink_colour - paper)
        image[:thickness] = image[-thickness:] = edge
        image[:, :thickness] = image[:, -thickness:] = edge
    row_at, column_at = rng.randrange(256 - HEIGHT), rng.randrange(512 - width)
    image += _grain()[row_at : row_at + HEIGHT, column_at : column_at + width]
    return encode_png(np.clip(image, 0, 255).astype(np.uint8)), used


def encode_png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """An RGB image uint8[h, w, 3] as PNG; every row with the `Sub` filter, half the time of Pillow's search."""
    height, width, _ = pixels.shape
    rows = np.empty((height, 1 + 3 * width), np.uint8)
    rows[:, 0] = 1
    rows[:, 1:4] = pixels[:, 0]
    rows[:, 4:] = (pixels[:, 1:] - pixels[:, :-1]).reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 1)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


def _stamp(ink: Mask, mask: Mask, x: int, y: int) -> int:
    """Puts a mask on the ink at (x, y), cut at the edges; returns the x behind it."""
    height, width = mask.shape
    y = max(0, min(y, ink.shape[0] - height))
    view = ink[y : y + height, x : x + width]
    np.maximum(view, mask[:, : view.shape[1]], out=view)
    return x + width


# -- words ------------------------------------------------------------------------------------------

_SIDES = ("", "", "north ", "south ", "east ", "west ", "upper ", "lower ", "old ", "new ", "main ", "front ", "back ")
_SPOTS = [
    "kitchen",
    "garage",
    "cellar",
    "attic",
    "workshop",
    "laundry",
    "greenhouse",
    "roof",
    "garden",
    "office",
    "studio",
    "hallway",
    "barn",
    "stable",
    "lobby",
    "canteen",
    "library",
    "gym",
    "boiler_room",
    "pump_house",
    "bakery",
    "hall",
    "shop",
    "tower",
]
_TRADES = [
    "& Sons",
    "Books",
    "Bakery",
    "Motors",
    "Plumbing",
    "Energy",
    "Market",
    "Dental",
    "Garage",
    "Flowers",
    "& Partners",
    "Electric",
    "Foods",
    "Travel",
]


def draw_meter(rng: Random, split: str) -> str:
    """A meter's name, such as `north hall`, `flat 12` or `B-204`; combinations belong to one split."""
    while True:
        style = rng.random()
        if style < 0.7:
            name = (
                rng.choice(_SIDES)
                + rng.choice(_SPOTS).replace("_", " ")
                + (f" {rng.randint(2, 9)}" if style < 0.15 else "")
            )
        elif style < 0.85:
            name = f"{rng.choice(('flat', 'unit', 'room', 'block'))} {rng.randint(1, 60)}{rng.choice(('', '', 'A', 'B', 'C'))}"
        else:
            name = f"{rng.choice('ABCDEFGHKM')}-{rng.randint(10, 999)}"
        if in_split("meter " + name, split):
            return name


def draw_payee(rng: Random, split: str) -> str:
    """A payee's name, such as `Lee & Sons`; combinations belong to one split."""
    while True:
        name = f"{rng.choice(LAST)} {rng.choice(_TRADES)}"
        if rng.random() < 0.15:
            name = f"{rng.choice(LAST)} and {rng.choice(LAST)}"
        if in_split("payee " + name, split):
            return name


_LOG = {
    "train": (
        "Log this reading for the {} meter",
        "Please log the reading of the {} meter",
        "This is the {} meter, log it",
        "Save what this plate shows for the {} meter",
        "Enter this value, the meter is {}",
        "New reading for the {} meter",
        "Store the number on the plate under meter {}",
        "Can you note this reading for the {} meter?",
        "Record the {} meter, here is the plate",
        "Put this reading down for meter {}",
        "{} meter: log the photo",
        "Could you log this? It is the {} meter",
        "I read the {} meter today, please save it",
        "Add this to the log of the {} meter",
    ),
    "test": (
        "Here is the plate of the {} meter, log the value",
        "Book the reading on this photo for the {} meter",
        "Take down this reading, it belongs to the {} meter",
        "Please file the number shown here for meter {}",
        "The photo shows the {} meter. Save the reading",
    ),
}
_LOG_MISSING = {
    "train": (
        "Log this reading",
        "Please log the reading on the plate",
        "Save what this plate shows",
        "Enter this value, please",
        "Store the number on the plate",
        "Can you note this reading?",
        "Record this meter",
        "I read a meter today, please save it",
    ),
    "test": (
        "Log the value on this plate",
        "Take down this reading",
        "Please file the number shown here",
        "Save the reading in the photo",
    ),
}
_PAY = {
    "train": (
        "Book this slip, payee is {}",
        "Record this payment to {}",
        "Please enter the slip, it goes to {}",
        "This amount was paid to {}, book it",
        "Book the payment for {}",
        "Save this slip under payee {}",
        "Can you record what I paid {}?",
        "Payment to {}, please book the slip",
        "Add this slip, the payee is {}",
        "I paid {} today, record it",
        "Enter a payment, payee {}",
        "Put this amount down for {}",
        "Note this payment, it went to {}",
        "Slip for {}: book it",
    ),
    "test": (
        "Here is a slip for {}, record the payment",
        "File this slip, the money went to {}",
        "Please write down the payment on the photo, payee {}",
        "The slip shows what {} received, book it",
        "Take down this payment for {}",
    ),
}
_PAY_MISSING = {
    "train": (
        "Book this slip",
        "Record this payment",
        "Please enter the slip",
        "Save this slip, please",
        "Can you record this payment?",
        "Add this slip",
        "Enter the payment on the photo",
        "Put this amount down",
    ),
    "test": (
        "Take down this payment",
        "File this slip, please",
        "Record the amount on the photo",
        "Please write down the payment",
    ),
}
_ASK_METER = ("Which meter is this reading for?", "What is the name of the meter?")
_ASK_PAYEE = ("Who is the payee?", "Who was paid?")
_VQA_NUMBER = {
    True: {
        "train": (
            "What number does the plate show?",
            "Which number is on the plate?",
            "Read the number.",
            "What does the meter say?",
            "What is the reading?",
            "Tell me the digits on the plate.",
        ),
        "test": (
            "What number is written here?",
            "Which value does the plate show?",
            "What is the number on the meter?",
        ),
    },
    False: {
        "train": (
            "What amount does the slip show?",
            "Which amount is on the slip?",
            "Read the amount.",
            "How much is it?",
            "What is the sum on the slip?",
            "Tell me the amount.",
        ),
        "test": ("How much does the slip say?", "Which sum is written here?", "What is the amount on the slip?"),
    },
}
_VQA_LABEL = {
    True: {
        "train": ("Which unit?", "What unit is printed?", "In which unit is the reading?"),
        "test": ("What is the unit?", "Which unit does the plate name?"),
    },
    False: {
        "train": ("Which currency?", "What currency is printed?", "In which currency is it?"),
        "test": ("What is the currency?", "Which currency does the slip name?"),
    },
}


# -- samples ----------------------------------------------------------------------------------------


def _sentence(template: str, name: str, rng: Random) -> str:
    text = template.format(name)
    if text[-1] not in ".?" and rng.random() < 0.7:
        text += "."
    return (
        text if rng.random() < 0.85 or (text[0].isupper() and name.startswith(text[0])) else text[0].lower() + text[1:]
    )


def _sample(seed: int, split: str, number: int) -> Row:
    """Sample `number` of a split: an image, what is wanted, and the functions at hand."""
    rng = stream(NAME, seed, split, number)
    meter = rng.random() < 0.5
    kind = rng.choices(list(KIND_SHARES), list(KIND_SHARES.values()))[0]
    if meter:
        text = str(rng.randint(1, 9)) + "".join(str(rng.randrange(10)) for _ in range(rng.randint(2, 4)))
        label = rng.choice(UNITS)
    else:
        text = f"{rng.randint(10, 99) if rng.random() < 0.6 else rng.randint(100, 999)}.{rng.randrange(100):02d}"
        label = rng.choice(CURRENCIES)
    image, used = compose(text, label, digit_pools(seed, split), rng)
    thing = "meter plate" if meter else "payment slip"
    if kind == "caption":
        return caption_row(NAME, image, f"{thing}: {' '.join(text)} {label}", digits=used)

    wording = rng.randrange(3)
    tools = [log_reading(wording) if meter else record_payment(wording)]
    other = record_payment(wording) if meter else log_reading(wording)
    cards = draw_cards(rng, split, rng.randint(0, 3))
    distractors = [one.tool for one in cards]
    if rng.random() < 0.4:
        distractors = [other, *distractors[:2]]
    meta: dict[str, Any] = {"digits": used}
    if kind == "vqa":
        number_asked = rng.random() < 0.7
        question = rng.choice((_VQA_NUMBER if number_asked else _VQA_LABEL)[meter][split])
        shown = tools + distractors if rng.random() < 0.3 else []
        rng.shuffle(shown)
        if shown:
            meta["trigger"] = "answer"
        return row(NAME, "vqa", [user(question, 1), assistant(text if number_asked else label)], shown, [image], **meta)

    name = draw_meter(rng, split) if meter else draw_payee(rng, split)
    ask = _sentence(rng.choice((_LOG if meter else _PAY)[split]), name, rng)
    meta["trigger"] = kind if kind in ("cannot", "ask_missing") else "answer" if kind == "follow_up" else "call"
    if kind == "ask_missing":
        ask = _sentence(rng.choice((_LOG_MISSING if meter else _PAY_MISSING)[split]), "", rng)
        messages = [user(ask, 1), assistant(rng.choice(_ASK_METER if meter else _ASK_PAYEE))]
    elif kind == "cannot":
        tools = []
        distractors = distractors or [other]
        if rng.random() < 0.5:  # another wish that no listed function serves
            unserved = rng.choice(functions(split))
            while unserved.key in {one.function.key for one in cards}:
                unserved = rng.choice(functions(split))
            ask = phrase(make_wish(unserved, rng, split).text, rng, split)
        messages = [user(ask, 1), assistant(rng.choice(NO_FUNCTION))]
    elif kind == "other_call":
        gold = rng.choice(functions(split))
        while gold.key in {one.function.key for one in cards}:
            gold = rng.choice(functions(split))
        gold_card = card(gold, 0)
        wish = make_wish(gold, rng, split)
        distractors = [one for one in distractors if one["function"]["name"] != gold_card.name]
        tools.append(gold_card.tool)
        ask = phrase(wish.text, rng, split)
        messages = [user(ask, 1), calling((gold_card.name, arguments(gold_card, wish)))]
    else:
        function = str(tools[0]["function"]["name"])
        values: dict[str, Any] = (
            {"meter": name, "value": int(text), "unit": label}
            if meter
            else {"payee": name, "amount": json.loads(text), "currency": label}
        )
        messages = [user(ask, 1), calling((function, values), train=kind == "call")]
        if kind == "follow_up":
            said = f"Logged {text} {label} for {name}." if meter else f"Booked {text} {label} for {name}."
            messages += [result(function, {"status": "ok", **values}), assistant(said)]
    listed = tools + distractors[: 5 - len(tools)]
    rng.shuffle(listed)
    return row(NAME, "call", messages, listed, [image], **meta)


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
