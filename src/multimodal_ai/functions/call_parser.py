"""From token ids back to text and calls, one token at a time.

The other half of `grammar`: it follows what was generated and says where the next token stands, which is what
streaming and the copy head need. No text is ever searched for marks: a call begins and ends with special
tokens, and everything between is read by a state machine over bytes.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from multimodal_ai.functions.call_scanner import CallScanner
from multimodal_ai.functions.schema import FunctionSpec

CALL_MARKS = ("<function_call>", "</function_call>")


class _Specials(Protocol):
    @property
    def end(self) -> int: ...
    @property
    def call(self) -> int: ...
    @property
    def call_end(self) -> int: ...


class TokenizerLike(Protocol):
    """What this module needs of a tokenizer; special tokens are those whose `token_bytes` are empty."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def special(self) -> _Specials: ...
    @property
    def fingerprint(self) -> str: ...
    def encode(self, text: str) -> list[int]: ...
    def token_bytes(self, id: int, /) -> bytes: ...


@dataclass(frozen=True)
class ParserEvent:
    """What a token brought to light.

    `kind`: "text" (`text` is a piece of the content), "call_start" (`name`), "arguments" (`text` is a piece of
    the arguments' JSON), "call_end" (`name`, `arguments`), "call_error" (`text` says why it is no call).
    `index` counts calls from 0.
    """

    kind: Literal["text", "call_start", "arguments", "call_end", "call_error"]
    text: str = ""
    index: int = 0
    name: str | None = None
    arguments: dict[str, Any] | None = None


class CallParser:
    """Follows a reply token by token: content, calls, and where inside a call the next token stands.

    `state` is "text" outside calls, "name" from `<function_call>` on, "arguments" from the arguments' opening
    brace on. The other attributes describe the call that is open (see CallScanner): `name_prefix`,
    `parameter`, `value_text`, `value_start`, `in_string`, `key_prefix`, `written`, and `function`, the
    FunctionSpec once the name is complete and known. Any other special token than the call's marks ends the text
    before it.
    """

    def __init__(self, tokenizer: TokenizerLike, functions: Iterable[FunctionSpec] = ()) -> None:
        self._tokenizer = tokenizer
        self._call = tokenizer.special.call
        self._call_end = tokenizer.special.call_end
        self._functions = {spec.name: spec for spec in functions}
        self._scanner: CallScanner | None = None
        self._pending: list[str] = []
        self._started = False
        self._count = 0
        self._text = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, id: int) -> list[ParserEvent]:
        """Take one token; returns what it completes, in order."""
        if id == self._call:
            events = self.close()
            self._scanner = CallScanner()
            self._started = False
            return events
        if id == self._call_end:
            return self._finish_call()
        piece = self._tokenizer.token_bytes(id)
        if self._scanner is None:
            text = self._text.decode(piece, final=not piece)
            return [ParserEvent("text", text)] if text else []
        if not piece:
            return self.close()
        return self._advance(self._scanner, piece)

    def close(self) -> list[ParserEvent]:
        """The reply is over: what is left of the text, or the error of a call that was cut."""
        if self._scanner is not None:
            return self._finish_call()
        text = self._text.decode(b"", final=True)
        return [ParserEvent("text", text)] if text else []

    def _advance(self, scanner: CallScanner, piece: bytes) -> list[ParserEvent]:
        text = scanner.push(piece)
        events = []
        if not self._started and scanner.name is not None:
            self._started = True
            events.append(ParserEvent("call_start", index=self._count, name=scanner.name))
        if text:
            self._pending.append(text)
        if self._started and self._pending:
            events.append(ParserEvent("arguments", "".join(self._pending), self._count, scanner.name))
            self._pending.clear()
        return events

    def _finish_call(self) -> list[ParserEvent]:
        scanner, self._scanner = self._scanner, None
        self._pending.clear()
        if scanner is None:
            return []
        index, self._count = self._count, self._count + 1
        try:
            arguments = scanner.arguments()
        except ValueError as error:
            return [ParserEvent("call_error", str(error), index, scanner.name)]
        return [ParserEvent("call_end", scanner.arguments_text(), index, scanner.name, arguments)]

    @property
    def state(self) -> Literal["text", "name", "arguments"]:
        """Where the next token stands."""
        if self._scanner is None:
            return "text"
        return "arguments" if self._scanner.state == "arguments" else "name"

    @property
    def name_prefix(self) -> str:
        """What is there of the open call's function name."""
        return self._scanner.name_prefix if self._scanner else ""

    @property
    def function(self) -> FunctionSpec | None:
        """The open call's function, once its name is complete and known."""
        return self._functions.get(self._scanner.name or "") if self._scanner else None

    @property
    def parameter(self) -> str | None:
        """The top-level argument whose value is being written, None outside values."""
        return self._scanner.parameter if self._scanner else None

    @property
    def value_text(self) -> str:
        """The JSON text of that value so far."""
        return self._scanner.value_text if self._scanner else ""

    @property
    def value_start(self) -> bool:
        """Nothing of the value is there yet but perhaps its opening quote."""
        return self._scanner.value_start if self._scanner else False

    @property
    def in_string(self) -> bool:
        """Inside a string that is a value: the name, or anything in the arguments."""
        return self._scanner.in_string if self._scanner else False

    @property
    def key_prefix(self) -> str | None:
        """What is there of a top-level argument's key, None when no key can stand here."""
        return self._scanner.key_prefix if self._scanner else None

    @property
    def written(self) -> tuple[str, ...]:
        """Top-level arguments of the open call that are there already."""
        return self._scanner.written if self._scanner else ()


@dataclass(frozen=True)
class ParsedCall:
    """A call that was read: the function's name and its arguments."""

    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class ParsedReply:
    """A whole reply: its text, its calls in order, and why anything between the marks was no call."""

    content: str
    calls: list[ParsedCall] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def parse_calls(
    reply: str | Iterable[int], tokenizer: TokenizerLike | None = None, functions: Iterable[FunctionSpec] = ()
) -> ParsedReply:
    """Read a whole reply, from token ids (with their tokenizer) or from text with the marks written out.

    The text form is for files and for other people's output; in a reply of this package's own, marks are ids.
    """
    if isinstance(reply, str):
        return _parse_text(reply)
    if tokenizer is None:
        raise ValueError("token ids were given without a tokenizer; pass tokenizer=")
    parser = CallParser(tokenizer, functions)
    events = [event for id in reply for event in parser.push(id)] + parser.close()
    return ParsedReply(
        content="".join(event.text for event in events if event.kind == "text"),
        calls=[ParsedCall(event.name or "", event.arguments or {}) for event in events if event.kind == "call_end"],
        errors=[event.text for event in events if event.kind == "call_error"],
    )


def _parse_text(text: str) -> ParsedReply:
    opening, closing = CALL_MARKS
    content: list[str] = []
    calls: list[ParsedCall] = []
    errors: list[str] = []
    position = 0
    while (found := text.find(opening, position)) >= 0:
        content.append(text[position:found])
        position = found + len(opening)
        try:
            # The end is found by reading the JSON: a string inside it may hold the closing mark.
            value, end = json.JSONDecoder().raw_decode(text, position)
        except (ValueError, RecursionError):
            end = text.find(closing, position)
            end, value = (len(text) if end < 0 else end), None
        problem = ""
        if not isinstance(value, dict) or not isinstance(value.get("name"), str):
            problem = "not a JSON object with a name"
        elif not isinstance(value.get("arguments"), dict):
            problem = f"call of {value['name']}: arguments are no JSON object"
        elif not text.startswith(closing, end):
            problem = f"call of {value['name']}: {closing} is missing"
        if problem:
            errors.append(problem)
        elif isinstance(value, dict):
            calls.append(ParsedCall(value["name"], value["arguments"]))
        position = end + len(closing) if text.startswith(closing, end) else end
    content.append(text[position:])
    return ParsedReply("".join(content), calls, errors)
