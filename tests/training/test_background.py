"""A checkpoint written beside the training: what may go on meanwhile, what waits, and who hears of a failure."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from toy import read_losses, run_processes, start_process, toy_config, toy_train, toy_trainer, weights

from multimodal_ai.training.background import Background
from multimodal_ai.training.checkpoint import CheckpointError, latest
from multimodal_ai.training.config import TrainerConfig

TWICE = {"every_steps": 2, "keep": 9}


@contextmanager
def writing(step: int, action: Callable[[], None]) -> Iterator[None]:
    """Do something before the data of the checkpoint of this step are written."""
    patch, real = pytest.MonkeyPatch(), dcp.FileSystemWriter.write_data

    def acting(self: dcp.FileSystemWriter, *arguments: object) -> object:
        if f"step_{step:08d}" in str(self.path):
            action()
        return real(self, *arguments)  # type: ignore[arg-type]

    patch.setattr(dcp.FileSystemWriter, "write_data", acting)
    try:
        yield
    finally:
        patch.undo()


class At:
    """Evaluation hook: does something after a step."""

    def __init__(self, step: int, action: Callable[[], object]) -> None:
        self.step, self.action = step, action

    def __call__(self, step: int, model: torch.nn.Module) -> dict[str, float]:
        if step == self.step:
            self.action()
        return {}


def each_step(folder: Path, **checkpoint: object) -> TrainerConfig:
    return toy_config(folder, checkpoint=TWICE | checkpoint, eval={"every_steps": 1})


def fail() -> None:
    raise OSError(28, os.strerror(28))


def test_training_goes_on_and_the_state_is_that_of_its_step(tmp_path: Path):
    begun, release, folder = threading.Event(), threading.Event(), tmp_path / "run" / "checkpoints"
    seen: list[bool] = []

    def write() -> None:
        begun.set()
        release.wait(60)

    def look() -> None:
        begun.wait(60)
        seen.append((folder / ".step_00000002.partial").exists() and latest(folder) is None)
        release.set()

    with writing(2, write):  # step 3 is taken before anything of step 2 is written
        toy_train(each_step(tmp_path / "run"), on_evaluate=[At(3, look)])
    assert seen == [True]
    for later in (4, 6):
        shutil.rmtree(folder / f"step_{later:08d}")
    toy_train(toy_config(tmp_path / "run"))
    toy_train(toy_config(tmp_path / "whole"))
    assert read_losses(tmp_path / "run") == read_losses(tmp_path / "whole")
    for name, value in weights(tmp_path / "whole").items():
        assert torch.equal(value, weights(tmp_path / "run")[name]), name


def test_the_next_save_waits_for_the_one_in_flight(tmp_path: Path):
    order: list[str] = []
    config = each_step(tmp_path)
    trainer = toy_trainer(config, on_evaluate=[At(4, lambda: order.append("step 4 done"))])
    with writing(2, lambda: (time.sleep(0.3), order.append("step 2 written"))[1]):
        trainer.train()
    assert order == ["step 2 written", "step 4 done"]
    names = [f"step_{step:08d}" for step in (2, 4, 6)]
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == names


def test_without_it_training_waits_for_the_disk(tmp_path: Path):
    folder = tmp_path / "checkpoints"
    hook = At(2, lambda: seen.append(latest(folder)))
    seen: list[Path | None] = []
    with writing(2, lambda: time.sleep(0.2)):
        toy_train(each_step(tmp_path, asynchronous=False), on_evaluate=[hook])
    assert seen == [folder / "step_00000002"]


def test_a_failure_ends_the_run_before_the_next_save(tmp_path: Path):
    trainer = toy_trainer(each_step(tmp_path, on_failure="stop"))

    def until_due() -> None:
        while not trainer.checkpointer.due:
            time.sleep(0.01)

    trainer.on_evaluate = [At(2, until_due)]
    with writing(2, fail), pytest.raises(CheckpointError, match="step 2 was NOT written: No space left"):
        trainer.train()
    assert len(read_losses(tmp_path)) == 2
    assert not list((tmp_path / "checkpoints").iterdir())


def test_what_ends_the_run_is_told_and_the_save_in_flight_is_finished(tmp_path: Path):
    class Other(Exception):
        pass

    def end() -> None:
        raise Other

    with writing(2, lambda: time.sleep(0.3)), pytest.raises(Other):
        toy_train(each_step(tmp_path), on_evaluate=[At(3, end)])
    assert latest(tmp_path / "checkpoints") == tmp_path / "checkpoints" / "step_00000002"
    with writing(4, fail), pytest.raises(Other):
        toy_train(each_step(tmp_path, on_failure="stop"), on_evaluate=[At(4, end)])


def train_failing(folder: Path, failing: int) -> None:
    """On one process the data of the first checkpoint cannot be written; each tells which error ended it."""
    for strategy in ("ddp", "fsdp2"):
        config = toy_config(folder / strategy, strategy=strategy, checkpoint={**TWICE, "on_failure": "stop"})
        rank = int(os.environ["RANK"])
        with writing(2 if rank == failing else 99, fail):
            try:
                toy_train(config)
            except CheckpointError as error:
                (config.output_dir / f"error_{rank}").write_text(str(error))


@pytest.mark.parametrize("failing", [0, 1])
def test_a_failure_of_one_process_ends_all_of_them(tmp_path: Path, failing: int):
    run_processes(2, tmp_path, train_failing, tmp_path, failing)
    for strategy in ("ddp", "fsdp2"):
        for rank in range(2):
            text = (tmp_path / strategy / f"error_{rank}").read_text()
            assert "checkpoint of step 2 was NOT written: No space left on device" in text
        assert not list((tmp_path / strategy / "checkpoints").iterdir())


def train_slow_to_write(folder: Path) -> None:
    """On process 1 every write takes longer than several steps, in which both talk all the time."""
    delay = 0.2 if os.environ["RANK"] == "1" else 0.0
    for strategy in ("ddp", "fsdp2", "hsdp"):
        with writing(2, lambda: time.sleep(delay)):
            toy_train(toy_config(folder / strategy, strategy=strategy, checkpoint={"every_steps": 2}))


def test_what_is_said_while_writing_does_not_mix_with_the_training(tmp_path: Path):
    run_processes(2, tmp_path, train_slow_to_write, tmp_path)
    toy_train(toy_config(tmp_path / "one"))
    for strategy in ("ddp", "fsdp2", "hsdp"):
        assert read_losses(tmp_path / strategy) == pytest.approx(read_losses(tmp_path / "one"), rel=1e-5)
        assert latest(tmp_path / strategy / "checkpoints") == tmp_path / strategy / "checkpoints" / "step_00000006"


def train_and_never_write(config: TrainerConfig) -> None:
    """The write of step 2 does not end."""
    blocked = config.output_dir / "blocked"
    with writing(2, lambda: (blocked.touch(), time.sleep(600))[1]):
        toy_train(config)


def test_a_third_ctrl_c_does_not_wait_for_the_disk(tmp_path: Path):
    config = toy_config(tmp_path, checkpoint={"every_steps": 1})
    process = start_process(train_and_never_write, config)
    deadline = time.monotonic() + 60
    while not (tmp_path / "blocked").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert process.pid is not None
    for _ in range(2):
        os.kill(process.pid, signal.SIGINT)
        time.sleep(1.2)  # a repetition within a second is the launcher's
        assert process.is_alive(), "the first two wait for the save in flight"
    os.kill(process.pid, signal.SIGINT)
    process.join(20)
    assert process.exitcode == 1
    assert latest(tmp_path / "checkpoints") == tmp_path / "checkpoints" / "step_00000001"


def test_a_failure_is_kept_until_somebody_waits():
    work = Background("test")
    work.wait()
    work.start(fail)
    while not work.failed:
        time.sleep(0.001)
    with pytest.raises(OSError, match="No space left"):
        work.wait()
    assert not work.failed
    work.start(lambda: None)
    work.wait()
    assert not any(thread.name == "test" for thread in threading.enumerate())
