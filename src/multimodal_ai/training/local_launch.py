"""Runs a stage on this machine's cores as a few processes of `multimodal-ai train`, and waits for them.

Two processes with a thread each train a small model about 1.4 times as fast as one with two threads, whose
cores wait for each other after every small product (docs/decisions.md). It is what a launcher does and no
more: on several machines, or with GPUs, use `accelerate launch` or `torchrun`. It never leaves a process
behind: a signal is passed on, and where one process fails the others are ended.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from multimodal_ai.training.interrupt import StopRequest

MEASURE_SECONDS = 1.0  # between two looks at the memory
GRACE_SECONDS = 60.0  # for the others when one process has failed, and for a checkpoint after a signal


@dataclass(frozen=True)
class Launched:
    """How it ended: the exit code of `multimodal-ai train`, and the most memory all processes held, in GB."""

    exit_code: int
    peak_memory_gb: float


def train_locally(config: Path, overrides: Sequence[str], processes: int, log: Path) -> Launched:
    """Train the stage of a YAML with `processes` processes that share the cores evenly.

    log: where the processes but the first write what they have to say; the first one has the terminal.
    """
    command = [sys.executable, "-m", "multimodal_ai.cli", "train", "--config", str(config)]
    command += [argument for override in overrides for argument in ("--set", override)]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": str(max((os.cpu_count() or 1) // processes, 1)),
    }
    log.parent.mkdir(parents=True, exist_ok=True)
    with StopRequest() as request, log.open("w", encoding="utf-8") as others:
        children = []
        try:
            for rank in range(processes):
                environment = {**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)}
                error = None if rank == 0 else others
                children.append(
                    subprocess.Popen(
                        command, env=environment, stdout=subprocess.DEVNULL, stderr=error, preexec_fn=_end_with_parent
                    )
                )
            return _wait(children, request)
        finally:
            for child in children:
                if child.poll() is None:
                    child.kill()
                child.wait()


def _wait(children: Sequence[subprocess.Popen[bytes]], request: StopRequest) -> Launched:
    """Until all have ended, or the grace after a signal or a failure is over."""
    peak, measured, deadline, passed_on = 0, float("-inf"), float("inf"), False
    while any(child.poll() is None for child in children):
        if time.monotonic() >= measured + MEASURE_SECONDS:
            peak, measured = max(peak, memory_in_use()), time.monotonic()
        if request.signal is not None and not passed_on:
            passed_on, deadline = True, time.monotonic() + GRACE_SECONDS
            for child in children:
                child.send_signal(request.signal)
        if any(child.poll() for child in children):
            deadline = min(deadline, time.monotonic() + GRACE_SECONDS)
        if time.monotonic() > deadline:
            break
        time.sleep(0.2)
    codes = [child.poll() for child in children]
    failed = [128 + signal.SIGKILL if code is None else 128 - code if code < 0 else code for code in codes if code != 0]
    return Launched(request.exit_code or (failed[0] if failed else 0), peak / 1e9)


def memory_in_use() -> int:
    """Bytes of main memory that this process and all below it hold; what they share counts once (Linux)."""
    total = 0
    own = psutil.Process()
    for process in (own, *own.children(recursive=True)):
        try:
            memory = process.memory_full_info()
            total += getattr(memory, "pss", memory.rss)
        except psutil.Error:  # it has ended
            pass
    return total


def _end_with_parent() -> None:
    """In a child: be told to stop when the parent is gone, so that no training goes on unseen (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
