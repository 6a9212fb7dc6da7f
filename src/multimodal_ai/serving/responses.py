"""`/v1/responses`: the Responses API for text, images and functions, over the same path as chat completions.

Its items become messages and its tools chat's; nothing is kept, so `previous_response_id` and background runs are
refused. The events of a stream and the whole response come out of one state machine, so they cannot differ.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from multimodal_ai.data.tokenizer import Tokenizer
from multimodal_ai.functions.canonical import canonical_json
from multimodal_ai.inference.requests import Delta, Reply
from multimodal_ai.serving.answer import Answer
from multimodal_ai.serving.chat import decision, event, new_id, provenance, scored_tokens, usage
from multimodal_ai.serving.config import ServerConfig
from multimodal_ai.serving.errors import ApiError, as_api_error
from multimodal_ai.serving.protocol import ChatRequest, Lenient, Strict


class InputText(Lenient):
    """Text of a user, or of an earlier answer."""

    type: Literal["input_text", "output_text"]
    text: str


class InputImage(Lenient):
    """An image by its URL."""

    type: Literal["input_image"]
    image_url: str
    detail: str | None = None


class MessageItem(Lenient):
    """A message."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[Annotated[InputText | InputImage, Field(discriminator="type")]]


class CallItem(Lenient):
    """A call that was made."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str


class ResultItem(Lenient):
    """What a call gave."""

    type: Literal["function_call_output"]
    call_id: str
    output: str | list[Annotated[InputText | InputImage, Field(discriminator="type")]]


class FunctionTool(Lenient):
    """A function; other tools are not known here. `x-side-effect` as in chat completions."""

    type: Literal["function"]
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    x_side_effect: bool | None = Field(default=None, alias="x-side-effect")


class TextFormat(Lenient):
    """What text must look like."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None
    description: str | None = None


class TextOptions(Lenient):
    """Options of the text."""

    format: TextFormat | None = None


class ResponsesRequest(Strict):
    """The body of `POST /v1/responses`."""

    model: str
    input: str | list[MessageItem | CallItem | ResultItem] = Field(min_length=1)
    instructions: str | None = None
    tools: list[FunctionTool] | None = None
    tool_choice: Literal["auto", "none", "required"] | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    max_output_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    text: TextOptions | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    include: list[Literal["message.output_text.logprobs"]] | None = None
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    x_call_threshold: float | None = Field(default=None, ge=0, le=1, description="p(call) from which `auto` calls")
    x_strings: Literal["free", "copied"] | None = Field(default=None, description="`copied`: words of the conversation")
    # accepted, and of no effect here
    store: bool | None = None
    metadata: dict[str, Any] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    service_tier: str | None = None
    reasoning: dict[str, Any] | None = None
    # known, and refused unless they ask for nothing
    truncation: Literal["disabled"] | None = None
    background: Literal[False] | None = None
    previous_response_id: None = None


def as_chat(body: ResponsesRequest) -> ChatRequest:
    """The same request as a chat completion. Raises ApiError where items are out of order."""
    messages: list[dict[str, Any]] = []
    if body.instructions:
        messages.append({"role": "system", "content": body.instructions})
    items = [MessageItem(role="user", content=body.input)] if isinstance(body.input, str) else body.input
    for item in items:
        if isinstance(item, MessageItem):
            messages.append({"role": item.role, "content": _content(item.content)})
        elif isinstance(item, CallItem):
            function = {"name": item.name, "arguments": item.arguments}
            if not messages or messages[-1]["role"] != "assistant":
                messages.append({"role": "assistant", "content": None})
            messages[-1].setdefault("tool_calls", []).append({"id": item.call_id, "function": function})
        else:
            messages.append({"role": "tool", "tool_call_id": item.call_id, "content": _content(item.output)})
    wanted = body.text.format if body.text is not None else None
    format_: dict[str, Any] | None = None
    if wanted is not None:
        format_ = {"type": wanted.type}
        if wanted.type == "json_schema":
            if wanted.schema_ is None:
                raise ApiError(400, "text.format: json_schema needs a schema", "invalid_value", "text.format")
            format_["json_schema"] = {"name": wanted.name or "answer", "schema": wanted.schema_}
    logprobs = bool(body.top_logprobs) or bool(body.include)
    return ChatRequest.model_validate(
        {
            "model": body.model,
            "messages": messages,
            "tools": [_tool(tool) for tool in body.tools or ()] or None,
            "tool_choice": body.tool_choice,
            "parallel_tool_calls": body.parallel_tool_calls,
            "response_format": format_,
            "max_completion_tokens": body.max_output_tokens,
            "temperature": body.temperature,
            "top_p": body.top_p,
            "logprobs": logprobs,
            "top_logprobs": body.top_logprobs if logprobs else None,
            "x_call_threshold": body.x_call_threshold,
            "x_strings": body.x_strings,
        }
    )


def _content(content: str | Sequence[InputText | InputImage]) -> str | list[dict[str, Any]]:
    if isinstance(content, str):
        return content
    return [
        {"type": "text", "text": part.text}
        if isinstance(part, InputText)
        else {"type": "image_url", "image_url": {"url": part.image_url}}
        for part in content
    ]


def _tool(tool: FunctionTool) -> dict[str, Any]:
    return {"type": "function", "function": tool.model_dump(exclude_none=True, exclude={"type"}, by_alias=True)}


class ResponseWriter:
    """One response on its way out: pieces in, events out, the items of the whole kept."""

    def __init__(self, body: ResponsesRequest, config: ServerConfig, tokenizer: Tokenizer) -> None:
        self.body, self.config, self.tokenizer = body, config, tokenizer
        self.id, self.created = new_id("resp_"), int(time.time())
        self.output: list[dict[str, Any]] = []
        self._open: dict[str, Any] | None = None  # the item that is being written
        self._count = 0

    def whole(self, replies: Sequence[Reply]) -> dict[str, Any]:
        """The `response` object of a reply that was not streamed."""
        (reply,) = replies
        if reply.content or not reply.calls:
            for _ in self._write(Delta("text", reply.content, tokens=tuple(reply.text_logprobs))):
                pass
        for index, call in enumerate(reply.calls):
            arguments = canonical_json(call.arguments)
            for delta in (
                Delta("call_start", index=index, name=call.name),
                Delta("arguments", arguments, index, name=call.name),
                Delta("call_end", index=index, name=call.name, call=call),
            ):
                for _ in self._write(delta):
                    pass
        for _ in self._close():
            pass
        return self._object("completed", reply)

    async def events(self, answer: Answer) -> AsyncIterator[bytes]:
        """The events of a stream, from `response.created` to `response.completed`."""
        try:
            for kind in ("response.created", "response.in_progress"):
                yield self._event(kind, response=self._object("in_progress", None))
            async for _, delta in answer.pieces():
                for made in self._write(delta):
                    yield made
            for made in self._close():
                yield made
            final = self._object("completed", answer.replies[0])
            yield self._event(f"response.{final['status']}", response=final)
        except Exception as error:
            problem = as_api_error(error).body()["error"]
            yield self._event("error", message=problem["message"], code=problem["code"], param=problem["param"])

    # -- the items --------------------------------------------------------------------------------------------

    def _write(self, delta: Delta) -> Iterator[bytes]:
        if delta.kind == "text":
            yield from self._text(delta)
        elif delta.kind == "call_start":
            yield from self._close()
            item = {"type": "function_call", "id": new_id("fc_"), "call_id": new_id("call_"), "name": delta.name}
            yield from self._begin({**item, "arguments": "", "status": "in_progress"})
        elif self._open is not None and delta.kind == "arguments":
            self._open["arguments"] += delta.text
            yield self._item_event("response.function_call_arguments.delta", delta=delta.text)
        elif self._open is not None and delta.call is not None:
            self._open |= provenance(delta.call)
            done = {"arguments": self._open["arguments"], "name": self._open["name"]}
            yield self._item_event("response.function_call_arguments.done", **done)
            yield from self._end()

    def _text(self, delta: Delta) -> Iterator[bytes]:
        place = {"content_index": 0}
        if self._open is None:
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            message = {"type": "message", "id": new_id("msg_"), "role": "assistant", "status": "in_progress"}
            yield from self._begin({**message, "content": []})
            assert self._open is not None
            yield self._item_event("response.content_part.added", part=part, **place)
            self._open["content"].append(part)
        part = self._open["content"][0]
        part["text"] += delta.text
        scored = scored_tokens(delta.tokens, self.tokenizer)
        part["logprobs"] += scored
        yield self._item_event("response.output_text.delta", delta=delta.text, logprobs=scored, **place)

    def _begin(self, item: dict[str, Any]) -> Iterator[bytes]:
        self._open = item
        self.output.append(item)
        yield self._event("response.output_item.added", output_index=len(self.output) - 1, item=item)

    def _end(self) -> Iterator[bytes]:
        assert self._open is not None
        self._open["status"] = "completed"
        item, self._open = self._open, None
        yield self._event("response.output_item.done", output_index=len(self.output) - 1, item=item)

    def _close(self) -> Iterator[bytes]:
        """End a message; a call that is still open was cut, and leaves."""
        if self._open is None:
            return
        if self._open["type"] == "function_call":
            self.output.pop()
            self._open = None
            return
        part, place = self._open["content"][0], {"content_index": 0}
        yield self._item_event("response.output_text.done", text=part["text"], logprobs=part["logprobs"], **place)
        yield self._item_event("response.content_part.done", part=part, **place)
        yield from self._end()

    def _item_event(self, kind: str, **values: Any) -> bytes:
        assert self._open is not None
        return self._event(kind, item_id=self._open["id"], output_index=len(self.output) - 1, **values)

    def _event(self, kind: str, **values: Any) -> bytes:
        made = {"type": kind, "sequence_number": self._count, **values}
        self._count += 1
        return f"event: {kind}\n".encode() + event(made)

    # -- the whole --------------------------------------------------------------------------------------------

    def _object(self, status: str, reply: Reply | None) -> dict[str, Any]:
        body, cut = self.body, reply is not None and reply.finish_reason == "length"
        used = None
        if reply is not None:
            counted = usage([reply])
            used = {
                "input_tokens": counted["prompt_tokens"],
                "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
                "output_tokens": counted["completion_tokens"],
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": counted["total_tokens"],
            }
        shown = body.model_dump(
            exclude_none=True, by_alias=True, include={"tools", "tool_choice", "text", "instructions", "metadata"}
        )
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": "incomplete" if cut else status,
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "error": None,
            "model": self.config.model_name,
            "output": self.output,
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "max_output_tokens": body.max_output_tokens,
            "temperature": self.config.temperature if body.temperature is None else body.temperature,
            "top_p": 1.0 if body.top_p is None else body.top_p,
            "previous_response_id": None,
            "store": False,
            "truncation": "disabled",
            "usage": used,
            "x_decision": None if reply is None else decision(reply),
            **{"instructions": None, "tools": [], "tool_choice": "auto", "text": {"format": {"type": "text"}}},
            **{"metadata": {}},
            **shown,
        }
