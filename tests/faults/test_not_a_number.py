"""A NaN in the data: the run stops before the step, keeps what it has, and goes on when the data are mended.

`tests/invariants/test_not_finite_stops.py` has what the message says and who hears it.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from toy import ToyBatch, ToyData, toy_config, toy_train
from undisturbed import assert_same_run, state

from multimodal_ai.training.interface import NonFiniteError
from multimodal_ai.training.run_record import read_record


class NotANumber(ToyData):
    """One pixel of one image in step 5 is NaN."""

    def __getitem__(self, number: int) -> ToyBatch:
        batch = super().__getitem__(number)
        if number == 8:
            batch.patches[0, 0] = torch.nan
        return batch


def test_a_pixel_that_is_no_number(tmp_path: Path):
    changes = {"checkpoint": {"every_steps": 3}, "logging": {"every_steps": 4, "trackers": []}}
    config = toy_config(tmp_path / "run", **changes)
    for _ in range(2):  # the second time it comes from the checkpoint of step 3
        with pytest.raises(NonFiniteError, match=r"step 5: loss term \w+ is nan in micro-batch 1 of 2 .*row 33 of toy"):
            toy_train(config, data=NotANumber)
    assert state(config.output_dir) == "failed"
    found = read_record(config.output_dir)
    assert found is not None and found[0].message.startswith("step 5: loss term")
    toy_train(config)
    toy_train(toy_config(tmp_path / "whole", **changes))
    assert_same_run(config.output_dir, tmp_path / "whole")
