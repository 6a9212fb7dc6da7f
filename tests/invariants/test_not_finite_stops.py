"""DESIGN 7.14: a NaN or an infinite loss stops before the optimizer step, and says where."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from toy import break_on_second, run_processes, toy_config, toy_trainer

from multimodal_ai.training.checkpoint import latest
from multimodal_ai.training.trainer import NonFiniteError


def test_a_nan_loss_names_term_step_micro_batch_and_rows(tmp_path: Path):
    trainer = toy_trainer(toy_config(tmp_path, checkpoint={"every_steps": 1}), break_at=5)  # step 3, second half
    before: dict[str, torch.Tensor] = {}
    objective = trainer.distribution.objective

    def remember(step: int, model: torch.nn.Module) -> dict[str, float]:
        before.update({name: value.clone() for name, value in objective.state_dict().items()})
        return {}

    trainer.config = trainer.config.model_copy(
        update={"eval": trainer.config.eval.model_copy(update={"every_steps": 1})}
    )
    trainer.on_evaluate = [remember]
    with pytest.raises(NonFiniteError) as caught:
        trainer.train()
    message = str(caught.value)
    assert "step 3: loss term language is nan in micro-batch 2 of 2 on process 0" in message
    assert "row 21 of toy.jsonl, row 22 of toy.jsonl, row 23 of toy.jsonl, row 24 of toy.jsonl" in message
    assert all(torch.equal(value, before[name]) for name, value in objective.state_dict().items())
    assert latest(tmp_path / "checkpoints") == tmp_path / "checkpoints" / "step_00000002"


def test_a_gradient_that_is_not_finite_names_the_part(tmp_path: Path):
    trainer = toy_trainer(toy_config(tmp_path))
    model = trainer.distribution.objective.get_submodule("model")
    weight = model.get_parameter("head.weight")
    before = weight.detach().clone()
    weight.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(
        NonFiniteError, match=r"step 1: the gradient of head is (inf|nan) although every loss is finite"
    ):
        trainer.train()
    assert torch.equal(weight, before)


def test_every_process_stops_and_says_which_one_it_was(tmp_path: Path):
    config = toy_config(tmp_path)
    run_processes(2, tmp_path, break_on_second, config, str(tmp_path))
    for rank in range(2):
        assert re.search(r"step 2: loss term language is nan .* on process 1", (tmp_path / f"error_{rank}").read_text())
