"""What all recipes share: the recipe itself, row builders, splits by hash, readers of packed files.

A recipe turns one source into rows of the message schema. It must be a pure function of
(source files, seed): no network, no clock, no global random state, so that two machines build the
same dataset, and what decides a split is a hash of a name and never a random draw per row.
"""

from __future__ import annotations

import functools
import hashlib
import json
import lzma
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import yaml

from multimodal_ai.data.messages import Sample

Row = dict[str, Any]

TRIGGERS = ("answer", "call", "ask_missing", "cannot")

NO_FUNCTION = (
    "Sorry, I have no function for that.",
    "I can't do that with the functions I have.",
    "None of my functions can do that.",
)


@dataclass(frozen=True)
class RecipeContext:
    """What a build depends on besides the code.

    `source` is the folder that holds the data files (unused by recipes over installed packages),
    `limit` the largest number of samples per split, and `tasks` keeps only samples of these tasks.
    """

    source: Path | None = None
    seed: int = 0
    limit: int | None = None
    tasks: frozenset[str] | None = None

    def file(self, name: str) -> Path:
        """Path of a data file; ValueError says which folder was searched and how to name another."""
        if self.source is None:
            raise ValueError(f"this recipe reads {name}; name the folder that holds it with --from FOLDER")
        path = Path(self.source) / name
        if not path.is_file():
            raise ValueError(f"{path}: no such file; name the folder that holds {name} with --from FOLDER")
        return path


@dataclass(frozen=True)
class Recipe:
    """One source of data: where it comes from, under which licence, and how it becomes samples.

    `rows(context, split)` yields plain rows; `sizes` gives the default number of samples per split of
    a generated source that could go on for ever, and is empty for a finite one. `files` names what the
    recipe reads from the `--from` folder.
    """

    name: str
    licence: str
    description: str
    splits: tuple[str, ...]
    rows: Callable[[RecipeContext, str], Iterator[Row]]
    files: tuple[str, ...] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)

    def build(self, context: RecipeContext, split: str) -> Iterator[Sample]:
        """Validated samples of one split, in an order fixed by `context.seed`.

        Raises ValueError for a split the recipe does not have, or for a missing file.
        """
        for number, row in enumerate(self.raw_rows(context, split), 1):
            yield Sample.from_row(row, f"row {number:,} of {self.name}/{split}")

    def raw_rows(self, context: RecipeContext, split: str) -> Iterator[Row]:
        """The same rows before validation, with `tasks` and `limit` applied."""
        if split not in self.splits:
            raise ValueError(f"recipe {self.name} has no split {split!r}; it has {', '.join(self.splits)}")
        for name in self.files:
            context.file(name)
        rows = self.rows(context, split)
        if context.tasks is not None:
            rows = (row for row in rows if row["task"] in context.tasks)
        return islice(rows, context.limit if context.limit is not None else self.sizes.get(split))


# -- rows -------------------------------------------------------------------------------------------


def row(
    source: str,
    task: str,
    messages: list[dict[str, Any]],
    tools: Sequence[Mapping[str, Any]] = (),
    images: Sequence[bytes] = (),
    **meta: Any,
) -> Row:
    """One row of the message schema; `meta` gets the source's name."""
    return {
        "messages": messages,
        "tools": list(tools),
        "images": list(images),
        "task": task,
        "meta": {"source": source, **meta},
    }


def text_row(source: str, text: str, /, **meta: Any) -> Row:
    """Plain text for pretraining: one assistant message and no question."""
    return row(source, "text", [assistant(text)], **meta)


def caption_row(source: str, image: bytes, caption: str, /, **meta: Any) -> Row:
    """An image and the text that belongs to it."""
    return row(source, "caption", [user(None, 1), assistant(caption)], images=[image], **meta)


def call_or_refuse(
    source: str,
    rng: Random,
    ask: str,
    card: dict[str, Any],
    arguments: Mapping[str, Any],
    others: Sequence[dict[str, Any]],
    image: bytes,
    **meta: Any,
) -> Row:
    """A request about an image and its call among other functions, or for one in ten, without it, a refusal."""
    if rng.random() < 0.1:
        turns = [user(ask, 1), assistant(rng.choice(NO_FUNCTION))]
        return row(source, "call", turns, others, [image], trigger="cannot", **meta)
    tools = [card, *others]
    rng.shuffle(tools)
    turns = [user(ask, 1), calling((card["function"]["name"], arguments))]
    return row(source, "call", turns, tools, [image], trigger="call", **meta)


def user(text: str | None, images: int = 0) -> dict[str, Any]:
    """A user message with its images first."""
    if not images:
        return {"role": "user", "content": text or ""}
    parts: list[dict[str, Any]] = [{"type": "image"} for _ in range(images)]
    if text:
        parts.append({"type": "text", "text": text})
    return {"role": "user", "content": parts}


def assistant(text: str, train: bool = True) -> dict[str, Any]:
    """An assistant message; `train=False` marks a turn that is only context."""
    message: dict[str, Any] = {"role": "assistant", "content": text}
    return message if train else {**message, "train": False}


def calling(*calls: tuple[str, Mapping[str, Any]], train: bool = True) -> dict[str, Any]:
    """An assistant message of function calls `(name, arguments)` with ids `call_1`, `call_2`, …"""
    message: dict[str, Any] = {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {"id": f"call_{number}", "name": name, "arguments": dict(arguments)}
            for number, (name, arguments) in enumerate(calls, 1)
        ],
    }
    return message if train else {**message, "train": False}


def result(name: str, value: Any, number: int = 1) -> dict[str, Any]:
    """What the function of call `number` returned, as a `tool` message of compact JSON."""
    content = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return {"role": "tool", "tool_call_id": f"call_{number}", "name": name, "content": content}


def tool(
    name: str, description: str, properties: Mapping[str, Any], required: Sequence[str], side_effect: bool = False
) -> dict[str, Any]:
    """A function card in the chat-completions shape."""
    function: dict[str, Any] = {
        "name": name,
        "description": description,
        "parameters": {
            "type": "object",
            "properties": dict(properties),
            "required": list(required),
            "additionalProperties": False,
        },
    }
    if side_effect:
        function["side_effect"] = True
    return {"type": "function", "function": function}


def function_name(name: str) -> str:
    """A name that every API accepts: only letters, digits, `_` and `-`, at most 64 of them."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", name)[:64]


def offer(
    rng: Random, gold: Sequence[dict[str, Any]], others: Sequence[dict[str, Any]], count: int
) -> list[dict[str, Any]]:
    """The gold cards among `count` distractors drawn from `others`, shuffled; names never repeat."""
    names = {card["function"]["name"] for card in gold}
    listed = list(gold)
    for other in rng.sample(list(others), min(len(others), count + len(names) + 4)):
        if len(listed) - len(gold) < count and other["function"]["name"] not in names:
            names.add(other["function"]["name"])
            listed.append(other)
    rng.shuffle(listed)
    return listed


# -- chance and splits ------------------------------------------------------------------------------


def stream(*key: object) -> Random:
    """A random stream that belongs to this key alone, the same on every machine."""
    return Random("/".join(map(str, key)))


@functools.lru_cache(maxsize=1 << 18)
def hash_fraction(key: str) -> float:
    """A number in [0, 1) from the SHA-256 of `key`."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64


def in_split(key: str, split: str, test_share: float = 0.2, calibration_share: float = 0.0) -> bool:
    """Whether the group `key` belongs to `split`: `test` takes `test_share` of all groups by hash, `calibration`
    the `calibration_share` behind it, `train` the rest.
    """
    place = hash_fraction(key)
    if place < test_share:
        return split == "test"
    return split == ("calibration" if place < test_share + calibration_share else "train")


def linked_groups(names: Sequence[Sequence[str]]) -> list[str]:
    """A group for each item, the same for items that share a name, be it through others.

    The names of an item say what must not be told apart by a split (a misspelt company has the same address as the
    right one). A group is called after the commonest first name among its items.
    """
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        parent.setdefault(name, name)
        while parent[name] != name:
            parent[name] = name = parent[parent[name]]
        return name

    for first, *others in names:
        for other in others:
            parent[root(other)] = root(first)
    counts: dict[str, Counter[str]] = {}
    for item in names:
        counts.setdefault(root(item[0]), Counter())[item[0]] += 1
    called = {group: min(count, key=lambda name: (-count[name], name)) for group, count in counts.items()}
    return [called[root(item[0])] for item in names]


def shuffled(items: Iterable[Any], *key: object) -> list[Any]:
    """A copy in the order of the random stream `key`."""
    items = list(items)
    stream(*key).shuffle(items)
    return items


# -- files -----------------------------------------------------------------------------------


def read_yaml(name: str) -> Any:
    """The value of a YAML file that stands beside the recipes."""
    text = files(__package__).joinpath(name).read_text(encoding="utf-8")
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def read_jsonl_xz(path: Path) -> Iterator[dict[str, Any]]:
    """Objects of an LZMA-compressed JSON Lines file."""
    with lzma.open(path, "rt", encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"line {number:,} of {path.name}: not a JSON object ({error.msg})") from None


def read_json_xz(path: Path) -> Any:
    """The value of an LZMA-compressed JSON file."""
    with lzma.open(path, "rt", encoding="utf-8") as file:
        return json.load(file)


def read_lines_xz(path: Path) -> Iterator[str]:
    """Lines of an LZMA-compressed text file, without their line ends."""
    with lzma.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            yield line.rstrip("\n")


class ImageArchive:
    """A ZIP of images with `index.jsonl`, one object a line whose `image` names the file."""

    def __init__(self, path: Path) -> None:
        self._zip = zipfile.ZipFile(path)
        self.entries: list[dict[str, Any]] = [
            json.loads(line) for line in self._zip.read("index.jsonl").decode("utf-8").splitlines() if line
        ]

    def image(self, entry: Mapping[str, Any]) -> bytes:
        """The encoded image of an entry, as stored."""
        return self._zip.read(entry["image"])

    def json(self, name: str) -> Any:
        """Another JSON file of the archive."""
        return json.loads(self._zip.read(name))
