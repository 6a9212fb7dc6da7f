"""run.json: what a run is doing, for whoever looks at its folder from outside.

Written when a run starts and when it ends, and touched every few seconds between, so that a run that was
killed cannot pass for one that runs: its process is gone, or, seen from another machine, its file has gone
still. It holds the command that resumes the run. This module must stay light (no torch): `multimodal-ai
runs` reads many of these.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Literal

import psutil

from multimodal_ai.utils.logger import get_logger

logger = get_logger(__name__)
RECORD_FILE = "run.json"
BEAT_SECONDS = 15.0
SILENT_SECONDS = 60.0  # on another machine, a file that still is dead
LAUNCHERS = ("torchrun", "accelerate", "multimodal-ai", "multimodal_ai.cli", "torch.distributed.run")

State = Literal["running", "finished", "stopped", "failed"]


@dataclass
class RunRecord:
    """One run as its main process tells of it.

    state: stopped: by a signal, with a checkpoint; failed: by an error, told in `message`. process_started:
    with `pid` and `host` it names one process for ever; seconds since 1970, as `started`. command, folder:
    what was called, and where.
    """

    stage: str
    state: State = "running"
    step: int = 0
    total_steps: int | None = None
    message: str = ""
    processes: int = 1
    pid: int = 0
    host: str = ""
    process_started: float = 0.0
    started: float = 0.0
    command: list[str] = field(default_factory=list)
    folder: str = ""
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def alive(self) -> bool:
        """Whether the process that wrote this runs; only its own machine can tell."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.process_started) < 5.0
            return same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False

    @property
    def resume(self) -> str:
        """The command that goes on with the run, for a shell in any folder."""
        command = shlex.join(self.command)
        return command if self.folder == os.getcwd() else f"cd {shlex.quote(self.folder)} && {command}"


def read_record(folder: Path) -> tuple[RunRecord, float] | None:
    """The record of a run and when it was last touched (seconds since 1970); None where there is none to read."""
    try:
        path = folder / RECORD_FILE
        values = json.loads(path.read_text(encoding="utf-8"))
        known = {entry.name for entry in fields(RunRecord)}
        return RunRecord(**{key: value for key, value in values.items() if key in known}), path.stat().st_mtime
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def state_of(record: RunRecord, touched: float) -> str:
    """The record's state, but `killed` where it says `running` and nothing runs."""
    if record.state != "running":
        return record.state
    runs = record.alive if record.host == socket.gethostname() else time.time() - touched < SILENT_SECONDS
    return "running" if runs else "killed"


class RunKeeper:
    """Keeps the record of the run in `folder`; does nothing unless `active`, as only the main process is."""

    def __init__(self, folder: Path, active: bool, record: RunRecord) -> None:
        self.folder, self.active, self.record = folder, active, record
        self._over = threading.Event()

    def wait_for_other(self, patience: float = SILENT_SECONDS) -> None:
        """Return when no other process trains into this folder.

        Raises:
            ValueError: one still does after `patience` seconds.
        """
        deadline, told = time.monotonic() + patience, False
        while self.active and (found := read_record(self.folder)) is not None:
            other, touched = found
            if state_of(other, touched) != "running" or (other.pid, other.host) == (self.record.pid, self.record.host):
                return
            who = f"process {other.pid} on {other.host}"
            if time.monotonic() > deadline:
                raise ValueError(
                    f"{self.folder} is being trained by {who}; stop that first, or give another output_dir"
                )
            if not told:
                logger.warning("%s was being trained by %s; waiting for its end", self.folder, who)
            told = True
            time.sleep(0.5)

    @contextlib.contextmanager
    def running(self, step: int, total_steps: int) -> Iterator[None]:
        """Around the run: says that it runs, and if it ends with an exception that it failed, and why."""
        self.record.step, self.record.total_steps, self.record.started = step, total_steps, time.time()
        self._write()
        beat = threading.Thread(target=self._beat, name="run record", daemon=True)
        beat.start()
        try:
            yield
        except BaseException as error:
            if self.record.state == "running":
                self.record.state = "failed" if isinstance(error, Exception) else "stopped"
                self.record.message = (str(error) or type(error).__name__).splitlines()[0]
            raise
        finally:
            self._over.set()
            beat.join()
            self._write()

    def plan(self, total_steps: int) -> None:
        """Tell of another number of steps, where it changed."""
        if total_steps != self.record.total_steps:
            self.record.total_steps = total_steps
            self._write()

    def _beat(self) -> None:
        while not self._over.wait(BEAT_SECONDS):
            if self.active:
                with contextlib.suppress(OSError):
                    os.utime(self.folder / RECORD_FILE)

    def _write(self) -> None:
        """Aside first and then renamed. A full disk costs the record, not the run."""
        if not self.active:
            return
        path = self.folder / RECORD_FILE
        aside = path.with_suffix(".partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            aside.write_text(json.dumps(asdict(self.record), indent=1) + "\n", encoding="utf-8")
            os.replace(aside, path)
        except OSError as error:
            with contextlib.suppress(OSError):
                aside.unlink(missing_ok=True)
            logger.error("%s: %s", path, error.strerror)


def new_record(stage: str, processes: int, environment: Mapping[str, str]) -> RunRecord:
    """The record of a run that this process is about to start."""
    own = psutil.Process()
    return RunRecord(
        stage,
        processes=processes,
        pid=own.pid,
        host=socket.gethostname(),
        process_started=own.create_time(),
        command=started_by(own),
        folder=os.getcwd(),
        environment=dict(environment),
    )


def started_by(process: psutil.Process) -> list[str]:
    """The command that started a training process: its launcher's, where there is one."""
    own = list(sys.orig_argv) if process.pid == os.getpid() else process.cmdline()
    with contextlib.suppress(psutil.Error):
        parent = process.parent()
        if parent is not None and any(_is_launcher(word) for word in parent.cmdline()[:4]):
            own = parent.cmdline()
    return _as_typed(own)


def _is_launcher(word: str) -> bool:
    return Path(word).name in LAUNCHERS


def _as_typed(command: Sequence[str]) -> list[str]:
    """`/x/bin/python /x/bin/torchrun --a` as a person types it: `torchrun --a`."""
    if not command or not Path(command[0]).name.startswith("python"):
        return list(command)
    rest = list(command[1:])
    if rest[:2] == ["-m", "multimodal_ai.cli"]:
        return ["multimodal-ai", *rest[2:]]
    if rest and _is_launcher(rest[0]):
        return [Path(rest[0]).name, *rest[1:]]
    return ["python", *rest]
