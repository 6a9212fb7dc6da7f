"""DESIGN 7.7: a frozen part keeps no graph; a learning-rate rule that matches nothing is an error."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from toy import ToyConfig, ToyModel, run_processes, toy_config, toy_train, toy_trainer, train_all, weights


def test_a_frozen_part_keeps_no_graph_no_gradient_and_no_state(tmp_path: Path):
    trainer = toy_trainer(toy_config(tmp_path, parts={"vision": {"trainable": False}}))
    model = trainer.distribution.objective.get_submodule("model")
    assert isinstance(model, ToyModel)
    outputs: list[bool] = []
    model.vision.register_forward_hook(lambda module, inputs, output: outputs.append(output.requires_grad))
    before = {name: value.clone() for name, value in model.vision.state_dict().items()}
    trainer.train()
    assert outputs and not any(outputs)
    assert all(p.grad is None and not trainer.optimizer.state.get(p) for p in model.vision.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.vision.state_dict().items())


def test_frozen_parts_stay_the_same_under_every_strategy(tmp_path: Path):
    frozen = {"vision": {"trainable": False}, "embedding": {"trainable": False}}
    configs = [toy_config(tmp_path / name, strategy=name, parts=frozen) for name in ("ddp", "fsdp2")]
    run_processes(2, tmp_path, train_all, configs)
    toy_train(toy_config(tmp_path / "one", parts=frozen))
    torch.manual_seed(0)
    start = ToyModel(ToyConfig()).state_dict()
    for name in ("ddp", "fsdp2", "one"):
        for key, value in weights(tmp_path / name).items():
            if key.startswith(("vision", "embedding")):
                assert torch.equal(value, start[key])
    assert not torch.equal(weights(tmp_path / "one")["head.weight"], start["head.weight"])


@pytest.mark.parametrize("key", ["visoin", "text.7.*", "decoder"])
def test_a_rule_that_matches_nothing_is_an_error(tmp_path: Path, key: str):
    with pytest.raises(ValueError, match=r"matches no parameter; give a part \(vision, text, head, embedding\)"):
        toy_trainer(toy_config(tmp_path, parts={key: {"lr_scale": 0.1}}))
