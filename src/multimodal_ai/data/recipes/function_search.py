"""Needs and the one card that serves each: short texts from catalogues of functions and of software packages.

One half of what a catalogue says about an entry becomes the request, the other half the card, so that little
but meaning connects them: the description against name and parameters, tags against the description, or all of
the card with words left out of the request. Where the card has required parameters the right reply asks for the
first of them, for no request states one. Meant for `functions.hidden`: the other cards of the batch are what a
request has to be told apart from.

Source: `sealtools_tools.jsonl.xz`, `sealtools_calls.jsonl.xz` (Seal-Tools, M. Wu et al. 2024; Apache-2.0) and
`debian_packages.jsonl.xz` (package metadata, mostly under the packages' free licences). Split: functions that
Seal-Tools' test requests call are the test split, packages by hash, 5%.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from random import Random
from typing import Any

from multimodal_ai.data.recipes import sealtools
from multimodal_ai.data.recipes.common import (
    Recipe,
    RecipeContext,
    Row,
    assistant,
    calling,
    function_name,
    in_split,
    read_jsonl_xz,
    row,
    shuffled,
    stream,
    tool,
    user,
)

NAME = "function_search"
PACKAGES = "debian_packages.jsonl.xz"
# packages that differ from their neighbours in nothing a person would ask for
LEFT_OUT = frozenset(("debug", "libdevel", "libs", "oldlibs", "doc", "localization", "kernel", "introspection"))
_ASKS = ("I need to {}.", "Can you {}?", "Please {}.", "I would like to {}.", "{}.", "Help me {}.", "How can I {}?")
_WANTS = ("I am looking for {}.", "I need {}.", "Is there something like {}?", "Find me {}.", "{}", "I want {}.")
_QUESTIONS = ("What is the {}?", "Which {} should I use?", "Please tell me the {}.")


def _thinned(text: str, rng: Random) -> str:
    """The text without some of its words."""
    share = rng.choice((0.0, 0.15, 0.3))
    return " ".join(word for word in text.split() if rng.random() >= share) or text


def _lower_first(text: str) -> str:
    """`Get a file` as it stands inside a sentence; `GNU tar` stays."""
    return text[:1].lower() + text[1:] if text[1:2].islower() or text[1:2] == " " else text


def _in_words(name: str) -> str:
    """`getFileSize` as `get file size`."""
    return " ".join(re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)).lower()


def _said(text: str, wrappers: tuple[str, ...], rng: Random) -> str:
    text = _thinned(text, rng).rstrip(".")
    said = rng.choice(wrappers).format(_lower_first(text))
    return said[:1].upper() + said[1:]


def _function_row(entry: dict[str, Any], rng: Random) -> Row:
    card = sealtools.convert(entry)["function"]
    properties, required = card["parameters"]["properties"], card["parameters"]["required"]
    described = card["description"]
    shape = rng.random()
    if shape < 0.5:  # the name and the parameters have to do
        request, described = _said(described, _ASKS, rng), ""
    elif shape < 0.75:  # the request says the name in words, with what the function works on
        about = rng.choice(list(properties.values()))["description"] if properties else entry["field"].split("/")[-1]
        request = _said(f"{_in_words(card['name'])} with {_lower_first(about)}", _ASKS, rng)
    else:
        request = _said(described, _ASKS, rng)
    shown = tool(card["name"], described, properties, required)
    if not required:
        return row(NAME, "call", [user(request), calling((card["name"], {}))], [shown], trigger="call")
    reply = assistant(rng.choice(_QUESTIONS).format(required[0].replace("_", " ")))
    meta = {"trigger": "ask_missing", "asks_for": [card["name"], required[0]]}
    return row(NAME, "call", [user(request), reply], [shown], **meta)


def _package_row(entry: dict[str, Any], rng: Random) -> Row:
    tags = [tag.split("::")[-1].replace("-", " ") for tag in entry["tags"] if not tag.startswith("role::")]
    kinds = ", ".join(dict.fromkeys([entry["section"], *shuffled(tags, entry["name"])[:6]]))
    described = entry["description"]
    shape = rng.random()
    if shape < 0.5:
        request, described = _said(described, _WANTS, rng), kinds
    elif shape < 0.7 and len(tags) > 2:
        request = _said(kinds, _WANTS, rng)
    else:
        request = _said(described, _WANTS, rng)
    name = function_name(entry["name"])
    return row(NAME, "call", [user(request), calling((name, {}))], [tool(name, described, {}, ())], trigger="call")


def rows(context: RecipeContext, split: str) -> Iterator[Row]:
    """Functions four times, each time told otherwise, among packages told once, in the seed's order."""
    held_out = sealtools.called(read_jsonl_xz(context.file(sealtools.CALLS)), "test")
    entries: list[tuple[str, int, dict[str, Any]]] = [
        ("function", time, entry)
        for entry in read_jsonl_xz(context.file(sealtools.TOOLS))
        if (entry["api_name"] in held_out) == (split == "test")
        for time in range(4)
    ]
    entries += [
        ("package", 0, entry)
        for entry in read_jsonl_xz(context.file(PACKAGES))
        if entry["section"] not in LEFT_OUT and in_split(f"{NAME} {entry['name']}", split, 0.05)
    ]
    stream(NAME, context.seed, split).shuffle(entries)
    for kind, time, entry in entries:
        name = entry["api_name"] if kind == "function" else entry["name"]
        rng = stream(NAME, context.seed, split, kind, name, time)
        yield _function_row(entry, rng) if kind == "function" else _package_row(entry, rng)


RECIPE = Recipe(
    name=NAME,
    licence="Apache-2.0 (Seal-Tools), package metadata under the packages' licences (Debian)",
    description="needs and the one card that serves each, for searching among many",
    splits=("train", "test"),
    rows=rows,
    files=(sealtools.TOOLS, sealtools.CALLS, PACKAGES),
)
