"""Summaries of encyclopedia articles.

Source: `wiki_summaries.jsonl.xz` (title, text, desc, topic). Licence: CC BY-SA 4.0 (Wikipedia contributors).
Split: by title, by hash, 3% for testing.
"""

from __future__ import annotations

from collections.abc import Iterator

from multimodal_ai.data.recipes.common import Recipe, RecipeContext, Row, in_split, read_jsonl_xz, text_row

NAME = "wiki_summaries"
FILE = "wiki_summaries.jsonl.xz"


def rows(context: RecipeContext, split: str) -> Iterator[Row]:
    """One summary a row, in the order of the file."""
    for entry in read_jsonl_xz(context.file(FILE)):
        text = entry["text"].strip()
        if len(text) >= 100 and in_split(f"{NAME} {entry['title']}", split, 0.03):
            yield text_row(NAME, text, title=entry["title"], topic=entry["topic"])


RECIPE = Recipe(
    name=NAME,
    licence="CC BY-SA 4.0 (Wikipedia contributors)",
    description="summaries of encyclopedia articles",
    splits=("train", "test"),
    rows=rows,
    files=(FILE,),
)
