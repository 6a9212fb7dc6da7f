"""Rendered receipts: calls of `record_expense` and questions, on whole receipts and on their heads and feet.

Made in the look of the scans of `sroie` and asked in its words, with made-up companies: 320 pixels wide, grey,
in many fonts and layouts, folded, shaded, a little crooked. Values are in capitals however they are printed, and an
address is its printed lines joined by spaces, as that source has it. A head (company, address, date) or a foot
(sums) alone is a smaller image to begin with: questions, and all that it says as a caption (`meta.kind` `head`,
`foot` or `receipt`).

Source: made here. Licence: Apache-2.0. Split: by company and by font family, by hash.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any

from multimodal_ai.data.recipes import sroie
from multimodal_ai.data.recipes.common import Recipe, RecipeContext, Row, caption_row, in_split, stream
from multimodal_ai.data.recipes.page import scan
from multimodal_ai.data.recipes.printed_text import company
from multimodal_ai.data.recipes.printing import encode
from multimodal_ai.data.recipes.receipt_layout import Line, Receipt, Writer, draw_faces, set_page

NAME = "rendered_receipts"
TEST_SHARE = 0.1  # of the companies
_KINDS = {"call": 0.45, "question": 0.2, "head": 0.2, "foot": 0.15}


def draw_company(rng: Random, split: str) -> str:
    """A company of the split, told apart by the key that also splits `sroie`."""
    while True:
        name = company(rng)
        if in_split(f"{NAME} {sroie.company_key(name)}", split, TEST_SHARE):
            return name


def _whole(receipt: Receipt) -> list[Line]:
    return [*receipt.head, *receipt.body, *receipt.foot]


def _sample(seed: int, split: str, number: int) -> Row:
    """Sample `number` of a split: one receipt, or a part of it, with one thing asked about it."""
    rng = stream(NAME, seed, split, number)
    kind = rng.choices(list(_KINDS), list(_KINDS.values()))[0]
    made = Writer(rng, draw_company(rng, split)).receipt()
    lines = {"head": made.head, "foot": made.foot}.get(kind) or _whole(made)
    faces = draw_faces(rng, split, lines)
    needles = faces[0].kind == "mono" and rng.random() < 0.08
    image = encode(scan(set_page(rng, lines, faces), rng, needles), rng, jpeg=1.0, best=86)
    meta: dict[str, Any] = {
        "kind": kind if kind in ("head", "foot") else "receipt",
        "font": faces[0].family,
        "company": made.expense["company"],
    }
    if kind == "call":
        return sroie.call_row(NAME, rng, made.expense, image, split, **meta)
    if kind in ("head", "foot") and rng.random() < 0.4:
        text = "\n".join(line.text for line in lines if line.cells)
        return caption_row(NAME, image, text, **meta)
    asked = {"head": ["company", "address", "date"], "foot": ["total"]}.get(
        kind, ["total", "date", "company", "address"]
    )
    key = rng.choice([name for name in asked if _shown(made, name, lines)])
    return sroie.question_row(NAME, rng, key, made.expense, image, **meta)


def _shown(receipt: Receipt, key: str, lines: list[Line]) -> bool:
    """Whether the lines of the image print the value: a date may stand at the foot."""
    return key != "date" or any(receipt.expense["date"] in line.text.upper() for line in lines)


def rows(context: RecipeContext, split: str) -> Iterator[Row]:
    """Samples without end; sample `i` depends on (seed, split, i) and the machine's fonts alone."""
    number = 0
    while True:
        yield _sample(context.seed, split, number)
        number += 1


RECIPE = Recipe(
    name=NAME,
    licence="Apache-2.0 (made here)",
    description="receipts drawn in many fonts: record_expense calls, questions, heads and feet alone",
    splits=("train", "test"),
    rows=rows,
    sizes={"train": 30_000, "test": 1_000},
)
