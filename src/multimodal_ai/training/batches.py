"""Micro-batches for the loop, made by worker processes where the config asks for them.

A micro-batch is a pure function of its number, so a worker that dies (killed for memory, a crash inside a
decoder) costs a few seconds and nothing else: the workers are started anew at the first step that is missing,
and the run goes on with the very same numbers. Nothing here may interrupt the loop in the middle of a step:
whatever goes wrong comes out of `take`. A worker makes the whole of a step, whose samples are sorted together.
"""

from __future__ import annotations

import pickle
import signal
import threading
import traceback
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from multimodal_ai.training.interface import TrainingBatch
from multimodal_ai.utils.logger import get_logger

logger = get_logger(__name__)
RESTARTS = 3  # in a row, without a step between them


class WorkerError(RuntimeError):
    """The data workers die again and again; the message says what to try."""


class BatchStream:
    """This process' micro-batches, step by step from `step` on, without end.

    Args:
        micro_batches: item i is micro-batch i, of step i // accumulation.
        step: the first one.
        accumulation: micro-batches of a step.
        workers: processes that prepare them; 0 prepares them here.
        device: what they will be copied to; for a GPU they come in page-locked memory.
    """

    def __init__(
        self, micro_batches: Dataset[Any], step: int, accumulation: int, workers: int, device: torch.device
    ) -> None:
        self._data, self._next, self._accumulation = micro_batches, step, accumulation
        self._workers, self._device = workers, device
        self._iterator: Iterator[Any] | None = None

    def take(self) -> list[TrainingBatch]:
        """The micro-batches of the next step.

        Raises:
            WorkerError: workers died more than RESTARTS times in a row.
            Exception: whatever `micro_batches` raised, in a worker too.
        """
        for attempt in range(RESTARTS + 1):
            try:
                if self._iterator is None:
                    self._iterator = self._start()
                items = next(self._iterator)
            except Exception as error:  # what the data raise comes as a _Failure: this is a worker's end
                if not self._workers:
                    raise
                self.close()
                reason = (str(error) or type(error).__name__).splitlines()[0]
                if attempt < RESTARTS:
                    logger.warning("%s; starting the workers anew at step %d", reason, self._next)
                continue
            for item in items:
                if isinstance(item, _Failure):
                    raise item.error
            self._next += 1
            return cast(list[TrainingBatch], items)
        raise WorkerError(
            f"data workers died {RESTARTS + 1} times in a row at step {self._next} ({reason}); if memory is "
            "short, lower workers or batch.micro_size; workers=0 shows what happens in the training process itself"
        )

    def close(self) -> None:
        """End the workers."""
        iterator, self._iterator = self._iterator, None
        for worker in getattr(iterator, "_workers", ()):
            worker.kill()  # one that waits for a lock of a dead one would not hear of the end
        if hasattr(iterator, "_shutdown_workers"):
            cast(Any, iterator)._shutdown_workers()

    def _start(self) -> Iterator[Any]:
        loader: DataLoader[Any] = DataLoader(
            _Guarded(self._data) if self._workers else self._data,
            batch_sampler=_Steps(self._next, self._accumulation),
            collate_fn=list,
            num_workers=self._workers,
            pin_memory=self._device.type == "cuda",
            worker_init_fn=_ignore_signals,
        )
        if threading.current_thread() is not threading.main_thread():
            return iter(loader)
        # Torch would raise from a signal handler, in the middle of whatever the training process is doing.
        former = signal.getsignal(signal.SIGCHLD)
        try:
            return iter(loader)
        finally:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL if former is None else former)


class _Failure:
    """An exception on its way from a worker, with the worker's traceback as a note."""

    def __init__(self, error: Exception) -> None:
        error.add_note("".join(traceback.format_exception(error)))
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # some cannot travel, and each fails in a way of its own
            error = RuntimeError(f"{type(error).__name__}: {error}")
        self.error = error


class _Guarded(Dataset[Any]):
    """The same items, but an exception is an item, too: what torch makes of one hides its message."""

    def __init__(self, data: Dataset[Any]) -> None:
        self.data = data

    def __getitem__(self, number: int) -> Any:
        try:
            return self.data[number]
        except Exception as error:
            return _Failure(error)


class _Steps(Sampler[list[int]]):
    """The numbers of each step's micro-batches, from step `first` on without end."""

    def __init__(self, first: int, accumulation: int) -> None:
        self.first, self.accumulation = first, accumulation

    def __iter__(self) -> Iterator[list[int]]:
        step = self.first
        while True:
            yield list(range(step * self.accumulation, (step + 1) * self.accumulation))
            step += 1


def _ignore_signals(worker: int) -> None:
    """In a worker: signals sent to the whole group are the training process' to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
