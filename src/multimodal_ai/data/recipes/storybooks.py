"""Pages of picture books: what the picture shows, or the story's text where no caption was written.

Source: `storybooks.zip`. Licence: CC BY 4.0 (Book Dash, African Storybook). Split: by book, by hash, 10%
for testing; books of one title, and books that share a picture, are in one split.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator

from multimodal_ai.data.recipes.common import (
    ImageArchive,
    Recipe,
    RecipeContext,
    Row,
    caption_row,
    in_split,
    linked_groups,
)

NAME = "storybooks"
FILE = "storybooks.zip"


def title(book: str) -> str:
    """The title in a book's name: `en/0328_sizwes-smile.md` and `sizwes-smile` are the same book."""
    return re.sub(r"^(.*/)?(\d+_)?|\.md$", "", book)


def rows(context: RecipeContext, split: str) -> Iterator[Row]:
    """One page a row, in the order of the archive; `meta.kind` is `caption` or `story`."""
    archive = ImageArchive(context.file(FILE))
    images = [archive.image(entry) for entry in archive.entries]
    groups = linked_groups(
        [
            [entry["book"], f"title {title(entry['book'])}", f"picture {hashlib.sha256(image).hexdigest()}"]
            for entry, image in zip(archive.entries, images, strict=True)
        ]
    )
    for entry, image, group in zip(archive.entries, images, groups, strict=True):
        text = " ".join((entry["caption"].strip() or entry["text"].strip()).split())
        if text and in_split(f"{NAME} {group}", split, 0.1):
            kind = "caption" if entry["caption"].strip() else "story"
            yield caption_row(NAME, image, text, book=entry["book"], kind=kind, origin=entry["origin"])


RECIPE = Recipe(
    name=NAME,
    licence="CC BY 4.0 (Book Dash, African Storybook)",
    description="picture-book pages with a caption or the page's story",
    splits=("train", "test"),
    rows=rows,
    files=(FILE,),
)
