"""DESIGN 7.6: the gradient does not depend on micro-batching, accumulation or world size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from toy import (
    ToyConfig,
    ToyData,
    ToyModel,
    ToyObjective,
    read_losses,
    run_processes,
    toy_config,
    toy_train,
    train_all,
)
from toy import weights as trained_weights

from multimodal_ai.training.trainer import Trainer


def gradients(folder: Path, **changes: Any) -> dict[str, torch.Tensor]:
    """The gradient of the first step, before clipping and the update."""
    config = toy_config(folder, optimizer={"grad_clip": 0}, schedule={"steps": 1}, **changes)
    torch.manual_seed(0)
    trainer = Trainer(config, ToyObjective(ToyModel(ToyConfig())), ToyData(config))
    found: dict[str, torch.Tensor] = {}
    model = trainer.distribution.objective
    trainer.optimizer.register_step_pre_hook(
        lambda *_: found.update({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    )
    trainer.train()
    return found


@pytest.mark.parametrize("micro_size", [1, 2, 4])
def test_micro_batches_and_accumulation(tmp_path: Path, micro_size: int):
    whole = gradients(tmp_path / "whole", batch={"global_size": 8, "micro_size": 8})
    split = gradients(tmp_path / "split", batch={"global_size": 8, "micro_size": micro_size})
    assert whole.keys() == split.keys() and len(whole) > 10
    for name, gradient in whole.items():
        torch.testing.assert_close(split[name], gradient, rtol=1e-5, atol=1e-7, msg=lambda text, n=name: f"{n}: {text}")


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_world_size_strategy_and_sharding(tmp_path: Path, name: str):
    given: dict[str, Any] = {"optimizer": {"name": name, "lr": 2e-3}}
    configs = [
        toy_config(tmp_path / "ddp", **given),
        toy_config(tmp_path / "ddp 1 by 1", batch={"global_size": 8, "micro_size": 1}, **given),
        toy_config(tmp_path / "fsdp2", strategy="fsdp2", batch={"global_size": 8, "micro_size": 2}, **given),
        toy_config(tmp_path / "hsdp whole copies", strategy="hsdp", hsdp_shard_size=1, **given),
        toy_config(tmp_path / "hsdp one copy", strategy="hsdp", hsdp_shard_size=2, **given),
    ]
    run_processes(2, tmp_path, train_all, configs)
    toy_train(toy_config(tmp_path / "one", **given))
    expected = trained_weights(tmp_path / "one")
    for config in configs:
        assert read_losses(config.output_dir) == pytest.approx(read_losses(tmp_path / "one"), rel=1e-5)
        for parameter, value in trained_weights(config.output_dir).items():
            if name == "adamw":  # under Muon entries of gradients that are almost 0 end anywhere
                torch.testing.assert_close(value, expected[parameter], rtol=1e-2, atol=1e-4)
