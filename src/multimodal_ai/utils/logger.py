"""What a person sees while something runs: log lines, progress bars, peak memory.

Everything goes to stderr, so that stdout stays free for results that a program reads. In a job of several
processes only the first one speaks, the others only warn. This module never configures the root logger: a
program that imports the package keeps its own logging.
"""

from __future__ import annotations

import logging
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

PACKAGE = "multimodal_ai"
LINE_SECONDS = 10.0  # without a terminal, a line of progress at most this often

console = Console(stderr=True)


def is_main_process() -> bool:
    """Whether this process is the one that speaks: rank 0, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def get_logger(name: str) -> logging.Logger:
    """A logger under the package's name, which writes through Rich to stderr.

    The level is INFO, or what the environment variable `MULTIMODAL_AI_LOG` names (for example DEBUG).
    """
    package = logging.getLogger(PACKAGE)
    if not any(isinstance(handler, RichHandler) for handler in package.handlers):
        handler = RichHandler(console=console, show_path=False, log_time_format="%H:%M:%S", markup=False)
        handler.setFormatter(logging.Formatter("%(message)s"))
        package.addHandler(handler)
        level = os.environ.get("MULTIMODAL_AI_LOG", "INFO").upper()
        known = level in logging.getLevelNamesMapping()
        package.setLevel((level if known else "INFO") if is_main_process() else "WARNING")
        if not known:
            package.warning("MULTIMODAL_AI_LOG=%s is no log level; using INFO", level)
    inside = name == PACKAGE or name.startswith(PACKAGE + ".")
    return logging.getLogger(name if inside else f"{PACKAGE}.{name}")


class LineProgress(Progress):
    """The same interface without a terminal: a plain line now and then, and one at the end of a task."""

    def __init__(self, *columns: Any, silent: bool = False, **options: Any) -> None:
        super().__init__(*columns, **{**options, "disable": True})
        self._silent = silent
        self._last_line: dict[TaskID, float] = {}
        self._finished: set[TaskID] = set()

    def update(self, task_id: TaskID, **options: Any) -> None:
        super().update(task_id, **options)
        self._line(task_id)

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        super().advance(task_id, advance)
        self._line(task_id)

    def _line(self, task_id: TaskID) -> None:
        task = self._tasks[task_id]
        now = time.monotonic()
        first = self._last_line.setdefault(task_id, now)
        ended = task.finished and task_id not in self._finished
        if self._silent or not (ended or now - first >= LINE_SECONDS):
            return
        self._last_line[task_id] = now
        if ended:
            self._finished.add(task_id)
        total = "?" if task.total is None else f"{task.total:g}"
        left = "" if task.time_remaining is None or ended else f", {_clock(task.time_remaining)} left"
        self.console.print(
            f"{task.description}: {task.completed:g}/{total}, {_clock(task.elapsed or 0.0)} elapsed{left}",
            markup=False,
            highlight=False,
        )


def progress(disable: bool = False) -> Progress:
    """The one style of progress display: description, bar, count, elapsed time, time left.

    Use as a context manager, then `add_task` and `advance`. Where stderr is no terminal it prints plain
    lines instead; in all processes but the first it prints nothing.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    silent = disable or not is_main_process()
    if silent or not console.is_terminal:
        return LineProgress(*columns, console=console, silent=silent)
    return Progress(*columns, console=console)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def peak_memory_gb() -> float:
    """The most main memory this process has held so far, in GB (10^9 bytes).

    On Linux it is the kernel's high-water mark of the resident set; `getrusage` would also count what
    the parent held before this program was started.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e9
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e9 if sys.platform == "darwin" else peak * 1024 / 1e9
