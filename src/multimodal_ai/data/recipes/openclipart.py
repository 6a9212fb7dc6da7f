"""Clip art with its title, or its description where that says more.

Source: `openclipart.zip`. Licence: public domain (CC0). Split: by title without numbers, by hash, 10% for
testing, so that the variants of one drawing stay together.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from multimodal_ai.data.recipes.common import ImageArchive, Recipe, RecipeContext, Row, caption_row, in_split

NAME = "openclipart"
FILE = "openclipart.zip"
_NAMELESS = re.compile(r"(various cliparts?|untitled|clip ?art|image|unknown|test)?[\s\d]*", re.I)


def caption(entry: dict[str, Any]) -> str:
    """The title in small letters, or the first sentence of a description, or nothing that helps."""
    title = " ".join(entry["caption"].replace("_", " ").split()).lower()
    description = entry["desc"].strip().split(". ")[0].rstrip(".")
    if 15 <= len(description) <= 120 and len(description) > len(title):
        return description
    return "" if _NAMELESS.fullmatch(title) else title


def rows(context: RecipeContext, split: str) -> Iterator[Row]:
    """One drawing a row, in the order of the archive."""
    archive = ImageArchive(context.file(FILE))
    for entry in archive.entries:
        group = re.sub(r"[\d\W_]+", " ", entry["caption"].lower()).strip()
        text = caption(entry)
        if text and in_split(f"{NAME} {group}", split, 0.1):
            yield caption_row(NAME, archive.image(entry), text, folder=entry["dir"])


RECIPE = Recipe(
    name=NAME,
    licence="public domain (CC0)",
    description="clip art and its title or description",
    splits=("train", "test"),
    rows=rows,
    files=(FILE,),
)
