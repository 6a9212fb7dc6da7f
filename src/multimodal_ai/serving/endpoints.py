"""The endpoints of the OpenAI API: read, hand to the scheduler, render.

Each of them keeps nothing between requests: a conversation is what the client sends.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from multimodal_ai.functions.canonical import short_json
from multimodal_ai.inference import requests as engine
from multimodal_ai.inference.scheduler import Handle
from multimodal_ai.serving.answer import Answer
from multimodal_ai.serving.body import EventStream, StrictRoute
from multimodal_ai.serving.chat import ChatCompletion
from multimodal_ai.serving.config import ServerConfig
from multimodal_ai.serving.embeddings import EmbeddingsRequest, embeddings
from multimodal_ai.serving.errors import ApiError, as_api_error
from multimodal_ai.serving.execute import execute_chat
from multimodal_ai.serving.protocol import ChatRequest, chat_requests
from multimodal_ai.serving.responses import ResponsesRequest, ResponseWriter, as_chat

_FAILURES = (ValueError, RuntimeError, TimeoutError)


def api_router() -> APIRouter:
    """`/v1/chat/completions`, `/v1/responses` and `/v1/embeddings`."""
    router = APIRouter(prefix="/v1", route_class=StrictRoute)
    streams: Any = {200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}}
    for path, tag, summary, endpoint, responses in (
        ("/chat/completions", "chat", "Answer a conversation, or call functions", _chat, streams),
        ("/responses", "responses", "The same in the form of the Responses API", _responses, streams),
        ("/embeddings", "embeddings", "Texts and images in one space", _embeddings, {}),
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
    _log_contents(request, [message.model_dump(exclude_none=True) for message in body.messages])
    if body.x_execute:
        return JSONResponse(await execute_chat(body, request, completion))
    answer = await _begin(request, lambda: chat_requests(body, state.config))
    if body.stream:
        return EventStream(completion.events(answer), answer)
    try:
        replies = await answer.complete(request)
    except _FAILURES as error:
        raise as_api_error(error) from error
    finally:
        answer.close()
    return Response(status_code=499) if replies is None else JSONResponse(completion.whole(replies))


async def _responses(body: ResponsesRequest, request: Request) -> Response:
    state = request.app.state
    check_model(state.config, body.model)
    chat = as_chat(body)
    _log_contents(request, [message.model_dump(exclude_none=True) for message in chat.messages])
    writer = ResponseWriter(body, state.config, state.scheduler.engine.tokenizer)
    answer = await _begin(request, lambda: chat_requests(chat, state.config))
    if body.stream:
        return EventStream(writer.events(answer), answer)
    try:
        replies = await answer.complete(request)
    except _FAILURES as error:
        raise as_api_error(error) from error
    finally:
        answer.close()
    return Response(status_code=499) if replies is None else JSONResponse(writer.whole(replies[0]))


async def _embeddings(body: EmbeddingsRequest, request: Request) -> Response:
    state = request.app.state
    check_model(state.config, body.model)
    try:
        return JSONResponse(await embeddings(body, state.config, state.scheduler))
    except _FAILURES as error:
        raise as_api_error(error) from error


async def _begin(request: Request, make: Callable[[], list[engine.Request]]) -> Answer:
    """Make the engine's requests, which may take a while, and begin to answer them."""
    state = request.app.state
    notes: dict[str, Any] = request.state.notes

    def observe(handle: Handle, reply: engine.Reply | None) -> None:
        state.metrics.observe(handle, reply)
        if reply is not None:
            note_reply(notes, handle, reply, state.config.log_contents)

    try:
        requests = await run_in_threadpool(make)
        state.metrics.images.inc(len(requests[0].images))
        return await Answer.begin(state.scheduler, requests, request.state.owner, state.config.request_seconds, observe)
    except _FAILURES as error:
        raise as_api_error(error) from error


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


def _log_contents(request: Request, messages: list[dict[str, Any]]) -> None:
    if request.app.state.config.log_contents:
        text = json.dumps(messages, ensure_ascii=False)
        request.state.notes["messages"] = text if len(text) <= 4096 else text[:4096] + "…"
