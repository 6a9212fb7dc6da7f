"""Micro-batches for the loop, made by worker processes where the config asks for them.

A micro-batch is a pure function of its number, so a worker that dies (killed for memory, a crash inside a
decoder) costs a few seconds and nothing else: the workers are started anew at the first micro-batch that is
missing, and the run goes on with the very same numbers. Nothing here may interrupt the loop in the middle
of a step: whatever goes wrong comes out of `take`.
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
RESTARTS = 3  # in a row, without a micro-batch between them


class WorkerError(RuntimeError):
    """The data workers die again and again; the message says what to try."""


class BatchStream:
    """This process' micro-batches `first`, `first + 1`, ... without end.

    Args:
        micro_batches: item i is micro-batch i.
        workers: processes that prepare them; 0 prepares them here.
        device: what they will be copied to; for a GPU they come in page-locked memory.
    """

    def __init__(self, micro_batches: Dataset[Any], first: int, workers: int, device: torch.device) -> None:
        self._data, self._next, self._workers, self._device = micro_batches, first, workers, device
        self._iterator: Iterator[Any] | None = None

    def take(self, count: int) -> list[TrainingBatch]:
        """The next `count` micro-batches.

        Raises:
            WorkerError: workers died more than RESTARTS times in a row.
            Exception: whatever `micro_batches` raised, in a worker too.
        """
        return [self._one() for _ in range(count)]

    def close(self) -> None:
        """End the workers."""
        iterator, self._iterator = self._iterator, None
        for worker in getattr(iterator, "_workers", ()):
            worker.kill()  # one that waits for a lock of a dead one would not hear of the end
        if hasattr(iterator, "_shutdown_workers"):
            cast(Any, iterator)._shutdown_workers()

    def _one(self) -> TrainingBatch:
        for attempt in range(RESTARTS + 1):
            try:
                if self._iterator is None:
                    self._iterator = self._start()
                item = next(self._iterator)
            except Exception as error:  # what the data raise comes as a _Failure: this is a worker's end
                if not self._workers:
                    raise
                self.close()
                reason = (str(error) or type(error).__name__).splitlines()[0]
                if attempt < RESTARTS:
                    logger.warning("%s; starting the workers anew at micro-batch %d", reason, self._next)
                continue
            if isinstance(item, _Failure):
                raise item.error
            self._next += 1
            return cast(TrainingBatch, item)
        raise WorkerError(
            f"data workers died {RESTARTS + 1} times in a row at micro-batch {self._next} ({reason}); if memory is "
            "short, lower workers or batch.micro_size; workers=0 shows what happens in the training process itself"
        )

    def _start(self) -> Iterator[Any]:
        loader: DataLoader[Any] = DataLoader(
            _Guarded(self._data) if self._workers else self._data,
            batch_size=None,
            sampler=_From(self._next),
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


class _From(Sampler[int]):
    """first, first + 1, first + 2, ... without end."""

    def __init__(self, first: int) -> None:
        self.first = first

    def __iter__(self) -> Iterator[int]:
        number = self.first
        while True:
            yield number
            number += 1


def _ignore_signals(worker: int) -> None:
    """In a worker: signals sent to the whole group are the training process' to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
