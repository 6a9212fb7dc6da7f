"""What the training loop takes and gives back: batches, evaluation hooks, results, errors.

Types only; whoever writes a hook or calls the trainer reads this file and needs none of the loop.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from multimodal_ai.training.metrics import Evaluation


class TrainingBatch(Protocol):
    """What the loop needs of a micro-batch; `data.packing.Batch` is one."""

    origins: list[str]
    patches: Tensor

    @property
    def useful_tokens(self) -> int: ...

    def to(self, device: torch.device | str, non_blocking: bool = False) -> TrainingBatch: ...


class TrainingStopped(RuntimeError):
    """The run cannot go on. The message says why, and what to do; what was trained is in a checkpoint."""


class NonFiniteError(TrainingStopped):
    """A loss or gradient was NaN or infinite. The optimizer step was not taken; the message says where."""


EvalHook = Callable[[int, nn.Module], "Evaluation | Mapping[str, float]"]


@dataclass
class TrainResult:
    """How a stage ended.

    exit_code: 0, 130 after Ctrl-C, 143 after SIGTERM, 129 after the terminal was closed, even if the stage was
    completed in spite of it.
    losses: means of the last logged steps, by term. model_dir: the trained model, None if interrupted.
    seconds: over all runs of the stage.
    """

    stage: str
    status: Literal["completed", "interrupted"]
    exit_code: int
    step: int
    total_steps: int
    seconds: float
    loss: float = math.nan
    losses: dict[str, float] = field(default_factory=dict)
    evaluation: dict[str, float] = field(default_factory=dict)
    checkpoint: Path | None = None
    model_dir: Path | None = None
