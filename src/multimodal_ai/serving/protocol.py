"""Chat completions as they arrive: typed, limited, and turned into requests of the engine.

What the API knows and this server cannot do is refused with words, never ignored where that would change the
reply; what changes nothing (`user`, `store`, `metadata`) is accepted. A part of a message may name an image by
URL alone: no spelling reaches a file of this machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from multimodal_ai.functions.canonical import canonical_json
from multimodal_ai.functions.schema import FunctionSpec, SchemaError, check_schema
from multimodal_ai.inference.requests import Request
from multimodal_ai.serving.config import ServerConfig
from multimodal_ai.serving.errors import ApiError
from multimodal_ai.serving.images import image_bytes


class Strict(BaseModel):
    """A part of a request in which an unknown key is a mistake."""

    model_config = ConfigDict(extra="forbid")


class Lenient(BaseModel):
    """A part of a request that clients send back as they got it, with what else it held."""

    model_config = ConfigDict(extra="ignore")


class TextPart(Lenient):
    """Text."""

    type: Literal["text"]
    text: str


class ImageUrl(Lenient):
    """Where an image is: a data URL, or an address if the server fetches. `detail` changes nothing."""

    url: str
    detail: str | None = None


class ImagePart(Lenient):
    """An image."""

    type: Literal["image_url"]
    image_url: ImageUrl


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class CalledFunction(Lenient):
    """Which function was called with what; `arguments` is JSON text."""

    name: str
    arguments: str


class ToolCall(Lenient):
    """A call in an assistant's message."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class Message(Lenient):
    """One message of the conversation."""

    role: Literal["developer", "system", "user", "assistant", "tool"]
    content: str | list[Part] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None


class FunctionDefinition(BaseModel):
    """A function as the model sees it. `x-side-effect`: calls of it change something."""

    model_config = ConfigDict(extra="allow")

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(BaseModel):
    """A tool; functions are the only kind."""

    model_config = ConfigDict(extra="allow")

    type: Literal["function"]
    function: FunctionDefinition


class StreamOptions(Strict):
    """include_usage: a last piece with the tokens used."""

    include_usage: bool = False
    include_obfuscation: bool | None = None


class ResponseFormat(Lenient):
    """What text must look like."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: dict[str, Any] | None = None


class ChatRequest(Strict):
    """The body of `POST /v1/chat/completions`."""

    model: str
    messages: list[Message] = Field(min_length=1)
    tools: list[Tool] | None = None
    tool_choice: Literal["auto", "none", "required"] | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=0, description="0: off; not in OpenAI's API")
    n: int | None = Field(default=None, ge=1)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stop: str | list[str] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    x_execute: bool = Field(default=False, description="run calls of the server's own functions, and answer then")
    x_call_threshold: float | None = Field(default=None, ge=0, le=1, description="p(call) from which `auto` calls")
    x_strings: Literal["free", "copied"] | None = Field(default=None, description="`copied`: words of the conversation")
    x_attention: bool = Field(default=False, description="for each argument of a call, what the model looked at")
    # accepted, and of no effect here
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    store: bool | None = None
    metadata: dict[str, Any] | None = None
    service_tier: str | None = None
    reasoning_effort: str | None = None
    verbosity: str | None = None
    modalities: list[Literal["text"]] | None = None
    # known, and refused unless they ask for nothing
    frequency_penalty: Literal[0] | None = None
    presence_penalty: Literal[0] | None = None
    logit_bias: dict[str, float] | None = Field(default=None, max_length=0)


def chat_requests(body: ChatRequest, config: ServerConfig) -> list[Request]:
    """The engine's requests for a chat: one a choice. Blocks while it fetches images. Raises ApiError."""
    check_count("messages", len(body.messages), config.max_messages)
    reader = MessageReader(config)
    messages = [reader.message(message, f"messages[{index}]") for index, message in enumerate(body.messages)]
    tools = checked_tools([tool.model_dump(exclude_none=True) for tool in body.tools or ()], config)
    limit = body.max_completion_tokens or body.max_tokens
    choices = body.n or 1
    check_count("n", choices, config.max_choices)
    if body.top_logprobs and not body.logprobs:
        raise ApiError(400, "top_logprobs needs logprobs: true", "invalid_value", "top_logprobs")
    seed = None if body.seed is None else body.seed % 2**64
    return [
        Request(
            messages=messages,
            tools=tools,
            images=reader.images,
            tool_choice="auto" if body.tool_choice is None else body.tool_choice,
            parallel_tool_calls=body.parallel_tool_calls is not False,
            max_tokens=output_tokens(limit, config),
            temperature=config.temperature if body.temperature is None else body.temperature,
            top_k=body.top_k or 0,
            top_p=1.0 if body.top_p is None else max(body.top_p, 1e-6),
            seed=None if seed is None else seed + number,
            stop=stop_strings(body.stop),
            logprobs=bool(body.logprobs),
            top_logprobs=body.top_logprobs or 0,
            call_threshold=0.5 if body.x_call_threshold is None else body.x_call_threshold,
            response_format=checked_format(body.response_format, config),
            strings=body.x_strings,
            attention=body.x_attention,
        )
        for number in range(choices)
    ]


class MessageReader:
    """Turns messages into the engine's; `images` holds the bytes of their images, in order."""

    def __init__(self, config: ServerConfig) -> None:
        self.config = config
        self.images: list[bytes] = []

    def message(self, message: Message, place: str) -> dict[str, Any]:
        """One message in the engine's form."""
        read: dict[str, Any] = {"role": "system" if message.role == "developer" else message.role}
        if isinstance(message.content, str):
            read["content"] = message.content
        elif message.content is not None:
            read["content"] = [
                self._part(part, f"{place}.content[{index}]") for index, part in enumerate(message.content)
            ]
        if message.tool_calls:
            read["tool_calls"] = [call.model_dump() for call in message.tool_calls]
        if message.role == "tool":
            read.update({"tool_call_id": message.tool_call_id, "name": message.name})
        return read

    def _part(self, part: TextPart | ImagePart, place: str) -> dict[str, Any]:
        if isinstance(part, TextPart):
            return {"type": "text", "text": part.text}
        check_count("images", len(self.images) + 1, self.config.max_images)
        config, url = self.config, part.image_url.url
        self.images.append(image_bytes(url, f"{place}.image_url", config.max_image_bytes, config.fetch_images))
        return {"type": "image"}


def check_count(what: str, count: int, most: int) -> None:
    """Raise ApiError where there are more than a request may have."""
    if count > most:
        raise ApiError(400, f"{what}: {count:,} is more than this server takes ({most:,})", "too_many", what)


def checked_tools(tools: Sequence[dict[str, Any]], config: ServerConfig) -> list[FunctionSpec]:
    """Functions within the limits on number and size, whose schemas can be used in every part.

    All parts, because the engine only compiles those that a reply may use: whether a request is refused must not
    depend on what the model decides.
    """
    check_count("tools", len(tools), config.max_functions)
    total, specs = 0, list[FunctionSpec]()
    for index, tool in enumerate(tools):
        size = _size(tool, f"tools[{index}]")
        total += size
        for what, found, most in (
            ("it has", size, config.max_schema_bytes),
            ("all have", total, config.max_tools_bytes),
        ):
            if found > most:
                message = f"tools[{index}]: {what} {found:,} bytes of JSON, the limit is {most:,}; shorten the schemas"
                raise ApiError(400, message, "schema_too_large", "tools")
        try:
            specs.append(FunctionSpec.from_tool(tool))
            check_schema(specs[-1].parameters, f"function {specs[-1].name}: parameters")
        except SchemaError as error:
            raise ApiError(400, f"tools[{index}]: {error}", "invalid_schema", "tools") from None
    return specs


def _size(value: Any, place: str) -> int:
    try:
        return len(canonical_json(value))
    except ValueError as error:
        raise ApiError(400, f"{place}: {error}", "invalid_value", place) from None


def checked_format(given: ResponseFormat | None, config: ServerConfig) -> dict[str, Any] | None:
    """A response format within the limits, in the engine's form."""
    if given is None or given.type == "text":
        return None
    made = given.model_dump(exclude_none=True)
    if _size(made, "response_format") > config.max_schema_bytes:
        raise ApiError(
            400,
            f"response_format: longer than {config.max_schema_bytes:,} bytes",
            "schema_too_large",
            "response_format",
        )
    return made


def output_tokens(asked: int | None, config: ServerConfig) -> int:
    """How many tokens a reply may have."""
    if asked is not None and asked > config.max_output_tokens:
        raise ApiError(
            400,
            f"max_tokens: {asked:,} is more than this server writes ({config.max_output_tokens:,})",
            "too_many",
            "max_tokens",
        )
    return config.max_output_tokens if asked is None else asked


def stop_strings(stop: str | Sequence[str] | None) -> tuple[str, ...]:
    """Stop strings as a tuple; at most 4, none empty or longer than 256 characters."""
    given = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if len(given) > 4 or any(not 0 < len(text) <= 256 for text in given):
        raise ApiError(400, "stop: at most 4 texts of 1 to 256 characters", "invalid_value", "stop")
    return given
