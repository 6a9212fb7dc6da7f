"""What a step measured, and where it is written: metrics.jsonl in the run's folder, and trackers.

One JSON object a line, numbers only, so that a report needs no reader of its own. After a resume the lines
of steps that are done again are dropped first, and the steps that a line is still to be made of come from
the checkpoint: the file always reads as one undisturbed run. Nothing here may change what is trained, or
end the run: lines that a full disk does not take are written when it takes them again.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from multimodal_ai.training.trackers import Trackers
from multimodal_ai.utils.logger import get_logger, peak_memory_gb

logger = get_logger(__name__)
METRICS_FILE = "metrics.jsonl"


@dataclass
class Evaluation:
    """What an evaluation hook returns: numbers, and examples to look at.

    images: uint8[n, H, W, 3] by title.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    text: dict[str, str] = field(default_factory=dict)
    images: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass
class StepMetrics:
    """One optimizer step, summed over all processes except the times, which are the main process' own.

    losses: per term that has a label, the mean over its global count; sources: sum and count by
    `<source>/<term>`; learning_rates: by part; tokens without padding; times in seconds.
    """

    losses: dict[str, float]
    loss: float
    gradient_norms: dict[str, float]
    learning_rate: float
    tokens: float
    images: float
    flops: float
    seconds: float
    data_wait: float
    learning_rates: dict[str, float] = field(default_factory=dict)
    sources: dict[str, tuple[float, float]] = field(default_factory=dict)


class MetricsLog:
    """Gathers steps and writes their mean every so often. On processes other than the main one it is silent."""

    def __init__(self, folder: Path, accelerator: Accelerator, trackers: Trackers, peak_flops: float | None) -> None:
        self.path = folder / METRICS_FILE
        self.accelerator, self.trackers, self.peak_flops = accelerator, trackers, peak_flops
        self.main: bool = accelerator.is_main_process
        self._window: list[StepMetrics] = []
        self._unwritten = ""

    def start(self, step: int, window: Sequence[Mapping[str, Any]] = ()) -> None:
        """Begin after `step` steps; `window` is what `window` gave when the checkpoint was made.

        Lines of steps that will be written again are dropped.
        """
        self._window = [StepMetrics(**values) for values in window]
        if not self.main or not self.path.exists():
            return
        logged = step - len(self._window)

        def stays(line: str) -> bool:
            values = _values(line)
            return values is not None and values["step"] <= (logged if "loss" in values else step)

        kept = "".join(line + "\n" for line in self.path.read_text(encoding="utf-8").splitlines() if stays(line))
        aside = self.path.with_suffix(".partial")
        try:
            aside.write_text(kept, encoding="utf-8")
            os.replace(aside, self.path)
        except OSError as error:
            aside.unlink(missing_ok=True)
            logger.error("%s: %s; steps that are done again will stand there twice", self.path, error.strerror)

    @property
    def window(self) -> list[dict[str, Any]]:
        """The steps that no line has told of yet, as plain data for the checkpoint."""
        return [asdict(metrics) for metrics in self._window]

    def add(self, metrics: StepMetrics) -> None:
        """Remember one step."""
        self._window.append(metrics)

    def flush(self, step: int, time: float) -> dict[str, float]:
        """Write what was gathered since the last time, as the mean of its steps.

        time: seconds since the stage began, over all its runs.
        """
        window, self._window = self._window, []
        if not window:
            return {}
        values = summary(window, self.peak_flops, self.accelerator.num_processes)
        values["memory_gb"] = memory_gb(self.accelerator.device)
        self._write(step, time, values)
        return values

    def evaluation(self, step: int, time: float, result: Evaluation) -> None:
        """Write the numbers of an evaluation as `eval/<name>`, and its examples to the trackers."""
        self._write(step, time, {f"eval/{name}": float(value) for name, value in result.metrics.items()})
        if self.main:
            self.trackers.texts(step, {f"eval/{name}": text for name, text in result.text.items()})
            self.trackers.images(step, {f"eval/{name}": value for name, value in result.images.items()})

    def close(self) -> None:
        """Finish the trackers. (`Accelerator.end_training` would end the process group, too.)"""
        self.trackers.finish()

    def last_losses(self) -> dict[str, float]:
        """The newest losses in the file, for a run that had nothing left to do."""
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        logged = [values for values in map(_values, lines) if values is not None and "loss" in values]
        return logged[-1] if logged else {}

    def _write(self, step: int, time: float, values: Mapping[str, float]) -> None:
        if not self.main:
            return
        line = {"step": step, "time": round(time, 3)}
        line.update({key: _readable(value) for key, value in values.items()})
        already_failed = bool(self._unwritten)
        self._unwritten += json.dumps(line) + "\n"
        try:
            append_whole(self.path, self._unwritten)
            self._unwritten = ""
        except OSError as error:
            if not already_failed:
                logger.error("%s: %s; its lines are kept until they can be written", self.path, error.strerror)
        self.trackers.numbers(step, {key: float(value) for key, value in values.items()})


def append_whole(path: Path, text: str) -> None:
    """Append all of `text` to a file, or nothing of it.

    Raises:
        OSError: it could not be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        try:
            rest = memoryview(text.encode())
            while rest:
                rest = rest[file.write(rest) :]
        except OSError:
            file.truncate(size)
            raise


def summary(window: Sequence[StepMetrics], peak_flops: float | None, processes: int) -> dict[str, float]:
    """Mean of losses and norms over the steps of a window, and rates over its time."""
    seconds = max(sum(step.seconds for step in window), 1e-9)
    values = {"loss": _mean([step.loss for step in window])}
    for term in _keys(step.losses for step in window):  # a term without a label in the whole window has no loss
        values[f"loss/{term}"] = _mean([step.losses[term] for step in window if term in step.losses])
    for name in _keys(step.sources for step in window):
        sums, counts = zip(*(step.sources[name] for step in window if name in step.sources), strict=True)
        values[f"source/{name}"] = sum(sums) / sum(counts)
    values["lr"] = window[-1].learning_rate
    values.update({f"lr/{part}": rate for part, rate in window[-1].learning_rates.items()})
    values["grad_norm"] = _mean([math.hypot(*step.gradient_norms.values()) for step in window])
    for part in window[-1].gradient_norms:
        values[f"grad_norm/{part}"] = _mean([step.gradient_norms[part] for step in window])
    values["tokens_per_s"] = sum(step.tokens for step in window) / seconds
    values["images_per_s"] = sum(step.images for step in window) / seconds
    values["step_s"] = seconds / len(window)
    values["data_wait"] = sum(step.data_wait for step in window) / seconds
    flops = sum(step.flops for step in window) / seconds
    if flops:
        values["flops_per_s"] = flops
        if peak_flops is not None:
            values["mfu"] = flops / (peak_flops * processes)
    return values


def memory_gb(device: torch.device) -> float:
    """Peak memory in GB: of the GPU where there is one, else of the process."""
    return torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else peak_memory_gb()


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _keys(found: Iterable[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(key for values in found for key in values))


def _readable(value: float) -> float:
    return float(f"{value:.9g}")


def _values(line: str) -> dict[str, float] | None:
    """What a line holds; None where a kill cut it short."""
    try:
        values = json.loads(line)
        return values if isinstance(values["step"], int) else None
    except (ValueError, KeyError, TypeError):
        return None
