"""What a step measured, and where it is written: metrics.jsonl in the run's folder, and Accelerate's trackers.

One JSON object a line, numbers only, so that a report needs no reader of its own. After a resume the lines
of steps that are done again are dropped first: the file always reads as one undisturbed run. Nothing here
may change what is trained.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from multimodal_ai.utils.logger import peak_memory_gb

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

    losses: per term, the mean over its global count; tokens without padding; times in seconds.
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


class MetricsLog:
    """Gathers steps and writes their mean every so often. On processes other than the main one it is silent."""

    def __init__(
        self, folder: Path, accelerator: Accelerator, stage: str, trackers: Sequence[str], peak_flops: float | None
    ) -> None:
        self.path = folder / METRICS_FILE
        self.accelerator, self.peak_flops = accelerator, peak_flops
        self.main: bool = accelerator.is_main_process
        self._window: list[StepMetrics] = []
        self._stage, self._tracking = stage, bool(trackers)

    def start(self, step: int) -> None:
        """Begin after `step` steps: lines of later steps, which will be done again, are dropped."""
        if self._tracking:
            purge = {"tensorboard": {"purge_step": step + 1}} if step else {}
            self.accelerator.init_trackers(self._stage, init_kwargs=purge)
        if not self.main or not self.path.exists():
            return
        kept = [line for line in self.path.read_text(encoding="utf-8").splitlines() if _step_of(line) <= step]
        aside = self.path.with_suffix(".partial")
        aside.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        os.replace(aside, self.path)

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
        if not self.main or not self._tracking:
            return
        if result.text:
            self.accelerator.log({f"eval/{name}": text for name, text in result.text.items()}, step=step)
        for tracker in self.accelerator.trackers:
            if result.images and hasattr(tracker, "log_images"):
                options: dict[str, Any] = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
                images = {f"eval/{name}": value for name, value in result.images.items()}
                tracker.log_images(images, step=step, **options)

    def close(self) -> None:
        """Finish the trackers. (`Accelerator.end_training` would end the process group, too.)"""
        for tracker in self.accelerator.trackers:
            tracker.finish()
        self.accelerator.trackers.clear()

    def last_losses(self) -> dict[str, float]:
        """The newest losses in the file, for a run that had nothing left to do."""
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        logged = [values for values in map(json.loads, lines) if "loss" in values]
        return logged[-1] if logged else {}

    def _write(self, step: int, time: float, values: Mapping[str, float]) -> None:
        if not self.main:
            return
        line = {"step": step, "time": round(time, 3)}
        line.update({key: _readable(value) for key, value in values.items()})
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if self._tracking:
            self.accelerator.log({key: float(value) for key, value in values.items()}, step=step)


def summary(window: Sequence[StepMetrics], peak_flops: float | None, processes: int) -> dict[str, float]:
    """Mean of losses and norms over the steps of a window, and rates over its time."""
    seconds = max(sum(step.seconds for step in window), 1e-9)
    values = {"loss": _mean([step.loss for step in window])}
    for term in window[-1].losses:
        seen = [step.losses[term] for step in window if not math.isnan(step.losses[term])]
        if seen:  # a term without a label in the whole window has no loss
            values[f"loss/{term}"] = _mean(seen)
    values["lr"] = window[-1].learning_rate
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


def _readable(value: float) -> float:
    return float(f"{value:.9g}")


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):  # a line cut short by a kill
        return math.inf
