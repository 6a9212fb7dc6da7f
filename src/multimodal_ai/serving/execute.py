"""`x_execute`: the server runs calls of its own functions and answers when the model has read their results.

Only functions that were given when the server started; what a client lists is never run here. The loop's limits and
its approval hold: without `approve` nothing with side effects runs, and with it provenance still decides. Streamed or
not, a client that goes away ends the loop: nothing runs for it that had not begun.
"""

from __future__ import annotations

import asyncio
import datetime
import threading
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fastapi import Request
from starlette.concurrency import run_in_threadpool

from multimodal_ai.functions.canonical import canonical_json
from multimodal_ai.functions.loop import FunctionLoop
from multimodal_ai.functions.policy import LoopPolicy, LoopResult
from multimodal_ai.functions.schema import FunctionSpec
from multimodal_ai.functions.trace import Event
from multimodal_ai.inference import requests as engine
from multimodal_ai.inference.scheduler import Handle
from multimodal_ai.serving.answer import Observe, unless_gone
from multimodal_ai.serving.chat import ChatCompletion, attention, event, provenance, summed_usage
from multimodal_ai.serving.errors import ApiError, as_api_error
from multimodal_ai.serving.protocol import ChatRequest, chat_requests

_ENDS = ("finished", "failed", "denied", "blocked")


@dataclass(frozen=True)
class Step:
    """What happened to a call, as clients read it in `x_step`: `type`, `call` (its number in the run, from 1), more."""

    told: dict[str, Any]


Piece = engine.Delta | Step | LoopResult | Exception


class Execution:
    """One run of the loop on its way from its thread to the event loop. Make one with `begin`, and close it."""

    def __init__(self, request: Request, first: engine.Request, observe: Observe) -> None:
        self.state, self.owner, self.observe = request.app.state, request.state.owner, observe
        self.today = datetime.date.today()  # one day for the run, whenever its turns are written
        self.first = replace(first, today=self.today)
        self.replies: list[engine.Reply] = []
        self._cancel = threading.Event()
        self._handle: Handle | None = None
        self._deadline = time.monotonic() + self.state.config.request_seconds + 1.0  # the loop ends first
        self._queue: asyncio.Queue[Piece] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._begun: list[Piece] = []
        self._ends: dict[int, str] = {}  # calls, and how they ended
        self._told = 0  # results that were passed on

    @classmethod
    async def begin(cls, body: ChatRequest, request: Request, observe: Observe) -> Execution | None:
        """Start the loop and wait for its first piece; None where the client has gone away meanwhile.

        Raises ApiError for what goes without `x_execute`, what the first turn failed of, and TimeoutError.
        """
        state = request.app.state
        _check(body, len(state.functions))
        plain = body.model_copy(update={"tool_choice": None})  # a name in it is one of the server's functions
        first = (await run_in_threadpool(chat_requests, plain, state.config))[0]
        state.metrics.images.inc(len(first.images))
        execution = cls(request, first, observe)
        choice = "auto" if body.tool_choice is None else body.tool_choice
        threading.Thread(target=execution._run, args=(choice,), name="x_execute", daemon=True).start()
        try:
            piece = await unless_gone(request, execution._next())
        except BaseException:
            execution.close()
            raise
        if isinstance(piece, Exception) or piece is None:
            execution.close()
        if isinstance(piece, Exception):
            raise piece
        if piece is None:
            return None
        execution._begun = [piece]
        return execution

    @property
    def seconds_left(self) -> float:
        return self._deadline - time.monotonic()

    async def pieces(self) -> AsyncIterator[engine.Delta | Step | LoopResult]:
        """Every piece; the run's result is the last. Raises what a turn failed of, and TimeoutError."""
        while True:
            piece = self._begun.pop() if self._begun else await self._next()
            if isinstance(piece, Exception):
                raise piece
            yield piece
            if isinstance(piece, LoopResult):
                return

    async def complete(self, request: Request) -> LoopResult | None:
        """The run's result; None where the client has gone away meanwhile."""

        async def last() -> LoopResult:
            async for piece in self.pieces():
                if isinstance(piece, LoopResult):
                    return piece
            raise AssertionError("a run ends with its result")

        return await unless_gone(request, last())

    def close(self) -> None:
        """End the turn that is being written, and the loop."""
        self._cancel.set()
        if self._handle is not None:
            self._handle.cancel()

    async def _next(self) -> Piece:
        return await asyncio.wait_for(self._queue.get(), max(self.seconds_left, 0.001))

    # -- in the loop's thread ---------------------------------------------------------------------------------

    def _give(self, piece: Piece) -> None:
        try:
            self._loop.call_soon_threadsafe(self._queue.put_nowait, piece)
        except RuntimeError:  # the server has ended
            self._cancel.set()

    def _run(self, tool_choice: Any) -> None:
        state, first = self.state, self.first
        seconds = state.config.request_seconds
        policy = LoopPolicy(auto_approve=state.config.approve, deadline=seconds, today=self.today)
        loop = FunctionLoop(self._respond, state.functions, policy, on_event=self._happened)
        try:
            result = loop.run(first.messages, first.images, tool_choice, self._cancel)
        except Exception as error:
            self._give(error)
            return
        self._pass_on_results(result.messages)
        self._give(result)

    def _respond(
        self, messages: list[dict[str, Any]], functions: Sequence[FunctionSpec], images: Sequence[Any], tool_choice: Any
    ) -> engine.Reply:
        """One turn of the model: one scheduled request."""
        self._pass_on_results(messages)
        asked = replace(self.first, messages=messages, tools=functions, images=images, tool_choice=tool_choice)
        handle = self._handle = self.state.scheduler.submit(asked, self.owner)
        if self._cancel.is_set():
            handle.cancel()
        reply: engine.Reply | None = None
        calls = sum(len(reply.calls) for reply in self.replies)
        try:
            for delta in handle:
                reply = delta.reply
                if delta.kind == "text":
                    self._give(delta)
                elif delta.kind != "end":
                    self._give(Step(_call_step(delta, calls + delta.index + 1)))
        finally:
            self.observe(handle, reply)
        assert reply is not None
        self.replies.append(reply)
        for number, call in enumerate(reply.calls, calls + 1):
            if call.attention is not None:  # known when the turn is over
                self._give(Step({"type": "attention", "call": number, **attention(call)}))
        return reply

    def _happened(self, happened: Event) -> None:
        if happened.kind == "started":
            self._give(Step({"type": "started", "call": happened.call}))
        elif happened.kind in _ENDS:
            self._ends[happened.call] = happened.kind
            known = happened.name if happened.name in self.state.functions else "unknown"
            self.state.metrics.call(known, happened.kind)

    def _pass_on_results(self, messages: Sequence[dict[str, Any]]) -> None:
        """Results that stand in the conversation by now; those that the client sent are its own."""
        sent = sum(message["role"] == "tool" for message in self.first.messages)
        results = [message["content"] for message in messages if message["role"] == "tool"][sent:]
        for number, text in enumerate(results[self._told :], self._told + 1):
            status = self._ends.get(number, "not run")
            self._give(Step({"type": "result", "call": number, "status": status, "result": text}))
        self._told = len(results)


def _check(body: ChatRequest, functions: int) -> None:
    if not functions:
        raise ApiError(400, "x_execute: this server was started without functions", "invalid_value", "x_execute")
    others = {"tools": body.tools, "n": (body.n or 1) > 1, "response_format": body.response_format}
    for name, given in others.items():
        if given:
            raise ApiError(400, f"x_execute: goes without {name}", "invalid_value", name)


def _call_step(delta: engine.Delta, number: int) -> dict[str, Any]:
    if delta.kind == "call_start":
        return {"type": "call_start", "call": number, "name": delta.name}
    if delta.call is None:
        return {"type": "arguments", "call": number, "arguments": delta.text}
    return {"type": "call", "call": number, **_call(delta.call)}


def _call(call: engine.Call) -> dict[str, Any]:
    return {"name": call.name, "arguments": canonical_json(call.arguments), **provenance(call)}


async def execution_events(execution: Execution, completion: ChatCompletion) -> AsyncIterator[bytes]:
    """The events of a streamed run: text as in any chat, what happens to calls in `x_step` of the choice."""
    try:
        yield completion.chunk(0, {"role": "assistant", "content": ""})
        async for piece in execution.pieces():
            if isinstance(piece, engine.Delta):
                yield completion.chunk(0, {"content": piece.text}, tokens=piece.tokens)
            elif isinstance(piece, Step):
                yield completion.chunk(0, {}, extra={"x_step": piece.told})
            else:
                ended = executed(piece, execution.replies, completion)
                (choice,) = ended["choices"]
                extra = {"x_decision": choice["x_decision"], "x_stopped_because": ended["x_stopped_because"]}
                yield completion.chunk(0, {}, choice["finish_reason"], extra=extra)
        if completion.counted:
            yield completion.usage_chunk(summed_usage(execution.replies))
        yield b"data: [DONE]\n\n"
    except Exception as error:
        yield event(as_api_error(error).body())


def executed(result: LoopResult, replies: Sequence[engine.Reply], completion: ChatCompletion) -> dict[str, Any]:
    """The `chat.completion` of a run: the last reply with the answer, all tokens counted, calls in `x_steps`."""
    nothing = engine.Reply(usage={"prompt_tokens": 0, "completion_tokens": 0, "forced_tokens": 0})
    whole = completion.whole(replies[-1:] or [nothing])
    choice = whole["choices"][0]
    choice["message"] = {"role": "assistant", "content": result.answer, "refusal": None}
    choice["finish_reason"] = "stop" if result.stopped_because == "answer" else "length"
    whole["usage"] = summed_usage(replies)
    ends = {happened.call: happened.kind for happened in result.events if happened.kind in _ENDS}
    results = {message["tool_call_id"]: message["content"] for message in result.messages if message["role"] == "tool"}
    calls = [call for reply in replies for call in reply.calls]
    whole["x_steps"] = [
        {**_call(call), "status": ends.get(number, "not run"), "result": results.get(call.id, "")}
        for number, call in enumerate(calls, 1)
    ]
    whole["x_stopped_because"] = result.stopped_because
    return whole
