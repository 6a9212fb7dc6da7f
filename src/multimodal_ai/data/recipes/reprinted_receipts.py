"""Prints real receipts anew: the layout and the words of a receipt of `sroie`, in another font and wear.

Company, date, address and total are exchanged for others half of the time each, wherever they are printed, so that
a value has to be read and cannot be remembered with the layout. Asked in the words of `sroie`, values as there.

Source: `sroie.zip` (ICDAR 2019 SROIE). Licence: CC BY 4.0. Split: that of `sroie`, by company, and by font family:
a receipt of its test split is never reprinted for training.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random
from statistics import median
from typing import Any

from multimodal_ai.data.recipes import sroie
from multimodal_ai.data.recipes.common import ImageArchive, Recipe, RecipeContext, Row, stream
from multimodal_ai.data.recipes.fonts import Face, draw_face
from multimodal_ai.data.recipes.page import Page, scan
from multimodal_ai.data.recipes.printed_text import CHARACTERS, address, cased, company
from multimodal_ai.data.recipes.printing import Type, encode, text_width
from multimodal_ai.data.recipes.receipt_layout import WIDTH

NAME = "reprinted_receipts"

Box = tuple[float, float, float, float, str]


@dataclass(frozen=True)
class Reprint:
    """What a receipt says: its four values, and its printed lines as (x0, y0, x1, y1, text) in pixels."""

    expense: dict[str, str]
    lines: list[Box]

    @classmethod
    def of(cls, entry: dict[str, Any]) -> Reprint | None:
        """The receipt of an index entry; None if it lacks a value or prints what no font is sure to have."""
        expense = {key: value.strip() for key, value in entry["call"]["arguments"].items()}
        lines = [(*box, " ".join(text.split())) for *box, text in entry["lines"]]
        known = all(expense.values()) and all(CHARACTERS.issuperset(text) for *_, text in lines)
        return cls(expense, lines) if known and len(lines) > 5 else None

    def printed(self, key: str) -> bool:
        """Whether a value is printed as it is called; an address may go over neighbouring lines."""
        text = "\n".join(text for *_, text in self.lines)
        return self.expense[key] in (text if key != "address" else text.replace("\n", " "))


def exchange(receipt: Reprint, rng: Random) -> Reprint:
    """The receipt with other values; one that is not printed word for word stays, for it could not be followed."""
    texts, expense = [text for *_, text in receipt.lines], dict(receipt.expense)
    new = {"total": _other_amount, "date": _other_date, "company": lambda _, rng: company(rng)}
    for key, other in new.items():
        old = expense[key]
        found = re.compile(rf"(?<![\w.,]){re.escape(old)}(?![\w,]|\.\d)")
        if rng.random() < 0.5 and any(found.search(text) for text in texts):
            expense[key] = other(old, rng)
            texts = [found.sub(lambda _, value=expense[key]: value, text) for text in texts]  # type: ignore[misc]
    place = _place(texts, expense["address"])
    if place is not None and rng.random() < 0.5:
        for _ in range(30):
            lines = address(rng)
            if len(lines) == place[1] - place[0]:
                texts[place[0] : place[1]] = lines
                expense["address"] = " ".join(lines)
                break
    return Reprint(expense, [(*box[:4], text) for box, text in zip(receipt.lines, texts, strict=True)])


def _other_amount(old: str, rng: Random) -> str:
    """Other digits in an amount; the first stays above zero, and a last zero or five stays as it is."""
    digits = [at for at, char in enumerate(old) if char.isdigit()]
    kept = {digits[-1]} if digits and old[digits[-1]] in "05" else set()
    return "".join(
        char if not char.isdigit() or at in kept else str(rng.randint(1 if at == digits[0] else 0, 9))
        for at, char in enumerate(old)
    )


def _other_date(old: str, rng: Random) -> str:
    """Another day, month and year in the same form; a month in letters stays. A number of two digits may be either."""

    def other(match: re.Match[str]) -> str:
        if len(match[0]) == 8:
            return f"{rng.randint(2009, 2029)}{rng.randint(1, 12):02d}{rng.randint(1, 28):02d}"
        if len(match[0]) == 4:
            return str(rng.randint(2009, 2029))
        return f"{rng.randint(1, 12):02d}" if len(match[0]) == 2 else str(rng.randint(1, 9))

    return re.sub(r"\d+", other, old)


def _place(texts: Sequence[str], value: str) -> tuple[int, int] | None:
    """The neighbouring lines that make up the value, joined by spaces."""
    for start in range(len(texts)):
        for end in range(start + 1, min(start + 7, len(texts) + 1)):
            if " ".join(texts[start:end]) == value:
                return start, end
    return None


def set_reprint(receipt: Reprint, rng: Random, face: Face) -> Page:
    """The lines as ink (255) where they stand, in one face; lines of about the common height get exactly it."""
    heights = [y1 - y0 for _, y0, _, y1, _ in receipt.lines]
    common, share = median(heights), rng.uniform(0.56, 0.68)
    bold = rng.random() < 0.12
    capitals = 1.0 if rng.random() < 0.5 else 0.0
    page = Page(WIDTH, round(max(box[3] for box in receipt.lines) + rng.uniform(6, 24)))
    for x0, y0, x1, y1, text in receipt.lines:
        height = common if abs(y1 - y0 - common) < 0.3 * common else y1 - y0
        style = Type(face, max(6.2, min(18.0, height * share)), bold=bold)
        shown = cased(text, rng, capitals)
        wide = max(1.0, text_width(shown, style))
        room = min(WIDTH - 4.0, max(x1 - x0, 0.75 * wide))
        style = replace(style, stretch=max(0.6, min(1.5, room / wide)))
        left = max(2.0, min(x0, WIDTH - 3 - wide * style.stretch))
        page.text(shown, left, (y0 + y1) / 2 + style.cap / 2, style)
    return page


def rows(context: RecipeContext, split: str) -> Iterator[Row]:
    """Calls and questions without end; sample `i` depends on (seed, split, i), the fonts and the file alone."""
    archive = ImageArchive(context.file(sroie.FILE))
    receipts = [made for entry in sroie.split_entries(archive, split) if (made := Reprint.of(entry)) is not None]
    number = 0
    while True:
        rng = stream(NAME, context.seed, split, number)
        number += 1
        made = exchange(rng.choice(receipts), rng)
        text = "".join(text for *_, text in made.lines)
        face = draw_face(rng, split, text + text.lower(), rng.choices(("mono", "sans", "serif"), (62, 31, 7))[0])
        needles = face.kind == "mono" and rng.random() < 0.08
        image = encode(scan(set_reprint(made, rng, face), rng, needles), rng, jpeg=1.0, best=86)
        meta = {"font": face.family, "company": made.expense["company"]}
        if rng.random() < 0.6:
            yield sroie.call_row(NAME, rng, made.expense, image, split, **meta)
        else:
            key = rng.choice([key for key in made.expense if key == "total" or made.printed(key)])
            yield sroie.question_row(NAME, rng, key, made.expense, image, **meta)


RECIPE = Recipe(
    name=NAME,
    licence="CC BY 4.0 (ICDAR 2019 SROIE)",
    description="real receipts printed anew in many fonts, some values exchanged: calls and questions",
    splits=("train", "test"),
    rows=rows,
    files=(sroie.FILE,),
    sizes={"train": 20_000, "test": 500},
)
