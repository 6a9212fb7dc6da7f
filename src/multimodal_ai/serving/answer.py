"""One HTTP request's replies on their way from the scheduler's thread to the event loop.

An Answer is begun before the response starts, so that what is wrong with a request becomes a status and not a
broken stream. Closing it frees the places of what is not complete: that is how a client that goes away, and a
deadline, cancel.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as HttpRequest

from multimodal_ai.inference.requests import Delta, Reply, Request
from multimodal_ai.inference.scheduler import Handle, Piece, Scheduler

R = TypeVar("R")
Observe = Callable[[Handle, Reply | None], None]


class Answer:
    """The replies to some engine requests, in pieces as they come. Make one with `begin`, and close it."""

    def __init__(self, seconds: float, observe: Observe) -> None:
        self._queue: asyncio.Queue[tuple[int, Piece]] = asyncio.Queue()
        self._handles: list[Handle] = []
        self._deadline = time.monotonic() + seconds
        self._observe = observe
        self._first: list[tuple[int, Piece]] = []
        self.replies: dict[int, Reply] = {}

    @classmethod
    async def begin(
        cls, scheduler: Scheduler, requests: Sequence[Request], http: HttpRequest, seconds: float, observe: Observe
    ) -> Answer | None:
        """Submit the requests and wait for the first piece; None where the client has gone away meanwhile.

        Raises what the scheduler and the engine raise, and TimeoutError.
        """
        answer = cls(seconds, observe)
        loop = asyncio.get_running_loop()
        first = None
        try:
            for number, request in enumerate(requests):

                def emit(piece: Piece, number: int = number) -> None:
                    loop.call_soon_threadsafe(answer._queue.put_nowait, (number, piece))

                handle = await run_in_threadpool(scheduler.submit, request, http.state.owner, emit)
                answer._handles.append(handle)
            first = await unless_gone(http, answer._next())
            if first is not None and isinstance(first[1], Exception):
                raise first[1]
        except BaseException:
            answer.close()
            raise
        if first is None:
            answer.close()
            return None
        answer._first = [first]
        return answer

    async def _next(self) -> tuple[int, Piece]:
        return await asyncio.wait_for(self._queue.get(), max(self._deadline - time.monotonic(), 0.001))

    @property
    def seconds_left(self) -> float:
        return self._deadline - time.monotonic()

    async def pieces(self) -> AsyncIterator[tuple[int, Delta]]:
        """Every piece with the number of its request. Raises what a request failed of, and TimeoutError."""
        while len(self.replies) < len(self._handles):
            number, piece = self._first.pop() if self._first else await self._next()
            if isinstance(piece, Exception):
                raise piece
            if piece.reply is not None:
                self.replies[number] = piece.reply
            yield number, piece

    async def complete(self, http: HttpRequest) -> list[Reply] | None:
        """All replies; None where the client has gone away meanwhile."""

        async def collect() -> list[Reply]:
            async for _ in self.pieces():
                pass
            return [self.replies[number] for number in range(len(self._handles))]

        return await unless_gone(http, collect())

    def close(self) -> None:
        """Cancel what is not complete, and report how each request went."""
        for number, handle in enumerate(self._handles):
            if handle.ended is None:
                handle.cancel()
            self._observe(handle, self.replies.get(number))
        self._handles, self._observe = [], lambda handle, reply: None


async def disconnected(http: HttpRequest) -> None:
    """Return when the client is gone; its body must have been read."""
    while (await http.receive())["type"] != "http.disconnect":
        pass


async def unless_gone(http: HttpRequest, work: Coroutine[Any, Any, R]) -> R | None:
    """The result of some work, or None as soon as the client has gone away; then the work is cancelled."""
    task, gone = asyncio.create_task(work), asyncio.create_task(disconnected(http))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        task.cancel()
        gone.cancel()
