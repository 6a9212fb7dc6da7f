"""Front: one address before several replicas of the application.

It holds what must hold for all replicas together (keys, requests of a key at once, draining, the log) and passes
everything else on. A request whose replica is lost goes to another one as long as its client has read nothing; what
had begun to stream ends with an error that says so. A request that may have run functions is never sent twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Mapping
from types import SimpleNamespace
from typing import Any, Protocol

from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry, Counter
from starlette.concurrency import run_in_threadpool
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from multimodal_ai.serving.answer import unless_gone
from multimodal_ai.serving.app import add_error_handlers, add_gate
from multimodal_ai.serving.body import StrictRequest
from multimodal_ai.serving.chat import event
from multimodal_ai.serving.config import ServerConfig
from multimodal_ai.serving.errors import ApiError, as_api_error
from multimodal_ai.serving.metrics import http_counter, merged_text

TRIES = 3  # a request that takes its replica down must not take all of them
NOTES = "multimodal_ai.notes"  # a message for the log: what is known of an answer so far
_PASSED_ON = {"type", "asgi", "http_version", "method", "scheme", "path", "raw_path", "query_string", "root_path"}
_PASSED_ON |= {"headers", "client", "server"}
_GRACE_SECONDS = 2.0  # beyond the time for a reply, at whose end the replica itself says so
_LAST_WORDS_SECONDS = 1.0  # for a client that may not be reading


class ReplicaLost(RuntimeError):
    """A replica died, or cannot be reached any more, before its answer was complete."""


class Replicas(Protocol):
    """What the front needs of replicas. `answer` gives the ASGI messages of a response, and some of type NOTES."""

    def answer(self, scope: dict[str, Any], body: bytes) -> AsyncGenerator[Message, None]: ...
    def running(self) -> int: ...
    def metrics(self) -> Mapping[str, str]: ...


def create_front(replicas: Replicas, config: ServerConfig) -> FastAPI:
    """The application that passes requests on. Its state holds `config` and `gate`, as that of `create_app` does."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    app.state.config = config
    registry = CollectorRegistry()
    forward = _Forward(replicas, config, registry)
    counted = http_counter(registry)

    @app.get("/health")
    async def health() -> Response:
        return JSONResponse({"status": "ok"})

    @app.get("/ready")
    async def ready() -> Response:
        if app.state.gate.draining:
            return JSONResponse({"status": "shutting down"}, 503)
        running = await run_in_threadpool(replicas.running)
        return JSONResponse(
            {"status": "ready" if running else "no replica", "replicas": running}, 200 if running else 503
        )

    @app.get("/metrics")
    async def metrics() -> Response:
        texts = await run_in_threadpool(replicas.metrics)
        return Response(merged_text(registry, texts), media_type="text/plain; version=0.0.4; charset=utf-8")

    app.router.routes.append(Route("/{path:path}", forward))
    add_error_handlers(app)
    add_gate(app, config, counted)
    return app


class _Forward:
    """Passes a request on and its answer back. An ASGI application."""

    def __init__(self, replicas: Replicas, config: ServerConfig, registry: CollectorRegistry) -> None:
        self.replicas, self.config = replicas, config
        self.lost = Counter(
            "multimodal_ai_replicas_lost", "Replies lost with their replica", ["then"], registry=registry
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = StrictRequest(scope, receive)
        body = await request.body()
        state: dict[str, Any] = {"owner": request.state.owner, "request_id": request.state.request_id}
        passed = {**{key: scope[key] for key in scope.keys() & _PASSED_ON}, "state": state}
        await unless_gone(request, self._answer(scope, passed, body, send))

    async def _answer(self, scope: Scope, passed: dict[str, Any], body: bytes, send: Send) -> None:
        until = asyncio.get_running_loop().time() + self.config.request_seconds + _GRACE_SECONDS
        for number in range(1, TRIES + 1):
            reply = _Reply(scope, send)
            try:
                async with (
                    asyncio.timeout_at(until),
                    contextlib.aclosing(self.replicas.answer(passed, body)) as messages,
                ):
                    async for message in messages:
                        await reply.pass_on(message)
                    await reply.finish()
                return
            except (ReplicaLost, TimeoutError) as error:
                problem = _told(error)
                if reply.complete or reply.sent:
                    if not reply.complete:
                        self._count(error, "ended")
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(_LAST_WORDS_SECONDS):
                            await (reply.finish() if reply.complete else reply.end(problem))
                    return
                if isinstance(error, TimeoutError):
                    raise problem from None
                if _runs_functions(scope["path"], body):
                    self._count(error, "refused")
                    raise ApiError(
                        503,
                        "the replica was lost while it ran functions for this request; they may have done their work, "
                        "so look before you ask again",
                        "replica_lost",
                    ) from None
                if number == TRIES:
                    self._count(error, "refused")
                    raise problem from None
                self._count(error, "retried")
            await asyncio.sleep(0.1 * number)

    def _count(self, error: Exception, then: str) -> None:
        if isinstance(error, ReplicaLost):
            self.lost.labels(then).inc()


class _Reply:
    """One try at a response on its way to the client. Nothing leaves before there is a piece of its body."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._scope, self._send = scope, send
        self._start: Message | None = None
        self._last: Message | None = None  # kept until the notes are complete: the server hangs up once it is sent
        self.sent = 0  # pieces of the body

    async def pass_on(self, message: Message) -> None:
        """Take the next message of a replica."""
        if message["type"] == NOTES:
            self._scope["state"]["notes"].update(message["notes"])
            self._scope["route"] = SimpleNamespace(path=message["path"])  # what the gate logs and counts
        elif message["type"] == "http.response.start":
            self._start = message
        elif message.get("more_body", False):
            await self._piece(message)
        else:
            self._last = message

    @property
    def complete(self) -> bool:
        """Whether all of the response is here."""
        return self._last is not None

    async def finish(self) -> None:
        """Send the last piece."""
        if self._last is not None:
            await self._piece(self._last)

    async def _piece(self, message: Message) -> None:
        if not self.sent and self._start is not None:
            await self._send(self._start)
        self.sent += 1
        await self._send(message)

    async def end(self, problem: ApiError) -> None:
        """End a stream that broke off with an error event. Raises `problem` where the response is no stream."""
        headers = dict(self._start["headers"]) if self._start is not None else {}
        if not headers.get(b"content-type", b"").startswith(b"text/event-stream"):
            raise problem
        body = problem.body()
        told = event(body)
        if self._scope["path"].endswith("/responses"):
            said = {key: body["error"][key] for key in ("message", "code", "param")}
            told = b"event: error\n" + event({"type": "error", "sequence_number": self.sent, **said})
        await self._send({"type": "http.response.body", "body": told, "more_body": False})


def _told(error: Exception) -> ApiError:
    """What a client is told of a lost replica, or of a reply that took too long."""
    if isinstance(error, TimeoutError):
        return as_api_error(error)
    said = "the replica that wrote this reply was lost; ask again"
    return ApiError(503, said, "replica_lost", headers={"Retry-After": "1"})


def _runs_functions(path: str, body: bytes) -> bool:
    """Whether the server may have run functions for this request, so that it must not be repeated."""
    if path == "/v1/calls":
        return True
    try:
        return bool(json.loads(body).get("x_execute")) if body else False
    except (ValueError, AttributeError, RecursionError):
        return False  # the application refuses such a body without running anything
