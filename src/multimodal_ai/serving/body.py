"""Reading bodies and sending streams, within bounds of size and time.

A body is strict JSON in UTF-8, or the request fails with a 4xx before anything else looks at it. A stream frees
what it holds however it ends: complete, client gone, or reader too slow.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Protocol

from fastapi import Request, Response
from fastapi.responses import StreamingResponse
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

from multimodal_ai.functions.canonical import parse_json
from multimodal_ai.serving.config import ServerConfig
from multimodal_ai.serving.errors import ApiError
from multimodal_ai.utils.logger import get_logger

logger = get_logger(__name__)


class StrictRequest(Request):
    """A request whose body is bounded in size and time, and whose JSON is strict: see `canonical.parse_json`."""

    _parsed: Any  # once it has been read

    async def body(self) -> bytes:
        if not hasattr(self, "_body"):
            config: ServerConfig = self.app.state.config
            try:
                async with asyncio.timeout(config.upload_seconds):
                    self._body = await self._bounded(config.max_body_bytes)
            except TimeoutError:
                raise ApiError(408, "the body did not arrive in time", "timeout") from None
        return self._body

    async def _bounded(self, most: int) -> bytes:
        too_large = ApiError(413, f"the body is larger than {most:,} bytes", "body_too_large")
        declared = self.headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > most:
            raise too_large
        chunks, size = [], 0
        async for chunk in self.stream():
            size += len(chunk)
            if size > most:
                raise too_large
            chunks.append(chunk)
        return b"".join(chunks)

    async def json(self) -> Any:
        if hasattr(self, "_parsed"):
            return self._parsed
        body = await self.body()
        try:
            self._parsed = await run_in_threadpool(lambda: parse_json(body.decode("utf-8")))
            return self._parsed
        except UnicodeDecodeError as error:
            raise ApiError(400, f"the body is not UTF-8 (byte {error.start})", "invalid_json") from None
        except ValueError as error:
            raise ApiError(400, f"the body cannot be read: {error}", "invalid_json") from None


class StrictRoute(APIRoute):
    """Routes that read a StrictRequest."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def strict(request: Request) -> Response:
            own = StrictRequest(request.scope, request.receive)
            if self.body_field is not None:
                await own.json()  # before FastAPI does, which would hide what went wrong
            return await handler(own)

        return strict


class Streamed(Protocol):
    """What is behind a stream: it has so many seconds, and is closed when the stream is over."""

    @property
    def seconds_left(self) -> float: ...
    def close(self) -> None: ...


class EventStream(StreamingResponse):
    """Server-sent events that close their answer however they end: complete, client gone, or out of time."""

    def __init__(self, events: AsyncIterator[bytes], answer: Streamed) -> None:
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self.answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with asyncio.timeout(max(self.answer.seconds_left, 0) + 1.0):  # a reader may be too slow to end
                await super().__call__(scope, receive, send)
        except TimeoutError:
            logger.warning("a client read too slowly; its stream was ended")
        finally:
            self.answer.close()
