"""DESIGN 7.3: a process whose batch has no image, no text or no functions never hangs the others."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from toy import ToyData, read_losses, run_processes, toy_config, toy_train, train_all

STRATEGIES = ("ddp", "fsdp2", "hsdp")


def test_a_process_without_images_or_labels_trains_along(tmp_path: Path):
    configs = [toy_config(tmp_path / strategy, strategy=strategy) for strategy in STRATEGIES]
    halves = [ToyData(configs[0], rank, 2)[0] for rank in range(2)]
    assert len(halves[0].patches) and not len(halves[1].patches)  # one process has all the images and classes
    assert (halves[0].classes >= 0).any() and (halves[1].classes < 0).all()
    run_processes(2, tmp_path, train_all, configs)
    toy_train(toy_config(tmp_path / "one"))
    for strategy in STRATEGIES:
        assert read_losses(tmp_path / strategy) == pytest.approx(read_losses(tmp_path / "one"), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_four_processes_of_which_half_have_no_images_nor_classes(tmp_path: Path, optimizer: str):
    """Each has two samples of the step: two processes have images and classes, two have text alone."""
    given = {"batch": {"global_size": 8, "micro_size": 2}, "optimizer": {"name": optimizer, "lr": 2e-3}}
    configs = [toy_config(tmp_path / strategy, strategy=strategy, **given) for strategy in STRATEGIES[:2]]
    configs.append(toy_config(tmp_path / "hsdp", strategy="hsdp", hsdp_shard_size=2, **given))
    shares = [ToyData(configs[0], rank, 4)[0] for rank in range(4)]
    assert [bool(len(share.patches)) for share in shares] == [True, True, False, False]
    run_processes(4, tmp_path, train_all, configs)
    toy_train(toy_config(tmp_path / "one", **given))
    for config in configs:
        assert read_losses(config.output_dir) == pytest.approx(read_losses(tmp_path / "one"), rel=1e-5)


def test_a_part_that_no_loss_reaches_hangs_nobody_and_stays_as_it_was(tmp_path: Path):
    configs = [toy_config(tmp_path / strategy, strategy=strategy) for strategy in STRATEGIES]
    run_processes(2, tmp_path, train_all, configs)
    for strategy in STRATEGIES:
        weights = torch.load(tmp_path / strategy / "model" / "model.pt")
        assert torch.equal(weights["never"], torch.ones(2, 2))
