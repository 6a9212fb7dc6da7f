"""`x_execute`: the server runs calls of its own functions and answers when the model has read their results.

Only functions that were given when the server started; what a client lists is never run here. The loop's limits and
its approval hold: without `approve` nothing with side effects runs, and with it provenance still decides.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fastapi import Request
from starlette.concurrency import run_in_threadpool

from multimodal_ai.functions.canonical import canonical_json
from multimodal_ai.functions.loop import FunctionLoop
from multimodal_ai.functions.policy import LoopPolicy, LoopResult
from multimodal_ai.functions.schema import FunctionSpec
from multimodal_ai.inference import requests as engine
from multimodal_ai.inference.scheduler import Handle
from multimodal_ai.serving.answer import disconnected
from multimodal_ai.serving.chat import ChatCompletion, provenance
from multimodal_ai.serving.errors import ApiError, as_api_error
from multimodal_ai.serving.protocol import ChatRequest, chat_requests

_ENDS = ("finished", "failed", "denied", "blocked")


class _Turns:
    """The engine as the loop sees it: one scheduled request a turn."""

    def __init__(self, request: Request, first: engine.Request) -> None:
        self.state, self.owner, self.first = request.app.state, request.state.owner, first
        self.replies: list[engine.Reply] = []
        self.cancel = threading.Event()
        self._handle: Handle | None = None

    def __call__(
        self, messages: list[dict[str, Any]], functions: Sequence[FunctionSpec], images: Sequence[Any], tool_choice: Any
    ) -> engine.Reply:
        asked = replace(self.first, messages=messages, tools=functions, images=images, tool_choice=tool_choice)
        handle = self._handle = self.state.scheduler.submit(asked, self.owner)
        if self.cancel.is_set():
            handle.cancel()
        reply = None
        try:
            reply = handle.reply()
        finally:
            self.state.metrics.observe(handle, reply)
        self.replies.append(reply)
        return reply

    def stop(self) -> None:
        """End the turn that is being written, and the loop."""
        self.cancel.set()
        if self._handle is not None:
            self._handle.cancel()


async def execute_chat(body: ChatRequest, request: Request, completion: ChatCompletion) -> dict[str, Any]:
    """Run the loop for a chat and render its end as a `chat.completion`. Raises ApiError."""
    state = request.app.state
    if not len(state.functions):
        raise ApiError(400, "x_execute: this server was started without functions", "invalid_value", "x_execute")
    others = {
        "tools": body.tools,
        "stream": body.stream,
        "n": (body.n or 1) > 1,
        "response_format": body.response_format,
    }
    for name, given in others.items():
        if given:
            raise ApiError(400, f"x_execute: goes without {name}", "invalid_value", name)
    choice = body.tool_choice
    first = (await run_in_threadpool(chat_requests, body.model_copy(update={"tool_choice": None}), state.config))[0]
    policy = LoopPolicy(auto_approve=state.config.approve, deadline=state.config.request_seconds)
    turns = _Turns(request, first)
    loop = FunctionLoop(turns, state.functions, policy)
    gone = asyncio.create_task(disconnected(request))
    work = asyncio.create_task(
        run_in_threadpool(loop.run, first.messages, first.images, "auto" if choice is None else choice, turns.cancel)
    )
    try:
        limit = state.config.request_seconds + 1
        await asyncio.wait({work, gone}, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise TimeoutError
        result = work.result()
    except (ValueError, RuntimeError, TimeoutError) as error:
        raise as_api_error(error) from error
    finally:
        turns.stop()
        gone.cancel()
        work.add_done_callback(_seen)
    for happened in result.events:
        if happened.kind in _ENDS:
            known = happened.name if happened.name in state.functions else "unknown"
            state.metrics.call(known, happened.kind)
    return _rendered(result, turns.replies, completion)


def _seen(work: asyncio.Task[Any]) -> None:
    """A loop that goes on for a moment after its client is gone may end as it likes; asyncio need not complain."""
    if not work.cancelled():
        work.exception()


def _rendered(result: LoopResult, replies: Sequence[engine.Reply], completion: ChatCompletion) -> dict[str, Any]:
    """The last reply with the answer, all tokens counted, and what was called in `x_steps`."""
    nothing = engine.Reply(usage={"prompt_tokens": 0, "completion_tokens": 0, "forced_tokens": 0})
    whole = completion.whole(replies[-1:] or [nothing])
    choice = whole["choices"][0]
    choice["message"] = {"role": "assistant", "content": result.answer, "refusal": None}
    choice["finish_reason"] = "stop" if result.stopped_because == "answer" else "length"
    for key in ("prompt_tokens", "completion_tokens"):
        whole["usage"][key] = sum(reply.usage[key] for reply in replies)
    whole["usage"]["total_tokens"] = whole["usage"]["prompt_tokens"] + whole["usage"]["completion_tokens"]
    ends = {event.call: event.kind for event in result.events if event.kind in _ENDS}
    results = {message["tool_call_id"]: message["content"] for message in result.messages if message["role"] == "tool"}
    calls = [call for reply in replies for call in reply.calls]
    whole["x_steps"] = [
        {
            "name": call.name,
            "arguments": canonical_json(call.arguments),
            "status": ends.get(number, "not run"),
            "result": results.get(call.id, ""),
            **provenance(call),
        }
        for number, call in enumerate(calls, 1)
    ]
    whole["x_stopped_because"] = result.stopped_because
    return whole
