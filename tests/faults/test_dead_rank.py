"""One process of two is killed: the other stops within a minute and says so, and the run goes on from its checkpoint.

`tests/training/test_local_launch.py` has the same for processes that a launcher of ours started.
"""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
from toy import run_processes, start_processes, toy_config, toy_train_or_tell
from undisturbed import assert_same_run, state, until

STEPS = 30


@pytest.mark.parametrize("strategy, victim", [("ddp", 1), ("fsdp2", 0)])
def test_the_other_stops_and_the_run_resumes(tmp_path: Path, strategy: str, victim: int):
    changes = {"strategy": strategy, "schedule": {"steps": STEPS, "warmup": 2}, "checkpoint": {"every_steps": 5}}
    config = toy_config(tmp_path / "run", **changes)
    context = start_processes(2, tmp_path, toy_train_or_tell, config)
    until(lambda: list((config.output_dir / "checkpoints").glob("step_*")), 120, "a checkpoint")
    time.sleep(random.uniform(0, 0.1))
    killed, other = context.processes[victim], context.processes[1 - victim]
    killed.kill()
    other.join(60)
    assert other.exitcode not in (None, 0), "it did not stop within a minute"
    message = (config.output_dir / f"stopped_{1 - victim}").read_text()
    assert f"process {1 - victim} of 2 lost contact" in message and "Run the same command again" in message
    assert state(config.output_dir) == ("killed" if victim == 0 else "failed")
    run_processes(2, tmp_path, toy_train_or_tell, config)
    whole = toy_config(tmp_path / "whole", **changes)
    run_processes(2, tmp_path, toy_train_or_tell, whole)
    assert_same_run(config.output_dir, whole.output_dir)
