"""The endpoints of the OpenAI API: read, hand to the scheduler, render.

Each of them keeps nothing between requests: a conversation is what the client sends.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from multimodal_ai.functions.canonical import short_json
from multimodal_ai.inference import requests as engine
from multimodal_ai.inference.scheduler import Handle
from multimodal_ai.serving.answer import Answer, Observe
from multimodal_ai.serving.body import EventStream, StrictRoute
from multimodal_ai.serving.calls import CallsRequest, run_calls
from multimodal_ai.serving.chat import ChatCompletion
from multimodal_ai.serving.config import ServerConfig
from multimodal_ai.serving.embeddings import EmbeddingsRequest, embeddings
from multimodal_ai.serving.errors import ApiError, as_api_error
from multimodal_ai.serving.execute import Execution, executed, execution_events
from multimodal_ai.serving.gate import NO_STATUS
from multimodal_ai.serving.protocol import ChatRequest, chat_requests
from multimodal_ai.serving.responses import ResponsesRequest, ResponseWriter, as_chat

_FAILURES = (ValueError, RuntimeError, TimeoutError)


def api_router() -> APIRouter:
    """`/v1/chat/completions`, `/v1/responses`, `/v1/embeddings` and `/v1/calls`."""
    router = APIRouter(prefix="/v1", route_class=StrictRoute)
    streams: Any = {200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}}
    for path, tag, summary, endpoint, responses in (
        ("/chat/completions", "chat", "Answer a conversation, or call functions", _chat, streams),
        ("/responses", "responses", "The same in the form of the Responses API", _responses, streams),
        ("/embeddings", "embeddings", "Texts and images in one space", _embeddings, {}),
        ("/calls", "functions", "Run approved calls of the server's own functions", _calls, {}),
    ):
        router.post(path, tags=[tag], summary=summary, responses=responses)(endpoint)
    return router


def check_model(config: ServerConfig, name: str) -> None:
    """Raise ApiError where a request names another model than the one that is served."""
    if name != config.model_name:
        message = f"there is no model {short_json(name)}; this server has {config.model_name}"
        raise ApiError(404, message, "model_not_found", "model")


async def _chat(body: ChatRequest, request: Request) -> Response:
    state = request.app.state
    check_model(state.config, body.model)
    completion = ChatCompletion(body, state.config.model_name, state.scheduler.engine.tokenizer)
    if body.x_execute:
        return await _executed(body, request, completion)
    return await _answered(body, request, completion, bool(body.stream))


async def _responses(body: ResponsesRequest, request: Request) -> Response:
    state = request.app.state
    check_model(state.config, body.model)
    writer = ResponseWriter(body, state.config, state.scheduler.engine.tokenizer)
    return await _answered(as_chat(body), request, writer, bool(body.stream))


class _Rendering(Protocol):
    """How an answer leaves."""

    def whole(self, replies: Sequence[engine.Reply]) -> dict[str, Any]: ...
    def events(self, answer: Answer) -> AsyncIterator[bytes]: ...


async def _answered(body: ChatRequest, request: Request, rendering: _Rendering, stream: bool) -> Response:
    """Answer a chat, in whole or in pieces."""
    state = request.app.state
    _log_contents(request, body)
    try:
        requests = await run_in_threadpool(chat_requests, body, state.config)
        state.metrics.images.inc(len(requests[0].images))
        answer = await Answer.begin(
            state.scheduler, requests, request, state.config.request_seconds, _observer(request)
        )
        if answer is None:
            return _left()
        if stream:
            return EventStream(rendering.events(answer), answer)
        try:
            replies = await answer.complete(request)
        finally:
            answer.close()
    except _FAILURES as error:
        raise as_api_error(error) from error
    return _left() if replies is None else JSONResponse(rendering.whole(replies))


async def _executed(body: ChatRequest, request: Request, completion: ChatCompletion) -> Response:
    """Answer a chat with calls that are run here, in whole or in pieces."""
    _log_contents(request, body)
    try:
        execution = await Execution.begin(body, request, _observer(request))
        if execution is None:
            return _left()
        if body.stream:
            return EventStream(execution_events(execution, completion), execution)
        try:
            result = await execution.complete(request)
        finally:
            execution.close()
    except _FAILURES as error:
        raise as_api_error(error) from error
    return _left() if result is None else JSONResponse(executed(result, execution.replies, completion))


def _observer(request: Request) -> Observe:
    """Counts a reply, and notes it for the log."""
    state = request.app.state
    notes: dict[str, Any] = request.state.notes

    def observe(handle: Handle, reply: engine.Reply | None) -> None:
        state.metrics.observe(handle, reply)
        if reply is not None:
            note_reply(notes, handle, reply, state.config.log_contents)

    return observe


def _left() -> Response:
    """For a client that is gone; nobody reads it, the log shows the status."""
    return Response(status_code=NO_STATUS)


async def _embeddings(body: EmbeddingsRequest, request: Request) -> Response:
    state = request.app.state
    check_model(state.config, body.model)
    try:
        return JSONResponse(await embeddings(body, state.config, state.scheduler))
    except _FAILURES as error:
        raise as_api_error(error) from error


async def _calls(body: CallsRequest, request: Request) -> Response:
    check_model(request.app.state.config, body.model)
    try:
        results = await run_calls(body, request)
    except _FAILURES as error:
        raise as_api_error(error) from error
    return _left() if results is None else JSONResponse(results)


def note_reply(notes: dict[str, Any], handle: Handle, reply: engine.Reply, contents: bool) -> None:
    """Add what a log line says of a reply: counts and times, and what was said only where that is wanted."""
    notes["finish_reason"] = reply.finish_reason
    notes["prompt_tokens"] = reply.usage["prompt_tokens"]
    notes["completion_tokens"] = notes.get("completion_tokens", 0) + reply.usage["completion_tokens"]
    notes["calls"] = notes.get("calls", 0) + len(reply.calls)
    if handle.first_token is not None:
        notes.setdefault("first_token_seconds", round(handle.first_token - handle.submitted, 4))
    if contents:
        said = {"content": reply.content, "calls": [[call.name, call.arguments] for call in reply.calls]}
        notes.setdefault("replies", []).append(said)


def _log_contents(request: Request, body: ChatRequest) -> None:
    if request.app.state.config.log_contents:
        messages = [message.model_dump(exclude_none=True) for message in body.messages]
        text = json.dumps(messages, ensure_ascii=False)
        request.state.notes["messages"] = text if len(text) <= 4096 else text[:4096] + "…"
