"""What a docstring says about a function and its parameters.

Reads the three styles in use (Google `Args:`, NumPy `Parameters` underlined, reST `:param name:`). Never
raises: a docstring in no style is all description.
"""

from __future__ import annotations

import inspect
import re

_GOOGLE = re.compile(r"^(args|arguments|parameters|params):\s*$", re.IGNORECASE)
_SECTION = re.compile(
    r"^(args|arguments|parameters|params|returns?|yields?|raises|notes?|examples?|see also|warnings?|references|"
    r"attributes|keyword args|other parameters):?\s*$",
    re.IGNORECASE,
)
_GOOGLE_ITEM = re.compile(r"^\*{0,2}(\w+)\s*(?:\([^)]*\))?\s*:\s*(.*)$")
_NUMPY_ITEM = re.compile(r"^\*{0,2}(\w+(?:\s*,\s*\w+)*)\s*(?::.*)?$")
_REST_ITEM = re.compile(r"^:(?:param|parameter|arg|argument|key|keyword)\s+(?:[^:]*\s)?(\w+)\s*:\s*(.*)$")
_REST_FIELD = re.compile(r"^:(\w[^:]*):")


def parse_docstring(docstring: str | None) -> tuple[str, dict[str, str]]:
    """Return `(description, {parameter: description})`, white space folded, in the docstring's order."""
    lines = inspect.cleandoc(docstring or "").splitlines()
    description: list[str] = []
    parameters: dict[str, list[str]] = {}
    index = 0
    in_description = True
    while index < len(lines):
        line = lines[index].strip()
        underlined = index + 1 < len(lines) and set(lines[index + 1].strip()) == {"-"}
        if underlined and _SECTION.match(line):
            in_description = False
            end = _section_end(lines, index + 2)
            if line.lower() == "parameters":
                _read_items(lines[index + 2 : end], _NUMPY_ITEM, parameters)
            index = end
        elif _SECTION.match(line) and line.endswith(":") and _indent(lines[index]) == 0:
            in_description = False
            end = index + 1
            while end < len(lines) and (not lines[end].strip() or _indent(lines[end]) > 0):
                end += 1
            if _GOOGLE.match(line):
                _read_items(lines[index + 1 : end], _GOOGLE_ITEM, parameters)
            index = end
        elif _REST_FIELD.match(line):
            in_description = False
            found = _REST_ITEM.match(line)
            text = [found.group(2)] if found else []
            index += 1
            while index < len(lines) and lines[index].strip() and not _REST_FIELD.match(lines[index].strip()):
                text.append(lines[index].strip())
                index += 1
            if found:
                parameters[found.group(1)] = text
        else:
            if in_description:
                description.append(line)
            index += 1
    return _fold(description), {name: _fold(text) for name, text in parameters.items()}


def _read_items(lines: list[str], pattern: re.Pattern[str], parameters: dict[str, list[str]]) -> None:
    """Read `name: text` items; lines indented deeper than an item continue it."""
    base = min((_indent(line) for line in lines if line.strip()), default=0)
    current: list[str] = []
    for line in lines:
        found = pattern.match(line.strip()) if line.strip() and _indent(line) == base else None
        if found:
            current = [found.group(2)] if pattern.groups > 1 else []
            for name in found.group(1).split(","):
                parameters[name.strip()] = current
        elif line.strip():
            current.append(line.strip())


def _section_end(lines: list[str], start: int) -> int:
    for index in range(start, len(lines) - 1):
        if _SECTION.match(lines[index].strip()) and set(lines[index + 1].strip()) == {"-"}:
            return index
    return len(lines)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _fold(lines: list[str]) -> str:
    """Join lines; an empty line between paragraphs becomes one line break."""
    paragraphs = "\n".join(lines).strip().split("\n\n")
    return "\n".join(" ".join(paragraph.split()) for paragraph in paragraphs if paragraph.strip())
