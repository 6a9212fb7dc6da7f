"""DESIGN 7.3: a process whose batch has no image, no text or no functions never hangs the others."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from toy import ToyData, read_losses, run_processes, toy_config, toy_train, train_all

STRATEGIES = ("ddp", "fsdp2")


def test_a_process_without_images_or_labels_trains_along(tmp_path: Path):
    configs = [toy_config(tmp_path / strategy, strategy=strategy) for strategy in STRATEGIES]
    halves = [ToyData(configs[0], rank, 2)[0] for rank in range(2)]
    assert len(halves[0].patches) and not len(halves[1].patches)  # one process has all the images and classes
    assert (halves[0].classes >= 0).any() and (halves[1].classes < 0).all()
    run_processes(2, tmp_path, train_all, configs)
    toy_train(toy_config(tmp_path / "one"))
    for strategy in STRATEGIES:
        assert read_losses(tmp_path / strategy) == pytest.approx(read_losses(tmp_path / "one"), rel=1e-5)


def test_a_part_that_no_loss_reaches_hangs_nobody_and_stays_as_it_was(tmp_path: Path):
    configs = [toy_config(tmp_path / strategy, strategy=strategy) for strategy in STRATEGIES]
    run_processes(2, tmp_path, train_all, configs)
    for strategy in STRATEGIES:
        weights = torch.load(tmp_path / strategy / "model" / "model.pt")
        assert torch.equal(weights["never"], torch.ones(2, 2))
