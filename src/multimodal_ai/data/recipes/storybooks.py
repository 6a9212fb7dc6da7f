"""Pages of picture books: what the picture shows, or the story's text where no caption was written.

Source: `storybooks.zip`. Licence: CC BY 4.0 (Book Dash, African Storybook). Split: by book, by hash, 10%
for testing.
"""

from __future__ import annotations

from collections.abc import Iterator

from multimodal_ai.data.recipes.common import ImageArchive, Recipe, RecipeContext, Row, caption_row, in_split

NAME = "storybooks"
FILE = "storybooks.zip"


def rows(context: RecipeContext, split: str) -> Iterator[Row]:
    """One page a row, in the order of the archive; `meta.kind` is `caption` or `story`."""
    archive = ImageArchive(context.file(FILE))
    for entry in archive.entries:
        text = " ".join((entry["caption"].strip() or entry["text"].strip()).split())
        if text and in_split(f"{NAME} {entry['book']}", split, 0.1):
            kind = "caption" if entry["caption"].strip() else "story"
            yield caption_row(NAME, archive.image(entry), text, book=entry["book"], kind=kind, origin=entry["origin"])


RECIPE = Recipe(
    name=NAME,
    licence="CC BY 4.0 (Book Dash, African Storybook)",
    description="picture-book pages with a caption or the page's story",
    splits=("train", "test"),
    rows=rows,
    files=(FILE,),
)
