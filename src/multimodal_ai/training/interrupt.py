"""Ctrl-C, SIGTERM and a closed terminal as a request that the training loop reads between two steps.

The first signal only sets a flag, so that the loop can save a checkpoint and leave in order. A second
Ctrl-C, more than a second later, ends the program at once: a launcher passes the same Ctrl-C on again
within that second. Under `nohup` a closed terminal stays ignored. Outside the main thread, where Python
allows no handlers, it does nothing.
"""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType
from typing import Any

REPEAT_SECONDS = 1.0


class StopRequest:
    """Context manager; `signal` is the number of the signal that came, or None."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._since = 0.0
        self._former: dict[int, Any] = {}

    @property
    def exit_code(self) -> int:
        """What the shell expects: 130 for Ctrl-C, 143 for SIGTERM, 129 for a closed terminal, 0 for none."""
        return 0 if self.signal is None else 128 + self.signal

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                    self._former[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.signal is None:
            self.signal, self._since = number, now
        elif number == signal.SIGINT and now - self._since > REPEAT_SECONDS:
            raise KeyboardInterrupt
