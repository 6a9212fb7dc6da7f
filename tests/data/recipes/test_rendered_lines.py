"""Rendered lines: pure in (seed, index), all of the text inside the image, texts and fonts told apart by split."""

from __future__ import annotations

import io
import zipfile
from itertools import islice
from pathlib import Path
from random import Random

import numpy as np
import pytest
from PIL import Image

from multimodal_ai.data.recipes import RECIPES, RecipeContext, printed_text, rendered_lines
from multimodal_ai.data.recipes.common import Row, in_split
from multimodal_ai.data.recipes.fonts import draw_face
from multimodal_ai.data.recipes.printing import Type, draw_type, fitting, projected, set_block, set_line, warp, wear

RECIPE = RECIPES["rendered_lines"]


@pytest.fixture(scope="module")
def rows() -> dict[str, list[Row]]:
    return {split: list(islice(RECIPE.raw_rows(RecipeContext(), split), 80)) for split in RECIPE.splits}


def text_of(row: Row) -> str:
    return str(row["messages"][-1]["content"])


def test_rows_are_captions_in_the_form_of_cropped_lines(rows: dict[str, list[Row]]) -> None:
    for split, listed in rows.items():
        for row in listed:
            text = text_of(row)
            assert row["task"] == "caption" and row["meta"]["kind"] == ("block" if "\n" in text else "line")
            assert text == text.strip() and "  " not in text.replace("  ", " ") and len(text.split("\n")) <= 4
            with Image.open(io.BytesIO(row["images"][0])) as image:
                assert image.format in ("JPEG", "PNG") and image.width <= 480
                assert 8 <= image.height <= (40 if row["meta"]["kind"] == "line" else 140)
        assert sum(row["meta"]["kind"] == "block" for row in listed) > 3
        assert len({row["meta"]["font"] for row in listed}) > 1, split


def test_a_row_depends_on_its_number_alone() -> None:
    first, again = (list(islice(RECIPE.raw_rows(RecipeContext(seed=3), "train"), 5)) for _ in range(2))
    assert first == again
    assert first[4] == rendered_lines._sample(RecipeContext(seed=3), "train", 4)
    assert text_of(first[0]) != text_of(next(RECIPE.raw_rows(RecipeContext(seed=4), "train")))


def test_texts_of_one_line_are_in_one_split(rows: dict[str, list[Row]]) -> None:
    for split, listed in rows.items():
        for row in listed:
            if row["meta"]["kind"] == "line":
                assert in_split(f"rendered_lines {text_of(row)}", split, rendered_lines.TEST_SHARE)


def test_ink_stays_inside_the_image() -> None:
    for seed in range(60):
        rng = Random(seed)
        text = printed_text.receipt_line(rng)
        face = draw_face(rng, "train", text)
        style = fitting(draw_type(rng, face), [text], 400)
        mask = set_block([text], style, rng)
        ink = np.asarray(warp(mask, rng))
        edges = np.concatenate([ink[0], ink[-1], ink[:, 0], ink[:, -1]])
        assert ink.max() > 60, text
        # a stroke may touch the edge, a letter may not stand on it
        assert (edges > 128).sum() <= 0.1 * len(edges), (seed, text)


def test_perspective_puts_nothing_outside() -> None:
    image = Image.new("L", (200, 60))
    image.paste(255, (6, 6, 194, 54))
    for px, py in ((0.0012, 0), (-0.0012, 0.004), (0.0006, -0.004)):
        seen = np.asarray(projected(image, (100, 30), 0, 0, px, py))
        assert seen.max() == 255
        assert not seen[0].any() and not seen[-1].any() and not seen[:, 0].any() and not seen[:, -1].any()


def test_a_line_reaches_from_its_highest_to_its_lowest_ink() -> None:
    face = draw_face(Random(1), "train", "Agp", "sans")
    mask, rise = set_line("Agp", Type(face, 10))
    ink = np.asarray(mask)
    assert ink[0].any() and ink[-1].any()
    assert 15 <= rise <= 26 and mask.height > rise  # letters stand on the row, and g and p hang below it
    wide, _ = set_line("Agp", Type(face, 10, stretch=1.5))
    assert wide.width == pytest.approx(1.5 * mask.width, abs=1)
    assert set_line("Agp", Type(face, 10, spacing=3))[0].width > mask.width + 8


def test_wear_leaves_most_of_the_ink() -> None:
    face = draw_face(Random(1), "train", "TOTAL 12.30", "mono")
    mask, _ = set_line("TOTAL 12.30", Type(face, 10))
    whole = np.asarray(mask, float).sum()
    left = [np.asarray(wear(mask, Random(seed), 10, seed % 5 == 0), float).sum() / whole for seed in range(100)]
    assert min(left) > 0.3 and max(left) <= 1 and sum(share == 1 for share in left) > 20


def test_long_lines_are_made_to_fit() -> None:
    text = "GROUND FLOOR, NO. 36, JALAN SETIA INDAH"
    face = draw_face(Random(0), "train", text, "mono")
    style = fitting(Type(face, 15, stretch=1.6, spacing=2), [text], 400)
    assert style.cap >= 6 and set_line(text, style)[0].width / 2 < 420
    assert fitting(Type(face, 8), ["12.30"], 400) == Type(face, 8)


def test_training_receipts_alone_lend_their_lines(tmp_path: Path) -> None:
    companies = {"train": "", "test": ""}
    for number in range(50):
        name = f"SHOP {'ABCDEFGHIJ'[number % 10]}{'KLMNO'[number // 10]}"
        for split in companies:
            if in_split(f"sroie {name.replace(' ', '')}", split):
                companies[split] = name
    with zipfile.ZipFile(tmp_path / "sroie.zip", "w") as archive:
        lines = [
            f'{{"image": "{split}.webp", "lines": [[0, 0, 9, 9, "FROM {split}"]], "call": {{"arguments": '
            f'{{"company": "{name}", "address": "{name}", "date": "d", "total": "1"}}}}}}'
            for split, name in companies.items()
        ]
        archive.writestr("index.jsonl", "\n".join(lines))
    assert rendered_lines._receipts(tmp_path) == ("FROM train",)
    assert rendered_lines._receipts(None) == ()


@pytest.mark.parametrize(
    ("capitals", "words"),
    [
        ("JALAN U13/2, SHAH ALAM", "Jalan U13/2, Shah Alam"),
        ("O'BRIEN SDN. BHD.", "O'brien Sdn. Bhd."),
        ("TOTAL RM 12.30 (INCL. GST)", "Total RM 12.30 (Incl. GST)"),
        ("AMT(RM)", "AMT(RM)"),
        ("SUB-TOTAL", "Sub-Total"),
    ],
)
def test_title_case_of_print(capitals: str, words: str) -> None:
    assert printed_text.title(capitals) == words


def test_printed_texts_hold_known_characters_only() -> None:
    for seed in range(1_500):
        text = printed_text.receipt_line(Random(seed))
        assert text and text == text.strip() and printed_text.CHARACTERS.issuperset(text), repr(text)


def test_every_letter_and_digit_is_seen_often() -> None:
    seen = "".join(printed_text.receipt_line(Random(seed)) for seed in range(3_000))
    for char in "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789abcdefghijklmnopqrstuvwxyz.,:-/()&@#%":
        assert seen.count(char) >= 12, char
