from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch._dynamo.utils import counters
from toy import ToyModel, read_losses, start_process, toy_config, toy_train, toy_trainer, train_for_ever, train_until

from multimodal_ai.training.checkpoint import latest
from multimodal_ai.training.metrics import Evaluation


def lines(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_stage_learns_and_reports(tmp_path: Path):
    config = toy_config(tmp_path, schedule={"steps": 60, "warmup": 5}, logging={"every_steps": 20, "trackers": []})
    result = toy_train(config)
    assert (result.status, result.exit_code, result.step, result.total_steps) == ("completed", 0, 60, 60)
    logged = lines(tmp_path)
    assert [line["step"] for line in logged] == [20, 40, 60]
    assert logged[-1]["loss"] < logged[0]["loss"]
    assert result.loss == pytest.approx(logged[-1]["loss"]) and set(result.losses) == {"language", "trigger"}
    expected = {"step", "time", "loss", "loss/language", "loss/trigger", "lr", "grad_norm", "grad_norm/text"}
    assert expected | {"tokens_per_s", "images_per_s", "step_s", "data_wait", "memory_gb"} <= set(logged[0])
    assert result.model_dir == tmp_path / "model" and (tmp_path / "model" / "model.pt").exists()


def test_the_whole_loss_is_the_weighted_sum_of_its_terms(tmp_path: Path):
    toy_train(toy_config(tmp_path))
    for line in lines(tmp_path):
        assert line["loss"] == pytest.approx(line["loss/language"] + 0.5 * line["loss/trigger"])


def test_a_finished_stage_is_not_trained_again(tmp_path: Path):
    first = toy_train(toy_config(tmp_path))
    before = (tmp_path / "metrics.jsonl").read_text()
    again = toy_train(toy_config(tmp_path))
    assert again.status == "completed" and again.step == 6 and again.loss == pytest.approx(first.loss)
    assert (tmp_path / "metrics.jsonl").read_text() == before


def test_useful_flops_become_an_mfu(tmp_path: Path):
    config = toy_config(tmp_path, logging={"every_steps": 6, "trackers": [], "peak_flops": 1e9})
    toy_train(config, flops=lambda batch: 1e6)
    line = lines(tmp_path)[-1]
    assert line["flops_per_s"] == pytest.approx(2e6 / line["step_s"], rel=1e-6)
    assert line["mfu"] == pytest.approx(line["flops_per_s"] / 1e9, rel=1e-6)


def test_evaluation_runs_in_eval_mode_and_reaches_tensorboard(tmp_path: Path):
    seen: list[tuple[int, bool, bool]] = []

    def hook(step: int, model: nn.Module) -> Evaluation:
        seen.append((step, model.training, torch.is_grad_enabled()))
        image = np.zeros((1, 4, 4, 3), dtype=np.uint8)
        return Evaluation({"accuracy": 0.25 * step}, {"answer": "a call"}, {"plate": image})

    config = toy_config(tmp_path, eval={"every_steps": 4}, logging={"every_steps": 2, "trackers": ["tensorboard"]})
    result = toy_train(config, on_evaluate=[hook])
    assert seen == [(4, False, False), (6, False, False)] and result.evaluation == {"accuracy": 1.5}
    assert [line["eval/accuracy"] for line in lines(tmp_path) if "eval/accuracy" in line] == [1.0, 1.5]
    events = EventAccumulator(str(tmp_path / "pretraining"), size_guidance={"tensors": 0, "images": 0})
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [2, 4, 6]
    assert [event.step for event in events.Images("eval/plate")] == [4, 6]
    assert any("answer" in tag for tag in events.Tags()["tensors"])


def test_evaluating_does_not_change_the_training(tmp_path: Path):
    toy_train(toy_config(tmp_path / "a"))
    noisy = [lambda step, model: {"noise": float(torch.rand(100).sum())}]
    toy_train(toy_config(tmp_path / "b", eval={"every_steps": 1}), on_evaluate=noisy)
    assert read_losses(tmp_path / "a") == read_losses(tmp_path / "b")


def test_an_unknown_loss_term_is_an_error(tmp_path: Path):
    with pytest.raises(ValueError, match=r"losses.lagnuage: unknown term; allowed: language, trigger"):
        toy_trainer(toy_config(tmp_path, losses={"lagnuage": 1.0}))


def test_workers_change_nothing(tmp_path: Path):
    toy_train(toy_config(tmp_path / "a"))
    toy_train(toy_config(tmp_path / "b", workers=1))
    assert read_losses(tmp_path / "a") == read_losses(tmp_path / "b")


def test_activation_checkpointing_changes_nothing(tmp_path: Path):
    toy_train(toy_config(tmp_path / "a"))
    toy_train(toy_config(tmp_path / "b", activation_checkpointing=True))
    assert read_losses(tmp_path / "a") == read_losses(tmp_path / "b")


@pytest.mark.slow
def test_compiling_block_by_block_changes_nothing_but_rounding(tmp_path: Path):
    toy_train(toy_config(tmp_path / "a"))
    counters.clear()
    toy_train(toy_config(tmp_path / "b", compile=True, activation_checkpointing=True))
    assert counters["stats"]["unique_graphs"] > 0 and not counters["graph_break"]
    assert read_losses(tmp_path / "b") == pytest.approx(read_losses(tmp_path / "a"), rel=1e-4)


def test_bf16_trains_in_mixed_precision(tmp_path: Path):
    config = toy_config(tmp_path, precision="bf16")
    trainer = toy_trainer(config)
    kinds: set[torch.dtype] = set()
    model = trainer.distribution.objective.get_submodule("model")
    assert isinstance(model, ToyModel)
    model.text[0].up.register_forward_hook(lambda module, inputs, output: kinds.add(output.dtype))
    result = trainer.train()
    assert kinds == {torch.bfloat16} and all(p.dtype == torch.float32 for p in model.parameters())
    toy_train(toy_config(tmp_path / "b"))
    assert result.loss == pytest.approx(read_losses(tmp_path / "b")[-1], rel=0.02)


def test_a_time_budget_sets_the_steps_and_a_resumed_run_keeps_them(tmp_path: Path):
    schedule = {"steps": 100_000, "warmup": 2, "time_budget_s": 1.5}
    config = toy_config(tmp_path, schedule=schedule, checkpoint={"every_steps": 25})
    began = time.monotonic()
    result = toy_train(config)
    assert result.status == "completed" and 10 < result.total_steps < 100_000
    assert time.monotonic() - began < 10
    again = toy_train(config)
    assert again.total_steps == again.step == result.total_steps


def test_sigterm_leaves_a_checkpoint(tmp_path: Path):
    result = train_until(toy_config(tmp_path), 3)
    assert (result.status, result.exit_code, result.step, result.model_dir) == ("interrupted", 143, 3, None)
    assert latest(tmp_path / "checkpoints") == tmp_path / "checkpoints" / "step_00000003"


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_from_outside_give_the_shells_exit_codes(tmp_path: Path, number: int, code: int):
    process = start_process(train_for_ever, toy_config(tmp_path, schedule={"steps": 10**7}))
    deadline = time.monotonic() + 60
    while not (tmp_path / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert process.pid is not None
    os.kill(process.pid, number)
    process.join(60)
    assert process.exitcode == code
    assert latest(tmp_path / "checkpoints") is not None


def test_a_worker_makes_whole_steps():
    """The samples of a step are sorted together: a worker that made one part of it would make the rest for nothing."""
    from itertools import islice

    from multimodal_ai.training.trainer import _Steps

    assert list(islice(_Steps(2, 3), 2)) == [[6, 7, 8], [9, 10, 11]]
