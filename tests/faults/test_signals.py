"""Ctrl-C, SIGTERM and a closed terminal: the step is finished, a checkpoint is left, the exit code is the shell's."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from toy import start_process, toy_config, toy_train, train_for_ever, train_until
from undisturbed import assert_same_run, state, until

from multimodal_ai.training.checkpoint import latest
from multimodal_ai.training.config import TrainerConfig


def train_at_a_terminal(config: TrainerConfig) -> None:
    """Train for ever; a closed terminal counts, even where the tests themselves run under nohup."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    train_for_ever(config)


def test_sigterm_leaves_a_checkpoint(tmp_path: Path):
    result = train_until(toy_config(tmp_path), 3)
    assert (result.status, result.exit_code, result.step, result.model_dir) == ("interrupted", 143, 3, None)
    assert latest(tmp_path / "checkpoints") == tmp_path / "checkpoints" / "step_00000003"
    assert state(tmp_path) == "stopped"


def test_a_line_of_metrics_tells_of_steps_before_and_after_a_stop(tmp_path: Path):
    logging = {"every_steps": 4, "trackers": []}
    toy_train(toy_config(tmp_path / "whole", logging=logging))
    train_until(toy_config(tmp_path / "parts", logging=logging), 3)
    toy_train(toy_config(tmp_path / "parts", logging=logging))
    assert_same_run(tmp_path / "parts", tmp_path / "whole")


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signals_from_outside_give_the_shells_exit_codes(tmp_path: Path, number: int, code: int):
    process = start_process(train_at_a_terminal, toy_config(tmp_path, schedule={"steps": 10**7}))
    try:
        until(lambda: (tmp_path / "metrics.jsonl").exists(), 60, "the first step")
        assert state(tmp_path) == "running"
        assert process.pid is not None
        os.kill(process.pid, number)
        process.join(60)
        assert process.exitcode == code
    finally:
        process.kill()
    assert latest(tmp_path / "checkpoints") is not None
    assert state(tmp_path) == "stopped"


def test_under_nohup_a_closed_terminal_is_ignored(tmp_path: Path):
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        config = toy_config(tmp_path, eval={"every_steps": 1})
        hook = lambda step, model: os.kill(os.getpid(), signal.SIGHUP) or {}  # noqa: E731
        assert toy_train(config, on_evaluate=[hook]).exit_code == 0
    finally:
        signal.signal(signal.SIGHUP, former)
