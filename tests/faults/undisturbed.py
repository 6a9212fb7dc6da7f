"""What a disturbed run is compared with, and waiting for what another process does."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch
from toy import read_losses, weights

from multimodal_ai.training.run_record import read_record, state_of


def assert_same_run(disturbed: Path, undisturbed: Path) -> None:
    """The same lines of losses, and the same weights, bit by bit."""
    assert read_losses(disturbed) == read_losses(undisturbed)
    for name, value in weights(undisturbed).items():
        assert torch.equal(value, weights(disturbed)[name]), name


def state(folder: Path) -> str:
    """What run.json says of the run now."""
    found = read_record(folder)
    assert found is not None
    return state_of(*found)


def until(condition: Callable[[], object], seconds: float, what: str) -> None:
    """Wait; fails where it takes longer than `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what}: not within {seconds:.0f} s"
        time.sleep(0.01)
