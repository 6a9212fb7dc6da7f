"""A data worker that dies is replaced, and the numbers stay the same; data that cannot be had stop the run in words."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from torch.utils.data import dataloader, get_worker_info
from toy import ToyBatch, ToyData, read_losses, run_processes, toy_config, toy_train, toy_train_or_tell
from undisturbed import assert_same_run, state

from multimodal_ai.data.messages import DataError
from multimodal_ai.training import batches
from multimodal_ai.training.checkpoint import latest
from multimodal_ai.training.interface import TrainingStopped

BAD = 6  # micro-batch: the first of step 4


class KillsWorkers:
    """Evaluation hook: SIGKILL to the data workers after step 3."""

    def __call__(self, step: int, model: torch.nn.Module) -> dict[str, float]:
        workers = multiprocessing.active_children()
        if step == 3:
            assert len(workers) == 2
            for worker in workers:
                worker.kill()
        return {}


class DiesInWorkers(ToyData):
    def __getitem__(self, number: int) -> ToyBatch:
        if number == BAD and get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(number)


class Unreadable(ToyData):
    """On process 1 of two, or on the only one, a micro-batch cannot be read."""

    def __getitem__(self, number: int) -> ToyBatch:
        bad = BAD if self.accumulation == 2 else BAD // 2
        if number == bad and self.rank == int(os.environ.get("WORLD_SIZE", 1)) - 1:
            raise DataError("train-00007.parquet: cannot be read: Corrupt snappy compressed data")
        return super().__getitem__(number)


def train_unreadable(folder: Path) -> None:
    toy_train_or_tell(toy_config(folder), data=Unreadable)


def test_killed_workers_are_replaced_and_nothing_changes(tmp_path: Path):
    toy_train(toy_config(tmp_path / "whole"))
    config = toy_config(tmp_path / "killed", workers=2, eval={"every_steps": 1})
    began = time.monotonic()
    assert toy_train(config, on_evaluate=[KillsWorkers()]).status == "completed"
    assert time.monotonic() - began < 60
    assert_same_run(tmp_path / "killed", tmp_path / "whole")
    assert not multiprocessing.active_children()


def test_workers_that_die_again_and_again_stop_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    toy_train(toy_config(tmp_path / "whole"))
    monkeypatch.setattr(dataloader._MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (0.5,))  # not 5 s
    monkeypatch.setattr(batches, "RESTARTS", 1)
    config = toy_config(tmp_path / "dying", workers=1)
    with pytest.raises(TrainingStopped, match=r"step [34]: no data: data workers died 2 times .* workers=0"):
        toy_train(config, data=DiesInWorkers)  # what it had ready for step 3 may be lost with it
    assert latest(config.output_dir / "checkpoints") and state(config.output_dir) == "failed"
    toy_train(toy_config(tmp_path / "dying"), data=DiesInWorkers)
    assert_same_run(tmp_path / "dying", tmp_path / "whole")


@pytest.mark.parametrize("workers", [0, 1])
def test_data_that_cannot_be_read_stop_the_run_with_a_checkpoint(tmp_path: Path, workers: int):
    toy_train(toy_config(tmp_path / "whole"))
    config = toy_config(tmp_path / "run", workers=workers)
    with pytest.raises(TrainingStopped) as caught:
        toy_train(config, data=Unreadable)
    assert "step 4: no data: train-00007.parquet: cannot be read: Corrupt snappy" in str(caught.value)
    assert "Traceback" not in str(caught.value)
    assert latest(config.output_dir / "checkpoints") == config.output_dir / "checkpoints" / "step_00000003"
    assert state(config.output_dir) == "failed"
    toy_train(config)  # mended
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_all_processes_stop_when_one_has_no_data(tmp_path: Path):
    folder = tmp_path / "run"
    with pytest.raises(Exception, match=r"train-00007\.parquet"):
        run_processes(2, tmp_path, train_unreadable, folder)
    for rank in range(2):
        assert "step 4: no data" in (folder / f"stopped_{rank}").read_text()
    assert latest(folder / "checkpoints") == folder / "checkpoints" / "step_00000003"
    run_processes(2, tmp_path, toy_train_or_tell, toy_config(folder))
    run_processes(2, tmp_path, toy_train_or_tell, toy_config(tmp_path / "whole"))
    assert read_losses(folder) == read_losses(tmp_path / "whole")
