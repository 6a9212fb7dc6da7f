"""DESIGN 7.4: resume is bitwise, from 1 to 2 to 1 processes too, from a kill at any moment."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from toy import read_losses, run_processes, start_process, toy_config, toy_train, train_and_block, train_until, weights

from multimodal_ai.training.checkpoint import latest, read_manifest


def assert_same_run(a: Path, b: Path) -> None:
    assert read_losses(a) == read_losses(b)
    for name, value in weights(a).items():
        assert torch.equal(value, weights(b)[name]), name


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_interrupted_and_continued_is_the_same_as_undisturbed(tmp_path: Path, optimizer: str):
    changes = {"optimizer": {"name": optimizer, "lr": 0.02}}
    toy_train(toy_config(tmp_path / "whole", **changes))
    config = toy_config(tmp_path / "parts", **changes)
    train_until(config, 2)
    train_until(config, 3)
    toy_train(config)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_random_numbers_continue_too(tmp_path: Path):
    toy_train(toy_config(tmp_path / "whole"), dropout=0.2)
    train_until(toy_config(tmp_path / "parts"), 3, dropout=0.2)
    torch.rand(7)
    toy_train(toy_config(tmp_path / "parts"), dropout=0.2)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    toy_train(toy_config(tmp_path / "without"))
    assert read_losses(tmp_path / "whole") != read_losses(tmp_path / "without")


@pytest.mark.parametrize("method", ["write_data", "_fingerprint", "rename"])
def test_a_kill_in_the_middle_of_a_save_loses_nothing(tmp_path: Path, method: str):
    toy_train(toy_config(tmp_path / "whole"))
    config = toy_config(tmp_path / "killed", checkpoint={"every_steps": 1})
    process = start_process(train_and_block, config, 4, method)
    deadline = time.monotonic() + 120
    while not (config.output_dir / "blocked").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()  # SIGKILL, while the checkpoint of step 4 is half written
    process.join()
    folder = config.output_dir / "checkpoints"
    assert latest(folder) == folder / "step_00000003"
    assert (folder / ".step_00000004.partial").exists()
    toy_train(config)
    assert_same_run(tmp_path / "whole", tmp_path / "killed")
    assert not list(folder.glob(".step*"))


def test_one_process_then_two_sharded_then_one_again(tmp_path: Path):
    toy_train(toy_config(tmp_path / "whole"))
    config = toy_config(tmp_path / "moved")
    train_until(config, 2)
    sharded = config.model_copy(update={"strategy": "fsdp2"})
    run_processes(2, tmp_path, train_until, sharded, 4)
    path = latest(tmp_path / "moved" / "checkpoints")
    assert path is not None and read_manifest(path)["processes"] == 2
    assert len(list(path.glob("__*.distcp"))) == 2  # each wrote its shards
    toy_train(config)
    assert read_losses(tmp_path / "moved")[:3] == read_losses(tmp_path / "whole")[:3]  # the third saw no update of two
    assert read_losses(tmp_path / "moved") == pytest.approx(read_losses(tmp_path / "whole"), rel=1e-5)


def test_a_frozen_part_may_be_thawed_from_the_stage_before_without_its_state(tmp_path: Path):
    """A checkpoint holds no optimizer state for frozen parts; loading asks for none."""
    config = toy_config(tmp_path, parts={"text": {"trainable": False}})
    train_until(config, 2)
    assert toy_train(config).status == "completed"
