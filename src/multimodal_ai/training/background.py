"""One piece of work at a time beside the training, in a thread.

Its failure is kept and raised where the work is waited for, so that none is lost and none strikes in the middle
of a step. The thread must hold nothing back: a process that leaves at once does not wait for it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable


class Background:
    """Runs work in a daemon thread; `wait` before the next `start`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._thread: threading.Thread | None = None
        self._over = threading.Event()
        self._error: BaseException | None = None

    @property
    def failed(self) -> bool:
        """Whether the work has an error for `wait` to raise."""
        return self._error is not None

    def start(self, work: Callable[[], None]) -> None:
        """Begin `work` and return."""
        assert self._thread is None, "wait for the work before"

        self._over.clear()

        def run() -> None:
            try:
                work()
            except BaseException as error:
                self._error = error
            self._over.set()

        self._thread = threading.Thread(target=run, name=self.name, daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Wait for the work that runs, if any, and raise what it raised.

        When it returns the thread is gone, with all that it held: one that frees tensors while the interpreter ends
        makes it abort.
        """
        if self._thread is not None:
            self._over.wait()  # a `join` that a Ctrl-C interrupts takes the thread for ended
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error
