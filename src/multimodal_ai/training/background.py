"""One piece of work at a time beside the training, in a thread.

Its failure is kept and raised where the work is waited for, so that none is lost and none strikes in the middle
of a step. The thread must hold nothing back: a process that leaves at once does not wait for it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future


class Background:
    """Runs work in a daemon thread; `wait` before the next `start`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._running: Future[None] | None = None

    @property
    def failed(self) -> bool:
        """Whether the work is over and has an error for `wait` to raise."""
        return self._running is not None and self._running.done() and self._running.exception() is not None

    def start(self, work: Callable[[], None]) -> None:
        """Begin `work` and return."""
        assert self._running is None, "wait for the work before"
        self._running = future = Future[None]()

        def run() -> None:
            try:
                work()
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(None)

        threading.Thread(target=run, name=self.name, daemon=True).start()

    def wait(self) -> None:
        """Wait for the work that runs, if any, and raise what it raised."""
        running = self._running
        if running is not None:
            try:
                running.result()
            finally:
                if running.done():  # else: interrupted while waiting
                    self._running = None
