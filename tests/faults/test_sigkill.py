"""SIGKILL at random moments, in the middle of saves too: the run goes on to the very same losses and weights."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
from toy import start_process, toy_config, toy_train
from undisturbed import assert_same_run, state, until

# A step of the toy model takes milliseconds, a checkpoint after each tens of them: most kills meet a save.
SCHEDULE = {"steps": 400, "warmup": 2}
LOGGING = {"every_steps": 3, "trackers": [], "progress": False}  # a line tells of steps before and after a kill


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=[pytest.mark.slow, pytest.mark.timeout(900)])])
def test_killed_again_and_again(tmp_path: Path, kills: int):
    rng = random.Random(time.time_ns())
    whole = toy_config(tmp_path / "whole", schedule=SCHEDULE, logging=LOGGING)
    killed = toy_config(tmp_path / "killed", schedule=SCHEDULE, logging=LOGGING, checkpoint={"every_steps": 1})
    folder = killed.output_dir / "checkpoints"
    within_save = 0
    for number in range(kills):
        before = set(folder.glob("step_*"))
        process = start_process(toy_train, killed)
        if number % 4:  # else: while it starts or loads
            until(lambda: set(folder.glob("step_*")) - before or not process.is_alive(), 120, "a new checkpoint")  # noqa: B023
        time.sleep(rng.uniform(0, 0.3))
        process.kill()
        process.join()
        assert process.exitcode == -9, "the run ended before it could be killed; give it more steps"
        within_save += any(folder.glob(".step_*"))
        assert not (killed.output_dir / "run.json").exists() or state(killed.output_dir) == "killed"
    toy_train(killed)
    toy_train(whole)
    assert_same_run(killed.output_dir, whole.output_dir)
    assert state(killed.output_dir) == "finished"
    assert not list(folder.glob(".step_*"))
    assert kills < 20 or within_save >= 3, f"{within_save} of {kills} kills met a save"
