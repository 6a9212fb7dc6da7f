"""Rendered lines of text with what they say: where reading begins.

One line, or a short block of two to four, in one of the machine's fonts, printed and scanned (`printing.py`);
the caption is the exact text, lines joined by newlines, in the form of the line crops of `sroie` (`meta.kind`
`line` or `block`). Three quarters of the texts are what receipts print, and codes without meaning; a third of these
are lines of `sroie`'s training receipts set anew, if its file is there. The rest is prose.

Source: made here; prose of the Python documentation, and with `--from` that of `wiki_summaries` and the lines of
`sroie`, if their files are in the folder. Licence: Apache-2.0, and that of the prose. Split: by font family and by
text, by hash: fonts and texts of the test split are unseen in training.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from random import Random

from multimodal_ai.data.recipes import sroie, stdlib_text, wiki_summaries
from multimodal_ai.data.recipes.common import (
    ImageArchive,
    Recipe,
    RecipeContext,
    Row,
    caption_row,
    hash_fraction,
    in_split,
    stream,
)
from multimodal_ai.data.recipes.fonts import draw_face
from multimodal_ai.data.recipes.printed_text import CHARACTERS, address, cased, company, phone, receipt_line
from multimodal_ai.data.recipes.printing import draw_type, fitting, print_lines

NAME = "rendered_lines"
MAX_WIDTH = 400  # pixels
TEST_SHARE = 0.1  # of the texts
_KINDS = ("mono", "sans", "serif", "hand")
_KIND_WEIGHTS = (45, 35, 13, 7)
_PROSE_WORDS = (1, 2, 3, 4, 5, 6, 7)


@functools.lru_cache(maxsize=8)
def _prose(source: Path | None, split: str) -> tuple[str, ...]:
    """Paragraphs of the split: of a part of the Python documentation, and encyclopedia summaries if they are there."""
    texts = [
        text
        for _, text in stdlib_text.split_paragraphs(
            split, lambda module: module.startswith("pydoc_data") or hash_fraction(f"{NAME} {module}") < 0.08
        )
    ]
    if source is not None and (source / wiki_summaries.FILE).is_file():
        texts += [row["messages"][-1]["content"] for row in wiki_summaries.rows(RecipeContext(source), split)]
    return tuple(texts)


@functools.lru_cache(maxsize=8)
def _receipts(source: Path | None) -> tuple[str, ...]:
    """Lines of the training receipts of `sroie`, if its file is there; those of its test receipts are never used."""
    if source is None or not (source / sroie.FILE).is_file():
        return ()
    archive = ImageArchive(source / sroie.FILE)
    return tuple(
        " ".join(text.split())
        for entry in sroie.split_entries(archive, "train")
        for *_, text in entry["lines"]
        if len(text.strip()) > 1
    )


def _window(rng: Random, texts: tuple[str, ...]) -> str:
    """A few neighbouring words of a paragraph, now and then in capitals."""
    words = rng.choice(texts).split()
    count = rng.choice(_PROSE_WORDS)
    start = rng.randint(0, max(0, len(words) - count))
    text = " ".join(words[start : start + count])[:48].strip()
    style = rng.random()
    return text.upper() if style < 0.25 else text


def draw_text(rng: Random, source: Path | None, split: str) -> str:
    """One line of text of the split; what it may hold is told apart by the hash of the text."""
    real = _receipts(source)
    while True:
        style = rng.random()
        if style < 0.25 and real:
            text = cased(rng.choice(real), rng, 0.75)
        elif style < 0.75:
            text = receipt_line(rng)
        else:
            text = _window(rng, _prose(source, split))
        if text and CHARACTERS.issuperset(text) and in_split(f"{NAME} {text}", split, TEST_SHARE):
            return text


def _draw_block(rng: Random, source: Path | None, split: str) -> list[str]:
    """Two to four lines that stand together: a shop's head, an address, or any lines."""
    style = rng.random()
    while style < 0.6:
        lines = [
            *([company(rng)] if style < 0.35 else []),
            *address(rng),
            *([f"TEL: {phone(rng)}"] if style < 0.1 else []),
        ]
        if len(lines) >= 2 and in_split(f"{NAME} {lines[0]}", split, TEST_SHARE):
            capitals = 0.0 if rng.random() < 0.4 else 1.0
            return [cased(line, rng, capitals) for line in lines[:4]]
    return [draw_text(rng, source, split) for _ in range(rng.randint(2, 4))]


def _sample(context: RecipeContext, split: str, number: int) -> Row:
    rng = stream(NAME, context.seed, split, number)
    block = rng.random() < 0.12
    lines = _draw_block(rng, context.source, split) if block else [draw_text(rng, context.source, split)]
    text = "\n".join(lines)
    face = draw_face(rng, split, text, rng.choices(_KINDS, _KIND_WEIGHTS)[0])
    style = fitting(draw_type(rng, face), lines, MAX_WIDTH)
    around = [receipt_line(rng) for _ in range(2)] if rng.random() < 0.25 else []
    if around and not face.covers("".join(around)):
        around = []
    image = print_lines(lines, style, rng, around, needles=face.kind == "mono" and rng.random() < 0.12)
    return caption_row(NAME, image, text, kind="block" if block else "line", font=face.family)


def rows(context: RecipeContext, split: str) -> Iterator[Row]:
    """Samples without end; sample `i` depends on (seed, split, i), the fonts and the files alone."""
    number = 0
    while True:
        yield _sample(context, split, number)
        number += 1


RECIPE = Recipe(
    name=NAME,
    licence="Apache-2.0 (made here), PSF-2.0 (Python documentation), with --from also CC BY-SA 4.0 and CC BY 4.0",
    description="one to four printed lines in many fonts with the text that they say",
    splits=("train", "test"),
    rows=rows,
    sizes={"train": 100_000, "test": 2_000},
)
