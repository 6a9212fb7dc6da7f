"""Rendering: a conversation becomes ids, loss mask and image slots, together, in one pass over typed parts.

This is the only place that puts special tokens among ids, and the only template: training, terminal and
server render through it. Content is encoded piece by piece with a tokenizer that cannot make a special
token; nothing is ever tokenised a second time to find a mask, and nothing inside an image or a call is cut.

The source (what the encoder reads) folds every single space into the token behind it, as a flag: a value
then stands there with the very ids that its copy in a call has. Function cards are rendered alone, so that
a card depends on nothing but its function.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from multimodal_ai.data.rendered_call import CallText, render_call
from multimodal_ai.data.tokenizer import Tokenizer
from multimodal_ai.functions.schema import FunctionSpec
from multimodal_ai.utils.config import ConfigModel

CARD, SYSTEM, USER, ASSISTANT, RESULT, IMAGE = range(6)  # the order of models.multimodal_model.ROLES
COPYABLE_ROLES = (SYSTEM, USER, RESULT)
TEXT = (-1, -1)  # no parameter is being filled, and yet the pointer may copy


class TooLong(ValueError):
    """A sample does not fit and may not be cut; the caller drops it and counts it, or fails."""


class RenderingConfig(ConfigModel):
    """Limits of one sample, in tokens, and how an image is held open in the source."""

    max_source: int = 512
    max_target: int = 256
    max_card: int = 192
    max_parameters: int = 32  # of one function
    image_slots: Literal["patches", "one"] = "patches"  # "one" for cross-attention fusion
    merge: int = 2  # as the model's fusion.merge
    long_history: Literal["refuse", "drop_oldest"] = "refuse"  # conversations beyond max_source
    call_weight: float = 2.0  # loss weight of the tokens of a call, against 1 for text


class PartSpan(NamedTuple):
    """Tokens [start, end) of a source are part `part` of message `message`; image: its number, -1 for text."""

    start: int
    end: int
    message: int
    part: int
    image: int = -1


@dataclass
class Source:
    """What the encoder reads: parallel lists, one entry a token, the slots of its images, and where its parts stand.

    The tokens of a text, each behind its space, are the text's bytes again.
    """

    ids: list[int] = field(default_factory=list)
    space: list[bool] = field(default_factory=list)  # a space stood before this token
    role: list[int] = field(default_factory=list)
    slots: list[tuple[int, int, int]] = field(default_factory=list)  # position, image of the sample, visual token
    parts: list[PartSpan] = field(default_factory=list)  # of the messages, in order
    dropped_turns: int = 0  # that stood at the beginning and did not fit

    def special(self, token: int, role: int) -> None:
        """Append one special token."""
        self.ids.append(token)
        self.space.append(False)
        self.role.append(role)

    def content(self, ids: Sequence[int], role: int, space: int) -> None:
        """Append ordinary tokens, folding each single space into the token behind it."""
        pending = False
        for token in ids:
            if token == space and not pending:
                pending = True
                continue
            self.ids.append(token)
            self.space.append(pending)
            self.role.append(role)
            pending = False
        if pending:  # a space at the very end has nothing behind it
            self.ids.append(space)
            self.space.append(False)
            self.role.append(role)


@dataclass(frozen=True)
class Card:
    """A function card: its tokens, and which parameter each token describes (-1: none)."""

    ids: tuple[int, ...]
    space: tuple[bool, ...]
    parameter: tuple[int, ...]
    key: str  # the function's hash: equal cards are encoded once


@dataclass
class Target:
    """What the decoder writes. `ids[t]` is what it reads, `labels[t]` what it should write next.

    weight: loss weight of each label, 0 outside the trained turn. parameter: at labels inside an argument's
    value (or right behind it, where it must decide to end), `(function, parameter)` in the sample's lists; in
    text that answers a function's result, TEXT. copy: source position that a label was copied from, or -1; a
    space inside a copied value belongs to the token behind it, as it does in the source.
    """

    ids: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    weight: list[float] = field(default_factory=list)
    parameter: list[tuple[int, int] | None] = field(default_factory=list)
    copy: list[int] = field(default_factory=list)


def describe_type(schema: Mapping[str, Any]) -> str:
    """A schema in a few words, for a card: `string`, `kWh|m3|L`, `[integer]`, `{city,day}`."""
    if "const" in schema:
        return str(schema["const"])
    if "enum" in schema:
        return "|".join(str(value) for value in schema["enum"])
    for union in ("anyOf", "oneOf"):
        if union in schema:
            return " or ".join(describe_type(option) for option in schema[union])
    kind = schema.get("type", "any")
    if isinstance(kind, list):
        return " or ".join(kind)
    if kind == "array":
        return f"[{describe_type(schema.get('items') or {})}]"
    if kind == "object" and schema.get("properties"):
        return "{" + ",".join(schema["properties"]) + "}"
    return schema.get("format", kind) if kind == "string" else str(kind)


class Renderer:
    """Renders messages, functions and plain text for one tokenizer and one set of limits."""

    def __init__(self, tokenizer: Tokenizer, config: RenderingConfig | None = None) -> None:
        self.tokenizer = tokenizer
        self.config = config or RenderingConfig()
        self._encode = lru_cache(maxsize=16384)(lambda text: tuple(tokenizer.encode(text)))
        self._card = lru_cache(maxsize=8192)(self._render_card)

    # -- source -----------------------------------------------------------------------------------------

    def card(self, spec: FunctionSpec) -> Card:
        """The card of a function. Raises TooLong where it has more tokens or parameters than the limits."""
        return self._card(spec)

    def _render_card(self, spec: FunctionSpec) -> Card:
        source, parameter = Source(), list[int]()
        special, space = self.tokenizer.special, self.tokenizer.space
        source.special(special.function, CARD)
        source.content(self._encode(f"{spec.name} {spec.description}".rstrip()), CARD, space)
        parameter += [-1] * len(source.ids)
        required = set(spec.required)
        for number, name in enumerate(spec.parameter_names):
            schema = spec.parameter_schema(name)
            optional = "" if name in required else "?"
            line = f"\n{name}{optional} {describe_type(schema)} {schema.get('description', '')}".rstrip(" ")
            source.content(self._encode(line), CARD, space)
            parameter += [number] * (len(source.ids) - len(parameter))
        if len(source.ids) > self.config.max_card or len(spec.parameter_names) > self.config.max_parameters:
            raise TooLong(
                f"function {spec.name}: its card has {len(source.ids)} tokens and {len(spec.parameter_names)} "
                f"parameters; the limits are {self.config.max_card} and {self.config.max_parameters}"
            )
        return Card(tuple(source.ids), tuple(source.space), tuple(parameter), spec.hash)

    def text_card(self, text: str, key: str) -> Card:
        """A plain text (a caption) as a standalone text, for contrastive alignment; cut at the limit."""
        source = Source()
        source.special(self.tokenizer.special.doc, CARD)
        source.content(self._encode(text), CARD, self.tokenizer.space)
        size = self.config.max_card
        return Card(tuple(source.ids[:size]), tuple(source.space[:size]), (-1,) * min(size, len(source.ids)), key)

    def source(self, messages: Sequence[Any], grids: Sequence[tuple[int, int]]) -> Source:
        """The conversation before the answer. `messages` are data.messages.Message; `grids` the patch grid
        of every image of the sample, in order. Raises ValueError where parts and images differ in number.
        """
        special, space = self.tokenizer.special, self.tokenizer.space
        source, image = Source(), 0
        starts: list[int] = []
        opening = {"system": special.system, "user": special.user, "assistant": special.assistant}
        roles = {"system": SYSTEM, "user": USER, "assistant": ASSISTANT, "tool": RESULT}
        for number, message in enumerate(messages):
            role = roles[message.role]
            starts.append(len(source.ids))
            source.special(opening.get(message.role, special.result), role)
            if message.role == "tool" and message.name:
                source.content(self._encode(f"{message.name}: "), ASSISTANT, space)
            for place, part in enumerate(message.parts):
                begin = len(source.ids)
                if part.type == "text":
                    source.content(self._encode(part.text), role, space)
                    source.parts.append(PartSpan(begin, len(source.ids), number, place))
                    continue
                if image >= len(grids):
                    raise ValueError(f"the messages hold more image parts than the {len(grids)} images given")
                for token in range(self._slots(grids[image])):
                    source.slots.append((len(source.ids), image, token))
                    source.special(special.image, IMAGE)
                source.parts.append(PartSpan(begin, len(source.ids), number, place, image))
                image += 1
            for call in message.tool_calls:
                source.special(special.call, ASSISTANT)
                source.content(self._encode(render_call(call.name, call.arguments).text), ASSISTANT, space)
                source.special(special.call_end, ASSISTANT)
            if message.role == "tool":
                source.special(special.result_end, RESULT)
        if image != len(grids):
            raise ValueError(f"the messages hold {image} image parts but {len(grids)} images were given")
        if len(source.ids) > self.config.max_source and self.config.long_history == "drop_oldest":
            self._drop_oldest(source, messages, starts)
        if len(source.ids) > self.config.max_source:
            raise TooLong(f"the conversation has {len(source.ids)} tokens, the limit is {self.config.max_source}")
        return source

    def _drop_oldest(self, source: Source, messages: Sequence[Any], starts: Sequence[int]) -> None:
        """Cut the oldest turns out, whole, up to the first user turn from which everything fits.

        System turns stay, and so do images: where one stands in what would have to go, nothing does.
        """
        first = next((number for number, message in enumerate(messages) if message.role != "system"), 0)
        begin = starts[first]
        for number in range(first + 1, len(messages)):
            end = starts[number]
            if messages[number].role != "user" or len(source.ids) - (end - begin) > self.config.max_source:
                continue
            if not any(begin <= position < end for position, _, _ in source.slots):
                for values in (source.ids, source.space, source.role):
                    del values[begin:end]
                cut = end - begin
                source.slots = [(p - cut if p >= end else p, image, token) for p, image, token in source.slots]
                left = [span for span in source.parts if not begin <= span.start < end]
                source.parts = [
                    span._replace(start=span.start - cut, end=span.end - cut) if span.start >= end else span
                    for span in left
                ]
                source.dropped_turns = number - first
            return

    def _slots(self, grid: tuple[int, int]) -> int:
        return 1 if self.config.image_slots == "one" else grid[0] * grid[1] // self.config.merge**2

    # -- target -----------------------------------------------------------------------------------------

    def start(self) -> list[int]:
        """What the decoder reads before it writes anything."""
        return [self.tokenizer.special.assistant]

    def target(self, message: Any, specs: Sequence[FunctionSpec], source: Source) -> Target:
        """The assistant's turn: its text, then its calls, then the end. Everything it writes is trained."""
        special = self.tokenizer.special
        target = Target(ids=self.start())
        names = {spec.name: index for index, spec in enumerate(specs)}
        copies = TEXT if RESULT in source.role else None
        for part in message.parts:
            for token in self._encode(part.text):
                self._push(target, token, 1.0, copies)
        for call in message.tool_calls:
            text = render_call(call.name, call.arguments)
            self._push(target, special.call, self.config.call_weight)
            self._push_call(target, text, names.get(call.name, -1), specs, source)
            self._push(target, special.call_end, self.config.call_weight)
        return self.finish(target, None if message.tool_calls else copies)

    def finish(self, target: Target, parameter: tuple[int, int] | None = None) -> Target:
        """Append the end; raise TooLong where the limit is passed. parameter: TEXT where the pointer must stop."""
        self._push(target, self.tokenizer.special.end, 1.0, parameter)
        target.ids.pop()  # the end is written, never read
        if len(target.ids) > self.config.max_target:
            raise TooLong(f"the answer has {len(target.ids)} tokens, the limit is {self.config.max_target}")
        return target

    @staticmethod
    def _push(
        target: Target, token: int, weight: float, parameter: tuple[int, int] | None = None, copy: int = -1
    ) -> None:
        target.ids.append(token)
        target.labels.append(token)
        target.weight.append(weight)
        target.parameter.append(parameter)
        target.copy.append(copy)

    def _push_call(
        self, target: Target, call: CallText, function: int, specs: Sequence[FunctionSpec], source: Source
    ) -> None:
        ids = self._encode(call.text)
        order = {name: index for index, name in enumerate(specs[function].parameter_names)} if function >= 0 else {}
        starts, position = [], 0
        for token in ids:
            starts.append(position)
            position += len(self.tokenizer.token_bytes(token))
        parameter: list[tuple[int, int] | None] = [None] * len(ids)  # of each token
        copied = [-1] * len(ids)
        for value in call.values:
            if value.parameter not in order:
                continue
            for index, start in enumerate(starts):
                if value.start <= start <= value.end:
                    parameter[index] = (function, order[value.parameter])
            inside = [index for index, start in enumerate(starts) if value.start <= start < value.end]
            for leaf_start, leaf_end in value.leaves:
                leaf = [index for index in inside if leaf_start <= starts[index] < leaf_end]
                found = self.find(source, [ids[index] for index in leaf])
                for index, where in zip(leaf, found, strict=True):
                    copied[index] = where
        for token, of, source_position in zip(ids, parameter, copied, strict=True):
            self._push(target, token, self.config.call_weight, of, source_position)

    def find(self, source: Source, ids: Sequence[int]) -> list[int]:
        """Source positions of the first place where `ids` stands verbatim in what may be copied.

        One entry an id, for a space the position of the token that it is folded into; -1 everywhere where `ids`
        does not stand.
        """
        space = self.tokenizer.space
        folded = Source()
        folded.content(ids, USER, space)
        size = len(folded.ids)
        if not size or space in folded.ids or folded.space[0]:
            return [-1] * len(ids)
        for start in range(len(source.ids) - size + 1):
            if (
                source.ids[start] == folded.ids[0]
                and source.ids[start : start + size] == folded.ids
                and source.space[start + 1 : start + size] == folded.space[1:]
                and all(role in COPYABLE_ROLES for role in source.role[start : start + size])
            ):
                places, position = [], start
                for token in ids:
                    places.append(position)
                    position += token != space
                return places
        return [-1] * len(ids)
