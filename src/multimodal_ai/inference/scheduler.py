"""Scheduler: many threads ask, one thread owns the engine and answers all of them in one running batch.

Requests join and leave between steps. Who waits is admitted in turn by owner, so that one owner's many requests
do not hold up another's only one; the queue is bounded and a full one refuses at once. Cancelling frees the place
before the next step. Whatever happens to one request, its handle gets an end, and the others go on.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

from multimodal_ai.inference.engine import Engine, PreparedRequest
from multimodal_ai.inference.requests import Delta, Reply, Request
from multimodal_ai.inference.running_batch import Row, RunningBatch
from multimodal_ai.utils.logger import get_logger

logger = get_logger(__name__)
R = TypeVar("R")
Piece = Delta | Exception


class QueueFull(RuntimeError):
    """As many requests wait as may; try again later."""


class Cancelled(RuntimeError):
    """The request was cancelled before its reply was complete."""


class Handle:
    """One request that was submitted. Iterate for its pieces; the last one holds the reply.

    Times are of `time.monotonic`, in seconds; None for what has not happened.
    """

    def __init__(self, prepared: PreparedRequest, owner: str, emit: Callable[[Piece], None] | None) -> None:
        self.prepared, self.owner = prepared, owner
        self.submitted = time.monotonic()
        self.first_token: float | None = None
        self.ended: float | None = None
        self.cancelled = False
        self._pieces: SimpleQueue[Piece] = SimpleQueue()
        self._emit = emit or self._pieces.put
        self.row: Row[Handle] | None = None

    def cancel(self) -> None:
        """Stop: the place is free before the next step. Pieces end with `Cancelled` unless the reply is complete."""
        self.cancelled = True

    def __iter__(self) -> Iterator[Delta]:
        while True:
            piece = self._pieces.get()
            if isinstance(piece, Exception):
                raise piece
            yield piece
            if piece.kind == "end":
                return

    def reply(self) -> Reply:
        """Wait for the whole reply. Raises what the request failed of."""
        for delta in self:
            if delta.reply is not None:
                return delta.reply
        raise AssertionError("a stream ends with its reply")

    def give(self, piece: Piece) -> None:
        """For the scheduler: pass on a piece; nothing follows an end."""
        if self.ended is not None:
            return
        now = time.monotonic()
        if isinstance(piece, Exception) or piece.kind == "end":
            self.ended = now
        if not isinstance(piece, Exception) and self.first_token is None:
            self.first_token = now
        try:
            self._emit(piece)
        except Exception:  # whoever listened is gone
            self.cancelled = True


class Scheduler:
    """Answers requests from any thread with one engine.

    max_rows: requests answered at once. max_waiting: requests that may wait besides. admitted_at_once: requests
    encoded between two steps, which is how long those that are being answered may be held up.
    """

    def __init__(self, engine: Engine, max_rows: int = 16, max_waiting: int = 64, admitted_at_once: int = 4) -> None:
        self.engine = engine
        self.max_rows, self.max_waiting, self.admitted_at_once = max_rows, max_waiting, admitted_at_once
        self.tokens = 0  # written so far
        self._batch: RunningBatch[Handle] = engine.new_batch()
        self._waiting: OrderedDict[str, deque[Handle]] = OrderedDict()  # by owner; the one whose turn it is first
        self._jobs: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="scheduler", daemon=True)
        self._thread.start()

    # -- for any thread ---------------------------------------------------------------------------------------

    def submit(self, request: Request, owner: str = "", emit: Callable[[Piece], None] | None = None) -> Handle:
        """Put a request into the queue.

        owner: with whom it shares its turn. emit: called in the scheduler's thread with every piece, and with the
        error of a request that fails; without it, iterate over the handle. Raises QueueFull, RuntimeError after
        `close`, and what `Engine.prepare` raises.
        """
        with self._changed:
            self._refuse_if_full()
        handle = Handle(self.engine.prepare(request), owner, emit)
        with self._changed:
            self._refuse_if_full()
            self._waiting.setdefault(owner, deque()).append(handle)
            self._changed.notify()
        return handle

    def call(self, job: Callable[[], R]) -> Future[R]:
        """Run a function that uses the engine between two steps. Raises QueueFull where too many wait."""
        future: Future[R] = Future()
        with self._changed:
            if self._closed:
                raise RuntimeError("the scheduler is closed")
            if len(self._jobs) >= self.max_waiting:
                raise QueueFull(f"{len(self._jobs)} jobs wait already")
            self._jobs.append((job, future))
            self._changed.notify()
        return future

    def _refuse_if_full(self) -> None:
        if self._closed:
            raise RuntimeError("the scheduler is closed")
        if self.waiting >= self.max_waiting:
            raise QueueFull(f"{self.waiting} requests wait already")

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return sum(map(len, list(self._waiting.values())))

    @property
    def running(self) -> int:
        """Requests that are being answered."""
        return len(self._batch.rows)

    @property
    def alive(self) -> bool:
        """Whether it can answer."""
        return self._thread.is_alive() and not self._closed

    def close(self) -> None:
        """Stop. What is not answered yet ends with `Cancelled`."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    # -- the thread that owns the engine ----------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            with self._changed:
                while not (self._closed or self._jobs or self._waiting or self._batch.rows):
                    self._changed.wait()
                if self._closed:
                    break
                jobs = [self._jobs.popleft()] if self._jobs else []
                admitted = self._next(min(self.admitted_at_once, self.max_rows - self.running))
            for job, future in jobs:
                _run(job, future)
            self._admit(admitted)
            self._step()
        self._end_all()

    def _next(self, count: int) -> list[Handle]:
        """The next requests from the queue, one owner after the other. Cancelled ones leave without a turn."""
        chosen: list[Handle] = []
        for owner, queue in list(self._waiting.items()):
            for handle in [handle for handle in queue if handle.cancelled]:
                queue.remove(handle)
                handle.give(Cancelled("cancelled while it waited"))
            if not queue:
                del self._waiting[owner]
        while self._waiting and len(chosen) < count:
            owner, queue = self._waiting.popitem(last=False)
            chosen.append(queue.popleft())
            if queue:
                self._waiting[owner] = queue  # to the end: the others come first
        return chosen

    def _admit(self, handles: list[Handle]) -> None:
        """Encode and join, together if that works, else one by one: a bad request fails alone."""
        try:
            self.engine.join(self._batch, [(handle, handle.prepared) for handle in handles])
        except Exception as error:
            if len(handles) > 1:
                for handle in handles:
                    self._admit([handle])
                return
            if not isinstance(error, ValueError):
                logger.exception("a request could not be encoded")
            handles[0].give(error)

    def _step(self) -> None:
        try:
            for row in [row for row in self._batch.rows if row.tag.cancelled]:
                self._batch.remove(row)
                row.tag.give(Cancelled("cancelled"))
            for handle, piece in self._batch.write():
                handle.give(piece)
            self.tokens += sum(len(row.pending) for row in self._batch.rows)
            self._batch.advance()
        except Exception as error:
            logger.exception("a step failed; the requests in it end")
            lost = [row.tag for row in self._batch.rows]
            self._batch = self.engine.new_batch()
            for handle in lost:
                handle.give(error)

    def _end_all(self) -> None:
        for handle in [row.tag for row in self._batch.rows] + [h for queue in self._waiting.values() for h in queue]:
            handle.give(Cancelled("the server is shutting down"))
        for _, future in self._jobs:
            future.set_exception(Cancelled("the server is shutting down"))
        self._batch.clear()
        self._waiting.clear()


def _run(job: Callable[[], Any], future: Future[Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(job())
    except Exception as error:
        future.set_exception(error)
