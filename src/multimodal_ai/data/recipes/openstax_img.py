"""Figures of textbooks with the first sentence of their alternative text.

At 96 pixels small print cannot be read, so the caption is the first sentence only. `meta` carries what the
licence wants named: book, commit and the figure's credit line.

Source: `openstax_img.zip`. Licence: CC BY 4.0 (OpenStax, Rice University; credits in `meta.credit`). Split:
by book; astronomy, business, and writing are kept for testing.
"""

from __future__ import annotations

from collections.abc import Iterator

from multimodal_ai.data.recipes.common import ImageArchive, Recipe, RecipeContext, Row, caption_row

NAME = "openstax_img"
FILE = "openstax_img.zip"
TEST_BOOKS = frozenset({"astronomy", "introduction-business", "writing-guide"})


def rows(context: RecipeContext, split: str) -> Iterator[Row]:
    """One figure a row, in the order of the archive."""
    archive = ImageArchive(context.file(FILE))
    for entry in archive.entries:
        if (entry["book"] in TEST_BOOKS) == (split == "test") and len(entry["caption"].strip()) >= 8:
            yield caption_row(
                NAME,
                archive.image(entry),
                entry["caption"].strip(),
                book=entry["book"],
                commit=entry["commit"],
                credit=entry["figcap"],
                kind=entry["kind"],
            )


RECIPE = Recipe(
    name=NAME,
    licence="CC BY 4.0 (OpenStax, Rice University; credit of each figure in meta.credit)",
    description="textbook figures and the first sentence of their alternative text",
    splits=("train", "test"),
    rows=rows,
    files=(FILE,),
)
