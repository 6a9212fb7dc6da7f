"""What goes into the engine and what comes out: requests, replies, calls and the pieces of a stream."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from multimodal_ai.functions.provenance import Origin
from multimodal_ai.functions.schema import FunctionSpec


@dataclass
class Request:
    """One request, in the shape of the chat-completions API.

    messages: role, content (text or parts), tool_calls; the images of all parts, in order, either inside the
    parts or in `images`. tools: functions the model may call. tool_choice: "auto", "none", "required",
    {"name": …}, or allowed_tools. response_format: None, json_object or json_schema in the chat-completions
    form; it binds text and leaves calls as they are. temperature 0 is greedy; temperature is applied first, then
    top_k (0: off), then top_p. logprobs: keep them, with the top_logprobs likeliest tokens of each place in text.
    call_threshold, side_effect_threshold: under "auto" the reply calls a function where the trigger's probability
    reaches the threshold of the likeliest one, which is the second for functions with side effects (None: the first).
    today: the day that "tomorrow" in the conversation is counted from; by default the present one.
    attention: give for every call's arguments what the model looked at, which takes one more pass; see `Call`.
    strings: "copied" lets arguments of type string without enum, pattern, format or length hold only whole words in a
    row of the conversation (its last 4,000 characters, results included), or a date, time or number that it spells
    out. With an image in the conversation strings stay free, since values may come from the picture. None: as the
    engine's `strings` says.
    """

    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any] | FunctionSpec] = ()
    images: Sequence[Any] = ()
    tool_choice: str | Mapping[str, Any] = "auto"
    parallel_tool_calls: bool = True
    max_tokens: int = 256
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: bool = False
    top_logprobs: int = 0
    call_threshold: float = 0.5
    side_effect_threshold: float | None = None
    response_format: Mapping[str, Any] | None = None
    today: datetime.date | None = None
    strings: Literal["free", "copied"] | None = None
    attention: bool = False

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("temperature", self.temperature, 0.0, 100.0),
            ("top_p", self.top_p, 1e-6, 1.0),
            ("top_k", self.top_k, 0, 1 << 31),
            ("max_tokens", self.max_tokens, 1, 1 << 20),
            ("top_logprobs", self.top_logprobs, 0, 20),
            ("call_threshold", self.call_threshold, 0.0, 1.0),
            ("side_effect_threshold", self.side_effect_threshold or 0.0, 0.0, 1.0),
        ):
            if not low <= value <= high:
                raise ValueError(f"{name} is {value}; it must lie between {low} and {high}")
        if self.strings not in (None, "free", "copied"):
            raise ValueError(f"strings is {self.strings!r}; it must be free or copied")
        if "" in self.stop:
            raise ValueError("stop holds an empty text, which would stop at once; drop it")


@dataclass(frozen=True)
class ArgumentSource:
    """Where an argument came from, and how sure the model is of it.

    copied: share of its tokens that the pointer took from the source; confidence: mean probability of those that the
    grammar left open, 1 where it left none.
    """

    origin: Origin
    copied: float
    confidence: float = 1.0


@dataclass(frozen=True)
class SeenWord:
    """Characters [start, end) of a text part of a message, by their numbers, and the weight that the word got."""

    message: int
    part: int
    start: int
    end: int
    weight: float


@dataclass(frozen=True)
class SeenImage:
    """An image part of a message as rows x columns of equal cells over the whole image; weights: row by row."""

    message: int
    part: int
    rows: int
    columns: int
    weights: tuple[float, ...]


@dataclass(frozen=True)
class Seen:
    """What the model looked at while it wrote an argument: words, in order, and images. See inference.attention_view.

    All weights together are at most 1; the rest went to function cards and to signs between the words.
    """

    words: tuple[SeenWord, ...]
    images: tuple[SeenImage, ...]


@dataclass(frozen=True)
class Call:
    """A finished call: it parses, names a listed function and fits its schema.

    confidence: p(call) * p(function | call) * mean probability of the tokens the grammar left open.
    attention: by argument, in the calls of a finished reply to a request that asked for it.
    """

    id: str
    name: str
    arguments: dict[str, Any]
    confidence: float
    sources: dict[str, ArgumentSource] = field(default_factory=dict)
    attention: dict[str, Seen] | None = None


@dataclass(frozen=True)
class Decision:
    """When and which, as the head decides them: p(call), and the likeliest function's name."""

    call: float
    function: str | None


@dataclass(frozen=True)
class TokenLogprob:
    """A token of text with the natural logarithm of its probability, and the likeliest ones in its place."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass
class Reply:
    """What the model answered.

    trigger: probabilities of answer, call, ask_missing and cannot; None without functions. selection: the
    functions with their probabilities, best first. logprobs: natural logarithms, one a token, where asked
    for; text_logprobs: the tokens of the content alone, with the likeliest ones. usage counts source and written
    tokens, how many of these the grammar forced, and turns that were dropped because the conversation is longer than
    the model reads. without_results: for a reply that calls a function with side effects after results of functions,
    the decision with these hidden. format_errors: what of the response format the content breaks (it was cut, or by
    a keyword that no grammar holds); empty where it fits.
    """

    content: str = ""
    calls: list[Call] = field(default_factory=list)
    finish_reason: Literal["stop", "length", "tool_calls"] = "stop"
    trigger: dict[str, float] | None = None
    selection: list[tuple[str, float]] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    text_logprobs: list[TokenLogprob] = field(default_factory=list)
    usage: dict[str, int] = field(default_factory=dict)
    without_results: Decision | None = None
    format_errors: tuple[str, ...] = ()


@dataclass(frozen=True)
class Delta:
    """A piece of a streamed reply: text, the start of a call, a piece of its arguments, its end, or the end of all.

    Joined pieces equal the final reply, which comes with kind "end". A call that the limit cut has no end and
    stands in no reply. index: of the call. tokens: of this piece of text, where log-probabilities were asked for.
    """

    kind: Literal["text", "call_start", "arguments", "call_end", "end"]
    text: str = ""
    index: int = 0
    call: Call | None = None
    name: str | None = None
    reply: Reply | None = None
    tokens: tuple[TokenLogprob, ...] = ()
