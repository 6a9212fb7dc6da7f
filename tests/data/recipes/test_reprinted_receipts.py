"""Reprinted receipts: exchanged values are printed wherever the old ones were, and nothing else changes."""

from __future__ import annotations

import io
import json
import re
import zipfile
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from PIL import Image

from multimodal_ai.data.recipes import RECIPES, RecipeContext
from multimodal_ai.data.recipes.common import in_split
from multimodal_ai.data.recipes.fonts import draw_face
from multimodal_ai.data.recipes.reprinted_receipts import Reprint, _other_amount, _other_date, exchange, set_reprint

RECIPE = RECIPES["reprinted_receipts"]
SPLITS = ("train", "test")
TEXTS = ("LOTUS STORES", "NO 5, JALAN RIA,", "43000 KAJANG", "DATE: 25/12/2018 8:13 PM", "PEN 9.00", "PAPER 19.00",
         "TOTAL: 9.00", "CASH 10.00", "THANK YOU")  # fmt: skip
VALUES = {
    "company": "LOTUS STORES",
    "date": "25/12/2018",
    "address": "NO 5, JALAN RIA, 43000 KAJANG",
    "total": "9.00",
}


def entry(**values: str) -> dict[str, Any]:
    lines = [[20, 10 + 20 * place, 200, 24 + 20 * place, text] for place, text in enumerate(TEXTS)]
    return {"image": "000001.webp", "call": {"arguments": VALUES | values}, "lines": lines}


def test_a_receipt_without_a_value_is_not_reprinted() -> None:
    assert Reprint.of(entry()) is not None
    assert Reprint.of(entry(total=" ")) is None
    assert Reprint.of({**entry(), "lines": [[0, 0, 9, 9, "谢谢"]] * 9}) is None


def test_exchanged_values_are_printed_wherever_the_old_ones_were() -> None:
    made = Reprint.of(entry())
    assert made is not None
    changed = dict.fromkeys(VALUES, 0)
    for seed in range(80):
        other = exchange(made, Random(seed))
        texts = [text for *_, text in other.lines]
        assert [box[:4] for box in other.lines] == [box[:4] for box in made.lines]
        assert texts[5] == "PAPER 19.00" and texts[7:] == ["CASH 10.00", "THANK YOU"]
        assert texts[6] == f"TOTAL: {other.expense['total']}" and texts[4] == f"PEN {other.expense['total']}"
        assert texts[3] == f"DATE: {other.expense['date']} 8:13 PM"
        assert texts[0] == other.expense["company"] and " ".join(texts[1:3]) == other.expense["address"]
        assert all(other.printed(key) for key in VALUES)
        for key in VALUES:
            changed[key] += other.expense[key] != VALUES[key]
    assert all(20 < count < 60 for count in changed.values()), changed


def test_a_value_that_is_not_printed_stays() -> None:
    made = Reprint.of(entry(date="25 DEC 2018", address="ELSEWHERE"))
    assert made is not None and not made.printed("date") and not made.printed("address")
    for seed in range(30):
        other = exchange(made, Random(seed))
        assert other.expense["date"] == "25 DEC 2018" and other.expense["address"] == "ELSEWHERE"


@pytest.mark.parametrize("old", ["RM 1,234.50", "9.00", "$8.20", "-12.35"])
def test_another_amount_has_the_same_form(old: str) -> None:
    seen = {_other_amount(old, Random(seed)) for seed in range(40)}
    assert len(seen) > 3
    for new in seen:
        assert re.sub(r"\d", "9", new) == re.sub(r"\d", "9", old)
        assert new[-1] == old[-1] or old[-1] not in "05"
        assert next(char for char in new if char.isdigit()) != "0"


@pytest.mark.parametrize("old", ["25/12/2018", "10 MAR 2018", "1/2/18", "20180312", "18-11-20"])
def test_another_date_has_the_same_form(old: str) -> None:
    for seed in range(40):
        new = _other_date(old, Random(seed))
        assert re.sub(r"\d", "9", new) == re.sub(r"\d", "9", old)
        assert all(0 < int(number) <= 12 for number in re.findall(r"(?<!\d)\d{1,2}(?!\d)", new))


def test_lines_stand_where_they_stood() -> None:
    made = Reprint.of(entry())
    assert made is not None
    face = draw_face(Random(0), "train", "".join(TEXTS), "mono")
    ink = np.asarray(set_reprint(made, Random(0), face).image) > 100
    for x0, y0, x1, y1, _ in made.lines:
        assert ink[int(2 * y0) : int(2 * y1), int(2 * x0) : int(2 * x1)].any()
    assert not ink[: 2 * 8].any() and not ink[:, :4].any() and not ink[:, -4:].any()


def test_receipts_are_reprinted_for_their_own_split(tmp_path: Path) -> None:
    names = [f"SHOP {first}{second}" for first in "ABCDEFGH" for second in "KLM"]
    mine = {split: {name for name in names if in_split(f"sroie {name.replace(' ', '')}", split)} for split in SPLITS}
    assert all(mine.values())
    with zipfile.ZipFile(tmp_path / "sroie.zip", "w") as archive:
        entries = [entry(company=name, address=name) for name in names]
        archive.writestr("index.jsonl", "\n".join(map(json.dumps, entries)))
    for split in SPLITS:
        samples = list(islice(RECIPE.build(RecipeContext(tmp_path), split), 30))
        assert {sample.task for sample in samples} == {"call", "vqa"}
        assert {sample.meta["company"] for sample in samples} <= mine[split]
        with Image.open(io.BytesIO(samples[0].images[0])) as image:
            assert image.mode == "L" and image.width == 320
        again = list(islice(RECIPE.build(RecipeContext(tmp_path), split), 3))
        assert [sample.to_row() for sample in again] == [sample.to_row() for sample in samples[:3]]
