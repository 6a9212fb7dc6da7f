"""Where the values of a call came from, and a conversation with its functions' results hidden.

Results and descriptions are written by others. A value that stands in one and not in what the user or the
system said counts as theirs, whoever copied it: the pointer can add to that verdict, never soften it. It looks
at words, and at dates, times and numbers by their value (11:30 stands in "half past eleven"), so it errs on the
side of asking; a value that was rephrased or put together from pieces is not recognised.
"""

from __future__ import annotations

import datetime
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from multimodal_ai.functions.json_schema import iter_subschemas
from multimodal_ai.functions.lexical import words
from multimodal_ai.functions.normalise import Fact, facts_of, is_stated
from multimodal_ai.functions.schema import FunctionSpec

Origin = Literal["user", "system", "function_result", "function_description", "generated"]
FOREIGN: dict[Origin, str] = {"function_result": "result", "function_description": "description"}
_ORIGINS: dict[str, Origin] = {"user": "user", "system": "system", "developer": "system", "tool": "function_result"}
_SHORTEST_PHRASE = 4  # characters; below that only whole words count, or "1" would stand in every result


@dataclass(frozen=True)
class Provenance:
    """What was said in a conversation, by whom. Texts are normalised (NFKC, case folded).

    `facts`: the dates, times and numbers that people and results state, days counted from `today`.
    `choices`: values that schemas offer (`enum`, `const`, `default`), which are nobody's order.
    `results_read`: whether a function's result stands in it, be it an empty one.
    """

    texts: Mapping[Origin, str]
    words: Mapping[Origin, frozenset[str]]
    facts: Mapping[Origin, frozenset[Fact]]
    today: datetime.date
    choices: frozenset[str]
    results_read: bool

    @classmethod
    def of(
        cls,
        messages: Sequence[Mapping[str, Any]],
        specs: Sequence[FunctionSpec] = (),
        today: datetime.date | None = None,
    ) -> Provenance:
        """Read a conversation in the chat-completions shape. The model's own turns are nobody's word.

        `today`: the day that "tomorrow" is counted from, the present one by default.
        """
        today = today or datetime.date.today()
        described = [_described(spec) for spec in specs]
        said: dict[Origin, list[str]] = {"user": [], "system": [], "function_result": []}
        said["function_description"] = [text for texts, _ in described for text in texts]
        for message in messages:
            origin = _ORIGINS.get(str(message.get("role")))
            if origin is not None:
                said[origin].append(text_of(message.get("content")))
        facts: dict[Origin, frozenset[Fact]] = {
            origin: frozenset[Fact]().union(*(facts_of(_normal(part), today) for part in parts))
            for origin, parts in said.items()
            if origin != "function_description"
        }
        texts = {origin: _normal("\n".join(parts)) for origin, parts in said.items()}
        found = {origin: frozenset(words(text)) for origin, text in texts.items()}
        choices = frozenset(choice for _, given in described for choice in given)
        return cls(texts, found, facts, today, choices, bool(said["function_result"]))

    def origin(self, value: Any, pointer: Origin = "generated") -> Origin:
        """Where an argument came from. `pointer`: what the model's own pointer says of it.

        "function_result" where any word of it, or all of it, stands in a result and neither user nor system said
        it; "function_description" where all of it stands in a description. A date, time or number stands wherever
        its value does. Booleans and null are never anybody's.
        """
        leaves = [_normal(leaf) for leaf in _leaves(value)]
        if pointer == "function_result" or any(self._is_foreign(leaf) for leaf in leaves):
            return "function_result"
        if any(self._says("function_description", leaf) and not self._is_known(leaf) for leaf in leaves):
            return "function_description"
        if pointer != "generated" or not any(leaves):
            return pointer
        for origin in ("user", "system"):
            if all(self._says(origin, leaf) for leaf in leaves):
                return origin
        return "generated"

    def _says(self, origin: Origin, leaf: str) -> bool:
        """Whether a text holds all of this as words of its own ("1" does not stand in 10:31), or its value."""
        verbatim = leaf in self.texts[origin] and self.words[origin].issuperset(words(leaf))
        return verbatim or is_stated(leaf, self.facts.get(origin, frozenset()), self.today)

    def _is_known(self, leaf: str) -> bool:
        return leaf in self.choices or self._says("user", leaf) or self._says("system", leaf)

    def _is_foreign(self, leaf: str) -> bool:
        if is_stated(leaf, self.facts["user"] | self.facts["system"], self.today):
            return False
        if is_stated(leaf, self.facts["function_result"], self.today) and not self._is_known(leaf):
            return True
        known = self.words["user"] | self.words["system"]
        if any(word in self.words["function_result"] and word not in known for word in words(leaf)):
            return True
        phrase = len(leaf) >= _SHORTEST_PHRASE or not leaf.isascii()
        said = leaf in self.texts["user"] or leaf in self.texts["system"]
        return phrase and leaf in self.texts["function_result"] and not said


def mask_results(
    messages: Sequence[Mapping[str, Any]], images: Sequence[Any] = ()
) -> tuple[list[dict[str, Any]], list[Any]]:
    """The conversation with the content of every result emptied, and the images that are left.

    `images` are those of all image parts without a picture of their own, in order; a result's go with it.
    """
    kept, hidden = list(images), []
    place = 0
    for message in messages:
        parts = message.get("content")
        for part in parts if isinstance(parts, (list, tuple)) else ():
            if isinstance(part, Mapping) and part.get("type") == "image" and part.get("image") is None:
                if message.get("role") == "tool":
                    hidden.append(place)
                place += 1
    for index in reversed(hidden):
        if index < len(kept):
            del kept[index]
    return [
        {**message, "content": ""} if message.get("role") == "tool" else dict(message) for message in messages
    ], kept


@lru_cache(maxsize=4096)
def _described(spec: FunctionSpec) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The descriptions in a function, and the values its schema offers, normalised."""
    texts, choices = [spec.description], list[str]()
    for _, node in iter_subschemas(spec.parameters):
        if isinstance(node, Mapping):
            texts.append(str(node.get("description") or ""))
            given = [*(node.get("enum") or ()), node.get("const"), node.get("default")]
            choices += [_normal(leaf) for value in given for leaf in _leaves(value)]
    return tuple(texts), tuple(choices)


def text_of(content: Any) -> str:
    """The text of a message's content, be it a string, a list of parts or nothing."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, (list, tuple)) else ()
    return " ".join(str(part.get("text") or "") if isinstance(part, Mapping) else str(part) for part in parts)


def _leaves(value: Any) -> Iterator[str]:
    """The strings and numbers in a JSON value as text, names of keys too: a result may have given them."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield str(key)
            yield from _leaves(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _leaves(item)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
    elif isinstance(value, str) and value:
        yield value


def _normal(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()
