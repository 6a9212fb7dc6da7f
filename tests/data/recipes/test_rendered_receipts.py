"""Rendered receipts: what is asked stands on the page, sums add up, companies and fonts are in one split."""

from __future__ import annotations

import io
from itertools import islice
from random import Random

import numpy as np
import pytest
from PIL import Image

from multimodal_ai.data.messages import Sample
from multimodal_ai.data.recipes import RECIPES, RecipeContext, rendered_receipts, sroie
from multimodal_ai.data.recipes.common import in_split
from multimodal_ai.data.recipes.fonts import draw_face
from multimodal_ai.data.recipes.page import Page, crumple, lay, shade
from multimodal_ai.data.recipes.printed_text import WORDS
from multimodal_ai.data.recipes.printing import Type
from multimodal_ai.data.recipes.receipt_layout import Line, Receipt, Writer, _fit, _needed, draw_faces, set_page

RECIPE = RECIPES["rendered_receipts"]


@pytest.fixture(scope="module")
def samples() -> dict[str, list[Sample]]:
    return {split: list(islice(RECIPE.build(RecipeContext(), split), 40)) for split in RECIPE.splits}


def receipts(count: int) -> list[Receipt]:
    made = []
    for seed in range(count):
        rng = Random(seed)
        made.append(Writer(rng, rendered_receipts.draw_company(rng, "train")).receipt())
    return made


def cents(text: str) -> int:
    return round(100 * float(text.replace("RM", "").replace("$", "")))


def test_values_of_the_call_are_printed() -> None:
    for made in receipts(200):
        lines = [line.text.upper() for line in (*made.head, *made.body, *made.foot)]
        page, value = "\n".join(lines), made.expense
        assert value["company"] in lines and value["company"] in "\n".join(line.text.upper() for line in made.head)
        assert value["date"] in page
        assert value["address"] in " ".join(lines)
        assert value["total"] in page
        assert value == {key: text.upper() for key, text in value.items()}


def test_the_total_stands_behind_a_label_that_says_so() -> None:
    rounded = ("ROUNDED TOTAL", "ROUNDED TOTAL (RM)", "GRAND TOTAL", "NETT TOTAL", "AMOUNT DUE")
    for made in receipts(300):
        pairs = [line.cells for line in made.foot if line.cells]
        labels = {cells[0][0].upper().rstrip(" :") for cells in pairs if cells[-1][0] == made.expense["total"]}
        assert labels & {*WORDS["totals"], *rounded}, labels


def test_the_total_is_what_the_sums_before_it_make() -> None:
    cash = changed = 0
    for made in receipts(300):
        pairs = [
            (line.cells[0][0].upper().rstrip(": "), line.cells[-1][0]) for line in made.foot if len(line.cells) == 2
        ]
        names = [name for name, _ in pairs]
        at = next(place for place, (_, value) in enumerate(pairs) if value == made.expense["total"])
        total, given = cents(pairs[at][1]), None
        if names[at + 1 : at + 2] and names[at + 1].startswith(("CASH", "TENDERED", "PAYMENT", "VISA", "CREDIT")):
            given, cash = cents(pairs[at + 1][1]), cash + 1
            if names[at + 2 : at + 3] and names[at + 2].startswith(("CHANGE", "BALANCE")):
                changed += 1
                assert cents(pairs[at + 2][1]) == given - total
        rounding = [cents(value) for name, value in pairs[:at] if name.startswith("ROUNDING")]
        if rounding:
            assert total % 5 == 0 and abs(rounding[0]) <= 2
    assert cash > 150 and changed > 100


def test_rows(samples: dict[str, list[Sample]]) -> None:
    for split, listed in samples.items():
        kinds = {(sample.task, sample.meta["kind"]) for sample in listed}
        assert {("call", "receipt"), ("vqa", "receipt")} <= kinds and any(kind == "head" for _, kind in kinds)
        for sample in listed:
            assert in_split(f"rendered_receipts {sroie.company_key(sample.meta['company'])}", split, 0.1)
            with Image.open(io.BytesIO(sample.images[0])) as image:
                assert image.mode == "L" and image.width == 320
                low, high = np.percentile(np.asarray(image), (1, 90))
                assert high - low > 30
            for call in sample.messages[-1].tool_calls:
                assert call.name == "record_expense" and all(call.arguments.values())


def test_a_row_depends_on_its_number_alone(samples: dict[str, list[Sample]]) -> None:
    again = Sample.from_row(rendered_receipts._sample(0, "train", 3), "row")
    assert again.to_row() == samples["train"][3].to_row()


def test_cells_of_a_line_do_not_touch() -> None:
    face = draw_face(Random(0), "train", "TOTAL (INCL. GST): 1,234.50", "mono")
    line = Line((("TOTAL (INCL. GST):", 0.3, "l"), ("1,234.50", 1.0, "r")))
    style = _fit(line, Type(face, 9, stretch=1.6), 300)
    assert _needed(line, style) <= 300 * 1.01 and style.cap >= 6
    assert _needed(Line((("TOTAL", 0.0, "l"),)), style) < _needed(Line((("TOTAL", 0.5, "l"),)), style)
    rng = Random(0)
    page = set_page(rng, [line], draw_faces(rng, "train", [line]))
    columns = (np.asarray(page.image) > 60).any(0)
    assert not columns[:8].any() and not columns[-4:].any()


def test_crumpling_and_laying_keep_the_ink() -> None:
    page = Page(160, 90)
    page.box(3, 3, 157, 87, fill=255)
    whole = np.asarray(page.image, float).sum()
    for seed in range(30):
        bent = crumple(page.image, Random(seed))
        assert bent.size == page.image.size
        assert np.asarray(bent, float).sum() == pytest.approx(whole, rel=0.02)
        laid = np.asarray(lay(page.image, Random(seed), 2.0), float)
        assert laid.shape == (90, 160)
        assert laid.sum() > 0.6 * whole / 4
        assert not any(edge.any() for edge in (laid[0], laid[-1], laid[:, 0], laid[:, -1]))


def test_shadows_leave_two_thirds_of_the_light() -> None:
    for seed in range(30):
        light = shade(np.full((80, 60), 240, np.float32), Random(seed))
        assert light.min() >= 240 * 0.66 - 1e-3 and light.max() <= 240 * 1.3
