"""A disk that takes nothing for a while costs checkpoints, and neither the run nor a line of its metrics.

`tests/training/test_checkpoint.py` has what happens inside a save.
"""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
import torch
from toy import start_process, toy_config, toy_train
from undisturbed import assert_same_run, state

from multimodal_ai.training.checkpoint import latest

STEPS, FULL, FREE = 10, 3, 7  # the disk is full after step 3, and free again after step 7
CHANGES = {
    "schedule": {"steps": STEPS, "warmup": 2},
    "checkpoint": {"every_steps": 1, "keep": 2},
    "eval": {"every_steps": 1, "at_end": False},
    "logging": {"every_steps": 1, "trackers": ["tensorboard"], "progress": False},
}


class LimitedFiles:
    """Evaluation hook: no file may grow beyond 100 bytes for some steps; a write then fails in the kernel."""

    def __call__(self, step: int, model: torch.nn.Module) -> dict[str, float]:
        if step in (FULL, FREE):
            _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (100 if step == FULL else hard, hard))
        return {}


class FullDisk:
    """Evaluation hook: a file takes all the space for some steps."""

    def __init__(self, disk: Path) -> None:
        self.filler = disk / "filler"

    def __call__(self, step: int, model: torch.nn.Module) -> dict[str, float]:
        if step == FULL:
            with open(self.filler, "wb", buffering=0) as file:
                try:
                    while True:
                        file.write(bytes(1024))
                except OSError:
                    pass
        if step == FREE:
            self.filler.unlink()
        return {}


def check(folder: Path, undisturbed: Path) -> None:
    assert_same_run(folder, undisturbed)
    assert latest(folder / "checkpoints") == folder / "checkpoints" / f"step_{STEPS:08d}"
    assert not list((folder / "checkpoints").glob(".step_*"))
    assert state(folder) == "finished"


def train_with_limit(folder: Path) -> None:
    toy_train(toy_config(folder, **CHANGES), on_evaluate=[LimitedFiles()])


@pytest.fixture
def undisturbed(tmp_path: Path) -> Path:
    toy_train(toy_config(tmp_path / "whole", **CHANGES), on_evaluate=[lambda step, model: {}])
    return tmp_path / "whole"


def test_files_that_may_not_grow(tmp_path: Path, undisturbed: Path):
    process = start_process(train_with_limit, tmp_path / "limited")  # a limit is of a whole process
    process.join()
    assert process.exitcode == 0
    check(tmp_path / "limited", undisturbed)


def test_a_disk_without_room(tiny_disk: Path, undisturbed: Path):
    toy_train(toy_config(tiny_disk / "run", **CHANGES), on_evaluate=[FullDisk(tiny_disk)])
    check(tiny_disk / "run", undisturbed)
