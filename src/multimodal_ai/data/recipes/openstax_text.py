"""Textbook prose of OpenStax, a paragraph a line; reference lists and broken lines are left out.

Source: `openstax_text.txt.xz`. Licence: CC BY 4.0 (OpenStax, Rice University). Split: by blocks of 200
neighbouring paragraphs, by hash, 3% for testing: the file does not name the books, and neighbours belong
to one chapter.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from multimodal_ai.data.recipes.common import Recipe, RecipeContext, Row, in_split, read_lines_xz, text_row

NAME = "openstax_text"
FILE = "openstax_text.txt.xz"
BLOCK = 200
MIN_CHARACTERS, MAX_CHARACTERS = 120, 3_000
_REFERENCE = re.compile(r"\(\d{4}[a-z]?\)\.|\bdoi\b|https?://|\bRetrieved from\b|\bpp?\. \d+", re.I)


def is_prose(paragraph: str) -> bool:
    """Whether a paragraph is running text and not a reference, a heading or a list of numbers."""
    if not MIN_CHARACTERS <= len(paragraph) <= MAX_CHARACTERS or _REFERENCE.search(paragraph):
        return False
    letters = sum(char.isalpha() or char == " " for char in paragraph)
    return paragraph[-1] in '.!?"”)' and letters >= 0.8 * len(paragraph)


def rows(context: RecipeContext, split: str) -> Iterator[Row]:
    """Paragraphs in the order of the file, each once."""
    seen: set[str] = set()
    for number, line in enumerate(read_lines_xz(context.file(FILE))):
        paragraph = " ".join(line.split())
        if not is_prose(paragraph) or paragraph in seen:
            continue
        seen.add(paragraph)
        if in_split(f"{NAME} {number // BLOCK}", split, 0.03):
            yield text_row(NAME, paragraph)


RECIPE = Recipe(
    name=NAME,
    licence="CC BY 4.0 (OpenStax, Rice University)",
    description="paragraphs of textbooks",
    splits=("train", "test"),
    rows=rows,
    files=(FILE,),
)
