"""Prose from the docstrings and help topics of the installed Python standard library.

Files are parsed, never imported: no module code runs. Docstrings are cut into paragraphs; code, tables,
lists and prompts are left out, markup is taken off. What comes out depends on the Python version.

Source: the Python standard library on this machine. Licence: PSF-2.0. Split: by module, by hash.
"""

from __future__ import annotations

import ast
import inspect
import re
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

from multimodal_ai.data.recipes.common import Recipe, RecipeContext, Row, in_split, shuffled, text_row

NAME = "stdlib_text"
MIN_CHARACTERS, MAX_CHARACTERS = 100, 800
_SKIP = {"site-packages", "dist-packages", "test", "tests", "__pycache__"}
_ROLE = re.compile(r":[\w:+-]+:`~?([^`]+)`")
_LITERAL = re.compile(r"``([^`]+)``|`([^`]+)`_?")
_EMPHASIS = re.compile(r"(?<!\w)\*{1,2}(?=\S)([^*\n]+?)(?<=\S)\*{1,2}(?!\w)")
_NOT_PROSE = re.compile(
    r">>>|\.\. |::|\.\.\.|[|=+_~^-]{4}|^\s*[-*•+] |^\s*\w+\s+-- |->|\{|\}|@param|:param|={2}|https?://", re.M
)


def _prose(block: str) -> str:
    """A block of lines as one line without markup, or an empty string where it is no prose."""
    if block.startswith("    ") or _NOT_PROSE.search(block):
        return ""
    joined = " ".join(block.split())
    joined = _EMPHASIS.sub(r"\1", _LITERAL.sub(lambda m: m[1] or m[2], _ROLE.sub(r"\1", joined)))
    letters = sum(char.isalpha() or char == " " for char in joined)
    if len(joined) < 20 or joined[-1] not in ".!?" or letters < 0.84 * len(joined):
        return ""
    return joined[0].upper() + joined[1:]


def paragraphs(text: str) -> Iterator[str]:
    """Prose of a docstring or help page: 100 to 800 characters on one line, no markup.

    Neighbouring blocks are joined while they fit; a block that is too long is cut between sentences.
    """
    held = ""
    for block in re.split(r"\n[ \t]*\n", inspect.cleandoc(text)):
        prose = _prose(block)
        pieces = [prose] if len(prose) <= MAX_CHARACTERS else re.split(r"(?<=[.!?]) (?=[A-Z])", prose)
        for piece in pieces:
            if piece and held and len(held) + 1 + len(piece) <= MAX_CHARACTERS:
                held += " " + piece
                continue
            if MIN_CHARACTERS <= len(held) <= MAX_CHARACTERS:
                yield held
            held = piece
    if MIN_CHARACTERS <= len(held) <= MAX_CHARACTERS:
        yield held


def modules() -> list[tuple[str, Path]]:
    """Name and file of every module of the standard library, sorted by name."""
    root = Path(sysconfig.get_paths()["stdlib"])
    found = []
    for path in root.rglob("*.py"):
        parts = path.relative_to(root).with_suffix("").parts
        if not _SKIP.intersection(parts) and not any("config-" in part for part in parts):
            found.append((".".join(part for part in parts if part != "__init__"), path))
    return sorted(found)


def _texts(path: Path) -> Iterator[str]:
    """Docstrings of a file, and the long texts of `pydoc`'s help topics."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError, ValueError, OSError):
        return
    topics = path.parent.name == "pydoc_data"
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node, clean=False)
            if docstring and len(docstring) >= MIN_CHARACTERS:
                yield docstring
        elif topics and isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def split_paragraphs(split: str, wanted: Callable[[str], bool] = lambda _: True) -> Iterator[tuple[str, str]]:
    """(module, paragraph) of a split, each text once; `wanted` tells by its name which modules to read."""
    seen: set[str] = set()
    for module, path in modules():
        if not wanted(module):
            continue
        # A help topic is a module of its own for the split: they all stand in one file.
        topics = path.parent.name == "pydoc_data"
        for text in _texts(path):
            group = f"{NAME} {module} {text[:60] if topics else ''}"
            mine = in_split(group, split, 0.1)
            for paragraph in paragraphs(text):
                if paragraph not in seen:
                    seen.add(paragraph)
                    if mine:
                        yield module, paragraph


def rows(context: RecipeContext, split: str) -> Iterator[Row]:
    """Each text once, in the seed's order; `meta.module` names where it stands."""
    for module, paragraph in shuffled(split_paragraphs(split), NAME, context.seed, split):
        yield text_row(NAME, paragraph, module=module)


RECIPE = Recipe(
    name=NAME,
    licence="PSF-2.0 (Python documentation)",
    description="paragraphs of the standard library's docstrings and help topics",
    splits=("train", "test"),
    rows=rows,
)
