"""Clip art with its title, or its description where that says more, or its file's name where the title is that of a
collection.

Source: `openclipart.zip`. Licence: public domain (CC0). Split: by title without numbers, by hash, 10% for
testing, so that the variants of one drawing stay together.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any

from multimodal_ai.data.recipes.common import ImageArchive, Recipe, RecipeContext, Row, caption_row, in_split

NAME = "openclipart"
FILE = "openclipart.zip"
COLLECTION = 8  # drawings of one title from which on it names a collection
_CREDIT = re.compile(r"@|https?:|www\.|^part of|^eps |inkscape|submission|data from", re.I)
_EMPTY = {"icon", "icons", "iconset", "theme", "svg", "clipart", "collection"}  # say nothing of what is drawn
_NAMELESS = re.compile(r"(various cliparts?|untitled|clip ?art|image|unknown|test)?[\s\d]*", re.I)


def caption(entry: dict[str, Any], collections: Collection[str] = ()) -> str:
    """The title in small letters, or the first sentence of a description, or nothing that helps.

    A description that credits someone is none. A title out of `collections` says what many drawings have in
    common: the name of the file takes its place, unless the file has a word of the title in its path.
    """
    title = " ".join(entry["caption"].replace("_", " ").split()).lower()
    description = " ".join(entry["desc"].split()).split(". ")[0].rstrip(".")
    if 15 <= len(description) <= 120 and len(description) > len(title) and not _CREDIT.search(description):
        return description
    if _NAMELESS.fullmatch(title):
        return ""
    if title in collections:
        path = entry["src"].lower()
        if not any(word in path for word in re.findall(r"[a-z]{3,}", title) if word not in _EMPTY):
            title = " ".join(re.findall(r"[a-z]+", path.rsplit(".", 1)[0].rsplit("__", 1)[-1]))
            return title if len(title) > 2 else ""
    return title


def rows(context: RecipeContext, split: str) -> Iterator[Row]:
    """One drawing a row, in the order of the archive."""
    archive = ImageArchive(context.file(FILE))
    titles = Counter(" ".join(entry["caption"].replace("_", " ").split()).lower() for entry in archive.entries)
    collections = {title for title, count in titles.items() if count >= COLLECTION}
    for entry in archive.entries:
        group = re.sub(r"[\d\W_]+", " ", entry["caption"].lower()).strip()
        text = caption(entry, collections)
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
