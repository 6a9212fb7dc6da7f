"""Emoji with their names.

Source: `emoji_noto.zip` (Noto Emoji). Licence: Apache-2.0 (images), OFL (font). Split: by name without skin
tone and person, by hash, 10% for testing: `man climbing` and `woman climbing` stay together.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from multimodal_ai.data.recipes.common import ImageArchive, Recipe, RecipeContext, Row, caption_row, in_split

NAME = "emoji_noto"
FILE = "emoji_noto.zip"
_PERSON = re.compile(r"\b(man|woman|person|men|women|people|boy|girl|:.*)\b|:.*")


def caption(entry: dict[str, Any]) -> str:
    """The emoji's name; one that lost its sign, such as a bare `keycap`, gets its keywords."""
    name = str(entry["caption"]).strip()
    if name in ("keycap", "flag", ""):
        return " ".join([name, *entry["kw"][:2]]).strip()
    return name


def rows(context: RecipeContext, split: str) -> Iterator[Row]:
    """One emoji a row, in the order of the archive."""
    archive = ImageArchive(context.file(FILE))
    for entry in archive.entries:
        name = caption(entry)
        if name and in_split(f"{NAME} {' '.join(_PERSON.sub('', name).split())}", split, 0.1):
            yield caption_row(NAME, archive.image(entry), name, keywords=entry["kw"])


RECIPE = Recipe(
    name=NAME,
    licence="Apache-2.0 / OFL-1.1 (Noto Emoji, Google)",
    description="emoji and their names",
    splits=("train", "test"),
    rows=rows,
    files=(FILE,),
)
