"""Scanned receipts: calls of `record_expense`, questions about a receipt, and crops of single lines.

546 receipts are few to learn reading from, so every printed line is cropped as an image of its own with its
text (task `caption`, `meta.kind` `line`).

Source: `sroie.zip` (ICDAR 2019 SROIE). Licence: CC BY 4.0. Split: by company, by hash, 20% for testing,
never at random: receipts of one company look alike.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from random import Random
from typing import Any

from PIL import Image

from multimodal_ai.data.recipes.common import (
    ImageArchive,
    Recipe,
    RecipeContext,
    Row,
    assistant,
    call_or_refuse,
    caption_row,
    in_split,
    linked_groups,
    row,
    shuffled,
    stream,
    tool,
    user,
)
from multimodal_ai.data.recipes.function_cards import draw_cards

NAME = "sroie"
FILE = "sroie.zip"
_REQUESTS = {
    "train": (
        "Record this receipt",
        "Please book this expense",
        "Log the receipt",
        "Enter this receipt",
        "Save this expense for me",
        "Can you record what I spent here?",
        "Put this receipt in my expenses",
        "Book this bill",
    ),
    "test": ("File this receipt", "Take down this expense", "Here is a receipt, please record it"),
}
QUESTIONS = {
    "total": ("What is the total?", "How much was paid?", "Which total does the receipt show?"),
    "date": ("What is the date of the receipt?", "When was this bought?", "Which date is printed?"),
    "company": ("Which company is this receipt from?", "Who issued the receipt?", "What is the shop called?"),
    "address": ("What is the address?", "Where is the shop?", "Which address is printed?"),
}
_ASKED = ("total", "date", "company")  # of a scan; its address is often printed otherwise than it is called


def record_expense() -> dict[str, Any]:
    """Card of the function that receipts are booked with; values are strings, as printed."""
    properties = {
        "company": {"type": "string", "description": "Who issued the receipt"},
        "date": {"type": "string", "description": "Date as printed"},
        "address": {"type": "string", "description": "Address of the company"},
        "total": {"type": "string", "description": "Total as printed"},
    }
    return tool("record_expense", "Record the expense that a receipt shows", properties, tuple(properties), True)


def company_key(company: str) -> str:
    """The name that decides the split: letters only, without the legal form."""
    letters = re.sub(r"[^A-Z ]", "", company.upper())
    return re.sub(r"\b(SDN|BHD|BND|ENTERPRISE|TRADING|CO)\b", "", letters).replace(" ", "")


def split_entries(archive: ImageArchive, split: str) -> list[dict[str, Any]]:
    """The receipts of a split, told apart by their company; companies at one address are one (names are misspelt)."""
    names = []
    for entry in archive.entries:
        values = entry["call"]["arguments"]
        place = re.sub(r"[^A-Z0-9]", "", values["address"].upper())
        names.append([company_key(values["company"]), *([f"at {place}"] if place else [])])
    groups = linked_groups(names)
    return [entry for entry, group in zip(archive.entries, groups, strict=True) if in_split(f"{NAME} {group}", split)]


def _line_rows(entry: dict[str, Any], receipt: bytes) -> Iterator[Row]:
    """Each printed line of at least two characters as an image, cut with two pixels of margin."""
    with Image.open(io.BytesIO(receipt)) as opened:
        image = opened.convert("RGB")
    for x0, y0, x1, y1, text in entry["lines"]:
        box = (max(0, x0 - 2), max(0, y0 - 2), min(image.width, x1 + 2), min(image.height, y1 + 2))
        if len(text.strip()) < 2 or box[2] - box[0] < 8 or box[3] - box[1] < 6:
            continue
        file = io.BytesIO()
        image.crop(box).save(file, "PNG", compress_level=1)
        yield caption_row(NAME, file.getvalue(), text.strip(), kind="line", receipt=entry["image"])


def call_row(source: str, rng: Random, expense: Mapping[str, str], image: bytes, split: str, **meta: Any) -> Row:
    """A request to book a receipt and its call; `expense` holds the four arguments of `record_expense`."""
    ask = rng.choice(_REQUESTS[split]) + rng.choice((".", ".", ""))
    others = [one.tool for one in draw_cards(rng, split, rng.randint(1, 3))]
    return call_or_refuse(source, rng, ask, record_expense(), expense, others, image, **meta)


def question_row(source: str, rng: Random, key: str, expense: Mapping[str, str], image: bytes, **meta: Any) -> Row:
    """A question about one value of `expense`, answered by it."""
    turns = [user(rng.choice(QUESTIONS[key]), 1), assistant(expense[key].strip())]
    return row(source, "vqa", turns, images=[image], **meta)


def rows(context: RecipeContext, split: str) -> Iterator[Row]:
    """For each receipt a call (if all its values are known), three questions, then its lines, in the seed's order."""
    archive = ImageArchive(context.file(FILE))
    for entry in shuffled(split_entries(archive, split), NAME, context.seed, split):
        rng = stream(NAME, context.seed, entry["image"])
        receipt = archive.image(entry)
        expense = entry["call"]["arguments"]
        if all(value.strip() for value in expense.values()):
            yield call_row(NAME, rng, expense, receipt, split, receipt=entry["image"])
        for key in _ASKED:
            if expense[key].strip():
                yield question_row(NAME, rng, key, expense, receipt, receipt=entry["image"])
        if context.tasks is None or "caption" in context.tasks:
            yield from _line_rows(entry, receipt)


RECIPE = Recipe(
    name=NAME,
    licence="CC BY 4.0 (ICDAR 2019 SROIE)",
    description="receipts: record_expense calls, questions, crops of printed lines",
    splits=("train", "test"),
    rows=rows,
    files=(FILE,),
)
