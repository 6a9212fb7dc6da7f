"""`/v1/calls`: run calls that a person has approved, of the server's own functions, and give their results.

For clients that show each call before it runs: the conversation ends with the model's calls, as the person left them.
Nothing is generated here. The loop's limits hold. Calls with side effects run only where whoever started the server
trusts its clients to have asked (`client_approval`), or where `approve` runs them unasked.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fastapi import Request
from pydantic import Field
from starlette.concurrency import run_in_threadpool

from multimodal_ai.functions.loop import FunctionLoop
from multimodal_ai.functions.policy import LoopPolicy, LoopResult, ProposedCall
from multimodal_ai.serving.answer import unless_gone
from multimodal_ai.serving.errors import ApiError
from multimodal_ai.serving.protocol import Message, MessageReader, Strict, ToolCall, check_count

ENDS = ("finished", "failed", "denied", "blocked")


class CallsRequest(Strict):
    """The body of `POST /v1/calls`: a conversation whose last message is the assistant's, with calls."""

    model: str
    messages: list[Message] = Field(min_length=1)


@dataclass(frozen=True)
class _Call:
    """A call as the loop reads it. `arguments` is JSON text."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class _Turn:
    content: str
    calls: Sequence[_Call] = ()


async def run_calls(body: CallsRequest, request: Request) -> dict[str, Any] | None:
    """The result of each call, in order; None where the client has gone away. Raises ApiError."""
    state = request.app.state
    if not len(state.functions):
        raise ApiError(400, "this server was started without functions", "invalid_value", "messages")
    last, place = body.messages[-1], f"messages[{len(body.messages) - 1}]"
    calls = last.tool_calls or []
    if last.role != "assistant" or not calls:
        raise ApiError(
            400, f"{place}: expected the assistant's calls, which are to be run", "invalid_value", "messages"
        )
    if len({call.id for call in calls}) < len(calls):
        raise ApiError(400, f"{place}: two calls have the same id", "invalid_value", "messages")
    check_count("messages", len(body.messages), state.config.max_messages)
    cancel = threading.Event()
    try:
        result = await unless_gone(request, run_in_threadpool(_run, state, body, calls, cancel))
    finally:
        cancel.set()
    if result is None:
        return None
    ends = {happened.call: happened.kind for happened in result.events if happened.kind in ENDS}
    for number, call in enumerate(calls, 1):
        name = call.function.name
        state.metrics.call(name if name in state.functions else "unknown", ends.get(number, "not run"))
    texts = {message["tool_call_id"]: message["content"] for message in result.messages if message["role"] == "tool"}
    return {
        "object": "list",
        "data": [
            {
                "tool_call_id": call.id,
                "name": call.function.name,
                "status": ends.get(number, "not run"),
                "content": texts.get(call.id or f"call_{number}", ""),
            }
            for number, call in enumerate(calls, 1)
        ],
    }


def _run(state: Any, body: CallsRequest, calls: Sequence[ToolCall], cancel: threading.Event) -> LoopResult:
    config = state.config
    reader = MessageReader(config)
    messages = [reader.message(message, f"messages[{n}]") for n, message in enumerate(body.messages[:-1])]
    proposed = tuple(_Call(call.id, call.function.name, call.function.arguments) for call in calls)
    turns = iter((_Turn("", proposed), _Turn("")))

    def approve(call: ProposedCall) -> Literal["allow", "deny"]:
        return "allow" if config.client_approval else "deny"

    policy = LoopPolicy(auto_approve=config.approve, deadline=config.request_seconds, max_steps=2)
    loop = FunctionLoop(lambda *_: next(turns), state.functions, policy, approve)
    return loop.run(messages, reader.images, cancel=cancel)
