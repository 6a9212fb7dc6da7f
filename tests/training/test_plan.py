from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from multimodal_ai.cli import app
from multimodal_ai.models import ModelConfig
from multimodal_ai.models.describe import SampleShape
from multimodal_ai.training.config import OptimizerConfig, PartConfig
from multimodal_ai.training.plan import Machine, Plan, Planner, Training, make_plan
from multimodal_ai.training.plan_inputs import measured_rate, read_training

STACK = {"width": 64, "layers": 3, "heads": 4, "kv_heads": 2, "hidden": 160}
MODEL = ModelConfig.model_validate(
    {"vocab_size": 512, "vision": STACK | {"patch_size": 4}, "text": STACK, "decoder": STACK, "head": {"width": 32}}
)
TRAINING = Training(MODEL, SampleShape(16, 48, 32, 32, 16), micro_size=16, global_size=256, bf16=False)
MB = 1e6


@pytest.fixture(scope="module")
def plan() -> Plan:
    return make_plan(TRAINING, Machine(16, 8, 100 * MB, rate=1e12, price=2.0), tokens=1e6)


def test_weights_gradients_and_state_are_divided_as_the_strategy_says(plan: Plan):
    rows = {(e.strategy, e.checkpointing): e for e in plan.estimates}
    assert set(rows) == {(s, c) for s in ("ddp", "fsdp2", "hsdp") for c in (False, True)}
    whole = rows["ddp", False]
    assert whole.weights == whole.gradients == 4 * plan.parameters
    for strategy, share in (("fsdp2", 16), ("hsdp", 8)):
        for part in ("weights", "gradients", "optimizer"):
            assert getattr(rows[strategy, False], part) == pytest.approx(getattr(whole, part) / share)


def test_checkpointing_costs_time_and_saves_memory(plan: Plan):
    for plain, saved in zip(plan.estimates[::2], plan.estimates[1::2], strict=True):
        assert saved.peak < plain.peak and saved.largest_micro > plain.largest_micro
        assert plain.compute_s < saved.compute_s < 4 / 3 * plain.compute_s


def test_the_largest_micro_batch_fits_and_the_next_does_not():
    planner = Planner(TRAINING, Machine(1, 1, 100 * MB))
    largest = planner.largest_micro("ddp", False)
    assert largest > 1 and planner.fits("ddp", False, largest) and not planner.fits("ddp", False, largest + 1)
    assert Planner(TRAINING, Machine(1, 1, 1 * MB)).largest_micro("ddp", False) == 0


def test_on_a_cpu_the_copy_that_a_checkpoint_is_written_from_counts():
    planner = Planner(TRAINING, Machine(2, 2, 100 * MB, kind="cpu"))
    copying = [planner.memory(strategy, False, 16, 1) for strategy in ("ddp", "fsdp2")]
    planner.training = replace(TRAINING, asynchronous=False)
    waiting = [planner.memory(strategy, False, 16, 1) for strategy in ("ddp", "fsdp2")]
    for one, other in zip(copying, waiting, strict=True):  # half of it on each process, sharded or not
        assert one["snapshot"] == (waiting[0]["weights"] + waiting[0]["optimizer"]) / 2
        assert one["peak"] - other["peak"] == pytest.approx(one["snapshot"]) and not other["snapshot"]


def test_hours_and_cost_follow_from_the_tokens(plan: Plan):
    assert plan.steps is not None and (plan.steps - 1) * plan.tokens_per_sample * 256 < 1e6
    for one in plan.estimates:
        assert one.step_s == pytest.approx(one.compute_s + one.waiting_s + one.optimizer_s)
        assert one.hours == pytest.approx(plan.steps * one.step_s / 3600)
        assert one.cost == pytest.approx((one.hours or 0) * 16 * 2)


def test_a_slower_network_makes_waiting_longer():
    slow, fast = (
        Planner(TRAINING, Machine(16, 8, 100 * MB, rate=1e15, node_bandwidth=speed)).estimate("ddp", False, 1)
        for speed in (1e8, 1e12)
    )
    assert slow.waiting_s > 10 * fast.waiting_s


def test_frozen_parts_have_neither_gradients_nor_state():
    frozen = replace(TRAINING, parts={"text": PartConfig(trainable=False)}, optimizer=OptimizerConfig(name="adamw"))
    counts = Planner(frozen, Machine(1, 1, 1e9)).counts
    memory = Planner(frozen, Machine(1, 1, 1e9)).memory("ddp", False, 16, 2)
    assert counts.layer_trained["text"] == 0 < counts.layer["text"] and counts.trained < counts.all
    assert memory["gradients"] == 4 * counts.trained and memory["optimizer"] == 8 * counts.trained


def test_gpus_that_do_not_fill_machines_are_refused():
    with pytest.raises(ValueError, match="12 GPUs cannot be divided into machines of 8"):
        make_plan(TRAINING, Machine(12, 8, 1e9))


def test_a_stage_says_what_is_planned(stage: Path):
    training = read_training(stage / "stage.yaml", ["batch.global_size=8"], "patches=16,source=20")
    assert (training.micro_size, training.global_size, training.steps) == (2, 8, 4)
    assert training.sample.source == 20 and training.sample.target == 256  # the limit of the stage's data
    assert training.bf16 is False  # as its precision says
    assert (
        training.asynchronous
        and not read_training(stage / "stage.yaml", ["checkpoint.asynchronous=false"]).asynchronous
    )
    with pytest.raises(ValueError, match="expected KEY=NUMBER with one of patches"):
        read_training(stage / "stage.yaml", [], "sources=3")


def test_a_rate_is_a_number_or_a_run(tmp_path: Path):
    assert measured_rate("1.5e14") == 1.5e14
    with pytest.raises(ValueError, match="neither a number nor a run"):
        measured_rate(str(tmp_path))


def test_the_command_prints_a_table_and_writes_everything(tmp_path: Path):
    (tmp_path / "model.yaml").write_text(json.dumps(MODEL.model_dump(mode="json")))
    out = tmp_path / "plan.json"
    arguments = ["plan", "-c", str(tmp_path / "model.yaml"), "--gpus", "2", "--memory", "1GiB", "--reserve", "0"]
    arguments += ["--sample", "patches=16,source=32,cards=0,target=16", "--tokens", "1e6", "--json", str(out)]
    result = CliRunner(env={"COLUMNS": "160"}).invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "fsdp2, checkpointing" in result.output and "2 GPUs of 1.1 GB" in result.output
    written = json.loads(out.read_text())
    assert len(written["estimates"]) == 4 and all(row["fits"] for row in written["estimates"])
    assert CliRunner().invoke(app, [*arguments[:5], "--memory", "lots"]).exit_code == 2
