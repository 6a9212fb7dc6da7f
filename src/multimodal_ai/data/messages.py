"""The message schema: one conversation with its images and functions, checked once, the same everywhere.

Rows come in the chat format that everybody writes (`messages`, `tool_calls`, `tools`), from JSON Lines, Parquet
or a request, and leave as one frozen `Sample` in canonical form: calls as name and arguments, images in the order
of their parts. Whatever does not fit raises a DataError that names the row, the place and the mend; nothing is
repaired by guessing, and no value changes its type: `"020"` stays a string.
"""

from __future__ import annotations

import datetime
import difflib
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from multimodal_ai.data.conversation import check_conversation
from multimodal_ai.data.image_files import ImageError, ImageSource, encoded_bytes
from multimodal_ai.data.image_references import image_reference, images_of_row
from multimodal_ai.data.rows import DataError, load_rows
from multimodal_ai.functions.canonical import canonical_json, parse_json, short_json
from multimodal_ai.functions.schema import FunctionSpec, SchemaError, canonical_arguments, validate_arguments

__all__ = [
    "DataError",
    "ImagePart",
    "ImageSource",
    "Message",
    "Sample",
    "TextPart",
    "ToolCall",
    "load_rows",
]

Role = Literal["system", "user", "assistant", "tool"]
Task = Literal["text", "caption", "chat", "vqa", "call"]
ROLES: tuple[str, ...] = get_args(Role)
TASKS: tuple[str, ...] = get_args(Task)
TRIGGERS = ("answer", "call", "ask_missing", "cannot")


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


class TextPart(_Part):
    """A piece of text."""

    type: Literal["text"] = "text"
    text: str


class ImagePart(_Part):
    """The place of an image. In a Sample `image` is None: the picture stands in `Sample.images`."""

    type: Literal["image"] = "image"
    image: Any = None


class ToolCall(_Part):
    """A call of a function; `arguments` is always an object here."""

    id: str | None = None
    name: str
    arguments: dict[str, Any]

    @model_validator(mode="before")
    @classmethod
    def _from_chat_completions(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        value = _without_empty(value)
        inner = value.pop("function", None)
        if isinstance(inner, Mapping):
            value = {"id": value.get("id"), **_without_empty(inner)}
        value.pop("type", None)
        value.pop("index", None)
        value.setdefault("arguments", {})
        if isinstance(value["arguments"], str | Mapping):
            try:
                value["arguments"] = canonical_arguments(None, value["arguments"] or "{}")
            except ValueError as error:
                raise ValueError("arguments: " + str(error).removeprefix("arguments: ")) from None
        return value


class Message(_Part):
    """One turn. `tool_calls` only stand in assistant turns, images only in system, user and tool turns.

    `train=False` marks an assistant turn that is context and no example.
    """

    role: Role
    content: str | tuple[Annotated[TextPart | ImagePart, Field(discriminator="type")], ...] = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None
    train: bool = True

    @model_validator(mode="before")
    @classmethod
    def _from_chat_completions(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        value = _without_empty(value)
        if value.get("role") == "developer":
            value["role"] = "system"
        content = value.get("content", "")
        if isinstance(content, list | tuple):
            value["content"] = tuple(_part(part, f"content[{index}]") for index, part in enumerate(content))
        elif not isinstance(content, str):
            raise ValueError(f"content: expected text or a list of parts, got {short_json(content)}")
        return value

    @property
    def parts(self) -> tuple[TextPart | ImagePart, ...]:
        """The content as parts; empty text gives none."""
        if isinstance(self.content, str):
            return (TextPart(text=self.content),) if self.content else ()
        return self.content

    @property
    def text(self) -> str:
        """All text of the turn, without its images."""
        return "".join(part.text for part in self.parts if isinstance(part, TextPart))


class Sample(BaseModel):
    """A checked conversation. Make one with `from_row` or `from_request`.

    `images` are paths, bytes or what else ImageProcessor reads, one for each image part, in order.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    messages: tuple[Message, ...]
    specs: tuple[FunctionSpec, ...] = ()
    images: tuple[Any, ...] = ()
    task: Task = "chat"
    meta: dict[str, Any] = {}

    @property
    def tools(self) -> list[dict[str, Any]]:
        """The functions in the chat-completions form."""
        return [spec.to_tool() for spec in self.specs]

    @classmethod
    def from_row(cls, row: Mapping[str, Any], where: str = "row") -> Sample:
        """Reads and checks one training row; `where` names it in errors (`row 1,204 of train.jsonl`).

        `messages`, `tools` and `meta` may be JSON text or what it stands for. A row of nothing but `text` is plain
        text. The last message must be the assistant's: it is what is trained. Raises DataError.
        """
        try:
            return _read(row, complete=True)
        except DataError as error:
            raise DataError(f"{where}: {error}") from error.__cause__

    @classmethod
    def from_request(
        cls,
        messages: Sequence[Mapping[str, Any] | Message],
        tools: Sequence[Mapping[str, Any] | FunctionSpec] = (),
        images: Sequence[ImageSource] = (),
        allow_files: bool = True,
    ) -> Sample:
        """Reads and checks a conversation that waits for the assistant's turn.

        Calls in its history may name functions that are no longer offered. With `allow_files=False` images must
        be given as bytes or Base64, as for requests from strangers, who must not read this machine's files.
        Raises DataError.
        """
        row = {"messages": list(messages), "tools": list(tools), "images": list(images)}
        sample = _read(row, complete=False)
        if not allow_files and any(isinstance(image, str) for image in sample.images):
            raise DataError("an image is given as a path; send its bytes as data:image/…;base64,… instead")
        return sample

    def to_row(self) -> dict[str, Any]:
        """The row for Parquet: `messages`, `tools`, `meta` as JSON text, `images` as bytes, `task`.

        Reads image files; `from_row` of the result gives an equal Sample. Raises DataError where one is missing.
        """
        try:
            images = [encoded_bytes(image) for image in self.images]
        except ImageError as error:
            raise DataError(str(error)) from error
        messages = [message.model_dump(mode="json", exclude_defaults=True) for message in self.messages]
        for message in messages:
            for part in message["content"] if isinstance(message.get("content"), list) else ():
                part["type"] = "text" if "text" in part else "image"
        return {
            "messages": canonical_json(messages),
            "tools": canonical_json(self.tools),
            "images": images,
            "task": self.task,
            "meta": canonical_json(self.meta),
        }


def _without_empty(value: Mapping[str, Any]) -> dict[str, Any]:
    """Without the keys that hold nothing: typed tables and client libraries fill in every key they know."""
    return {key: item for key, item in value.items() if item is not None and item != [] and item != {}}


def _part(part: Any, place: str) -> TextPart | ImagePart:
    """A content part in one of the accepted spellings."""
    if isinstance(part, TextPart | ImagePart):
        return part
    if isinstance(part, str):
        return TextPart(text=part)
    if not isinstance(part, Mapping):
        raise ValueError(f"{place}: expected an object with type text or image, got {short_json(part)}")
    part = _without_empty(part)
    kind = part.pop("type", None) or next((key for key in ("text", "image", "image_url") if key in part), None)
    if kind not in ("text", "image", "image_url"):
        raise ValueError(f"{place}: part of type {short_json(kind)}; expected text, image or image_url")
    value = part.pop(kind, None)
    if part:
        raise ValueError(f"{place}.{next(iter(part))}: unknown key; a part of type {kind} has type and {kind}")
    if kind == "text":
        if not isinstance(value, str):
            raise ValueError(f"{place}.text: expected text, got {short_json(value)}")
        return TextPart(text=value)
    if kind == "image":
        return ImagePart(image=value)
    url = value.get("url") if isinstance(value, Mapping) else value
    if not isinstance(url, str) or not url.startswith(("data:", "file:")):
        raise ValueError(
            f"{place}.image_url: {short_json(url, 60)}: only data: and file: URLs are read, nothing is fetched "
            "from a network; give the image's bytes or path"
        )
    return ImagePart(image=url)


def _read(row: Mapping[str, Any], complete: bool) -> Sample:
    if row.get("error"):
        raise DataError(str(row["error"]))
    task = row.get("task") or "chat"
    messages = _json(row, "messages")
    if messages is None and isinstance(row.get("text"), str):
        messages, task = [{"role": "assistant", "content": row["text"]}], row.get("task") or "text"
    if messages is None:
        near = difflib.get_close_matches("messages", map(str, row), n=1)
        hint = f"; did you mean `messages` where it says `{near[0]}`?" if near else f"; it has {', '.join(row)}"
        raise DataError(f"no `messages` in the row{hint}")
    if not isinstance(messages, list | tuple):
        raise DataError(f"messages: expected a list, got {short_json(messages)}")
    if task not in TASKS:
        near = difflib.get_close_matches(str(task), TASKS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise DataError(f"task {short_json(task)}: expected one of {', '.join(TASKS)}{hint}")
    meta = _json(row, "meta")
    if meta is None:
        meta = {}
    if not isinstance(meta, dict):
        raise DataError(f"meta: expected an object, got {short_json(meta)}")
    trigger = meta.get("trigger")
    if trigger is not None and trigger not in TRIGGERS:
        raise DataError(f"meta.trigger {short_json(trigger)}: expected one of {', '.join(TRIGGERS)}")
    if not _is_day(meta.get("today")):
        raise DataError(f"meta.today {short_json(meta['today'])}: expected a day, such as 2019-03-01")
    specs = _specs(row)
    parsed = [_message(message, index) for index, message in enumerate(messages)]
    parsed = check_conversation(parsed, task, trigger if specs else None, complete)
    parsed, images = _collect_images(parsed, images_of_row(row))
    if complete and task == "caption" and not images:
        raise DataError("task caption needs an image; add one, or use task text")
    by_name = {spec.name: spec for spec in specs}
    if complete:
        parsed = [_checked_calls(message, index, by_name) for index, message in enumerate(parsed)]
    return Sample.model_construct(messages=tuple(parsed), specs=specs, images=images, task=task, meta=meta)


def _json(row: Mapping[str, Any], name: str) -> Any:
    value = row.get(name)
    if not isinstance(value, str):
        return value
    try:
        return parse_json(value)
    except ValueError as error:
        raise DataError(f"{name}: {error}; correct the JSON text") from None


def _message(value: Any, index: int) -> Message:
    if isinstance(value, Message):
        return value
    try:
        return Message.model_validate(value)
    except ValidationError as error:
        raise DataError(f"messages[{index}]{_explain(error)}") from None


def _explain(error: ValidationError) -> str:
    """The first mistake as `.place: what; mend`."""
    first = error.errors(include_url=False)[0]
    keys = list(first["loc"])
    place = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys)
    kind, given = first["type"], first["input"]
    if kind == "missing":
        return f"{place}: is missing; add it"
    if kind == "extra_forbidden":
        allowed = list((ToolCall if "tool_calls" in keys else Message).model_fields)
        near = difflib.get_close_matches(str(keys[-1]), allowed, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        return f"{place}: unknown key; expected one of {', '.join(allowed)}{hint}"
    if kind == "literal_error" and keys == ["role"]:
        near = difflib.get_close_matches(str(given), ROLES, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        return f".role: {short_json(given)}: expected one of {', '.join(ROLES)}{hint}"
    if kind in ("value_error", "assertion_error"):
        message = first["msg"].split(", ", 1)[-1]
        return f"{place}.{message}" if message.startswith(("content", "arguments")) else f"{place}: {message}"
    if kind.startswith("model_type"):
        return f"{place}: expected an object, got {short_json(given)}"
    expected = {"string_type": "text", "dict_type": "an object or its JSON text", "tuple_type": "a list"}
    wanted = expected.get(kind, first["msg"].removeprefix("Input should be "))
    return f"{place}: expected {wanted}, got {short_json(given)}"


def _is_day(value: object) -> bool:
    """Whether this is a day as YYYY-MM-DD, or None."""
    try:
        return value is None or datetime.date.fromisoformat(str(value)).isoformat() == value
    except ValueError:
        return False


def _specs(row: Mapping[str, Any]) -> tuple[FunctionSpec, ...]:
    tools = row.get("tools")
    if isinstance(tools, str):
        try:
            tools = json.loads(tools)
        except ValueError as error:
            raise DataError(f"tools: not JSON ({error}); correct the JSON text") from None
    if tools is None:
        return ()
    if not isinstance(tools, list | tuple):
        raise DataError(f"tools: expected a list, got {short_json(tools)}")
    specs = []
    for index, tool in enumerate(tools):
        try:
            specs.append(tool if isinstance(tool, FunctionSpec) else _spec(json.dumps(tool)))
        except (SchemaError, ValueError, TypeError) as error:
            raise DataError(f"tools[{index}]: {error}") from None
    names = [spec.name for spec in specs]
    if len(set(names)) != len(names):
        double = next(name for name in names if names.count(name) > 1)
        raise DataError(f"tools: two functions are called {double}; rename one or drop it")
    return tuple(specs)


@lru_cache(maxsize=16_384)
def _spec(text: str) -> FunctionSpec:
    return FunctionSpec.from_tool(parse_json(text))


def _collect_images(messages: list[Message], given: list[Any]) -> tuple[list[Message], tuple[Any, ...]]:
    """Images in the order of their parts: a part's own image, or the next of the row's `images`."""
    images: list[Any] = []
    waiting = 0
    rest = iter(given)
    result = []
    for index, message in enumerate(messages):
        changed = False
        for position, part in enumerate(message.parts):
            if not isinstance(part, ImagePart):
                continue
            if part.image is not None:
                images.append(image_reference(part.image, f"messages[{index}].content[{position}].image"))
                changed = True
            else:
                waiting += 1
                images.append(next(rest, None))
        if changed:
            plain = tuple(ImagePart() if isinstance(part, ImagePart) else part for part in message.parts)
            message = message.model_copy(update={"content": plain})
        result.append(message)
    if waiting != len(given):
        mend = "add the image or drop the part" if waiting > len(given) else "add the part or drop the image"
        raise DataError(
            f"{waiting} image part{'s' * (waiting != 1)} but {len(given)} image{'s' * (len(given) != 1)}; {mend}"
        )
    return result, tuple(images)


def _checked_calls(message: Message, index: int, specs: Mapping[str, FunctionSpec]) -> Message:
    """The message with its arguments in canonical order, after checking them against the functions.

    Turns that are only context may call functions that are no longer offered.
    """
    if not message.tool_calls:
        return message
    calls = []
    for number, call in enumerate(message.tool_calls):
        place = f"messages[{index}].tool_calls[{number}]"
        spec = specs.get(call.name)
        if spec is None:
            if message.train:
                near = difflib.get_close_matches(call.name, specs, n=1)
                hint = f"; did you mean {near[0]}?" if near else ""
                listed = ", ".join(list(specs)[:20]) or "nothing"
                raise DataError(
                    f"{place}: calls {call.name}, which tools does not list (it lists {listed}){hint}; "
                    "add the function or drop the call"
                )
            calls.append(call)
            continue
        arguments = canonical_arguments(spec, call.arguments)
        if message.train:
            problem = _argument_problem(spec, canonical_json(arguments))
            if problem:
                raise DataError(f"{place}: arguments of {call.name}: {problem}; correct the call or the schema")
        calls.append(call.model_copy(update={"arguments": arguments}))
    return message.model_copy(update={"tool_calls": tuple(calls)})


@lru_cache(maxsize=65_536)
def _argument_problem(spec: FunctionSpec, arguments: str) -> str:
    """What is wrong with arguments, or nothing. Cached: every epoch sees the same calls again."""
    try:
        errors = validate_arguments(spec, json.loads(arguments))
    except SchemaError as error:
        return str(error)
    return ", ".join(str(error) for error in errors[:3])
