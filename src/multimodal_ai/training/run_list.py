"""What runs lie under a folder, in which state each is, and how to go on with it: for `multimodal-ai runs`.

Everything comes from files that the runs wrote; nothing is guessed, and nothing is written. This module must
stay light (no torch), and it reads only the end of a metrics file, however long that is.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multimodal_ai.training.run_record import RECORD_FILE, read_record, state_of

METRICS_FILE = "metrics.jsonl"
DEPTH = 4  # folders below the one that is searched
INSIDE = frozenset({"checkpoints", "model", "examples"})  # of a run; not searched, and neither is any `data`


@dataclass(frozen=True)
class RunSummary:
    """One run, for a person or a program.

    state: running, finished, stopped (by a signal, with a checkpoint), failed (by an error), killed (it ended
    without a word), or unknown (there are metrics, but no run.json). step, loss: the last that were logged.
    seen: seconds since 1970 of the last sign of life. resume: the command that goes on with it; empty where
    there is nothing to go on with, or where it is not known.
    """

    path: str
    state: str
    stage: str = ""
    step: int | None = None
    total_steps: int | None = None
    loss: float | None = None
    seen: float = 0.0
    message: str = ""
    resume: str = ""


def find_runs(folder: Path) -> list[RunSummary]:
    """The runs in a folder or up to DEPTH below it, those last alive first.

    Raises:
        ValueError: there is no such folder.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; give the one that holds your runs")
    return sorted((summarise(path) for path in _run_folders(folder, DEPTH)), key=lambda run: -run.seen)


def summarise(folder: Path) -> RunSummary:
    """What the files of one run tell."""
    metrics = folder / METRICS_FILE
    last = next((row for row in read_json_lines_backwards(metrics) if "loss" in row and "step" in row), {})
    step, loss = _number(last.get("step")), _number(last.get("loss"))
    written = metrics.stat().st_mtime if metrics.is_file() else 0.0
    found = read_record(folder)
    if found is None:
        return RunSummary(str(folder), "unknown", folder.name, _whole(step), None, loss, written)
    record, touched = found
    state = state_of(record, touched)
    return RunSummary(
        str(folder),
        state,
        record.stage,
        record.step if step is None else _whole(step),
        record.total_steps,
        loss,
        max(touched, written),
        record.message,
        "" if state in ("finished", "running") else record.resume,
    )


def read_json_lines_backwards(path: Path, block: int = 65536) -> Iterator[dict[str, Any]]:
    """The JSON objects of a file, the last first; reads no more than is asked for, and passes over broken lines."""
    try:
        with open(path, "rb") as file:
            position, rest = file.seek(0, os.SEEK_END), b""
            while position:
                size = min(block, position)
                position -= size
                file.seek(position)
                lines = (file.read(size) + rest).split(b"\n")
                rest = lines.pop(0) if position else b""
                for line in reversed(lines):
                    with contextlib.suppress(ValueError):
                        value = json.loads(line)
                        if isinstance(value, dict):
                            yield value
    except OSError:
        return


def ago(seen: float, now: float | None = None) -> str:
    """How long ago that was, in words."""
    seconds = max((time.time() if now is None else now) - seen, 0.0)
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "just now"


def _run_folders(folder: Path, depth: int) -> Iterator[Path]:
    try:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except OSError:  # not ours to read
        return
    names = {entry.name for entry in found}
    is_run = bool(names & {RECORD_FILE, METRICS_FILE})
    if is_run:
        yield folder
    for entry in found if depth else ():
        passed_over = entry.name.startswith(".") or entry.name == "data" or (is_run and entry.name in INSIDE)
        if not passed_over and entry.is_dir(follow_symlinks=False):
            yield from _run_folders(Path(entry.path), depth - 1)


def _number(value: Any) -> float | None:
    """A finite number, or None: JSON for others knows no NaN."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)
