"""Classic fiction: 232 books of the public domain, as paragraphs of 200 to 2,000 characters.

Short paragraphs are joined with the next; dialogue stays together with what surrounds it.

Source: `books.txt.xz`, books separated by a line `<|doc|>`. Licence: public domain. Split: by book, by
the hash of its title, 4% for testing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from multimodal_ai.data.recipes.common import Recipe, RecipeContext, Row, in_split, read_lines_xz, text_row

NAME = "books"
FILE = "books.txt.xz"
BOUNDARY = "<|doc|>"
MIN_CHARACTERS, MAX_CHARACTERS = 200, 2_000
_MARKUP = re.compile(r"^(#|-{3,}|\*{3,}|\s*$)")
_EMPHASIS = re.compile(r"(?<!\w)[_*]{1,2}([^_*\n]+)[_*]{1,2}(?!\w)")


def passages(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """(title, passage) of a stream of lines; headings and rules are left out."""
    title, held = "", ""
    for line in lines:
        if line.startswith("# Title:") or line == BOUNDARY:
            if held:
                yield title, held
            title, held = line.removeprefix("# Title:").strip(), ""
            continue
        if _MARKUP.match(line):
            continue
        paragraph = _EMPHASIS.sub(r"\1", " ".join(line.split()))
        if held and len(held) + len(paragraph) > MAX_CHARACTERS:
            yield title, held
            held = ""
        if len(paragraph) > MAX_CHARACTERS:
            *whole, paragraph = _cut(paragraph)
            yield from ((title, piece) for piece in whole)
        held = f"{held}\n{paragraph}" if held else paragraph
        if len(held) >= MAX_CHARACTERS // 2:
            yield title, held
            held = ""
    if held:
        yield title, held


def _cut(paragraph: str) -> list[str]:
    """A long paragraph cut between sentences."""
    pieces = [""]
    for sentence in re.split(r"(?<=[.!?”\"]) (?=[A-Z“\"])", paragraph):
        if pieces[-1] and len(pieces[-1]) + len(sentence) > MAX_CHARACTERS:
            pieces.append("")
        pieces[-1] = f"{pieces[-1]} {sentence}".strip()
    return pieces


def rows(context: RecipeContext, split: str) -> Iterator[Row]:
    """Passages in the order of the books."""
    for title, passage in passages(read_lines_xz(context.file(FILE))):
        if len(passage) >= MIN_CHARACTERS and in_split(f"{NAME} {title}", split, 0.04):
            yield text_row(NAME, passage, book=title)


RECIPE = Recipe(
    name=NAME,
    licence="public domain",
    description="passages of classic fiction",
    splits=("train", "test"),
    rows=rows,
    files=(FILE,),
)
