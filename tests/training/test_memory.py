"""What a plan says of memory, against steps that are really trained and counted by torch's allocator."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from toy import run_processes, toy_config

from multimodal_ai.models import ModelConfig
from multimodal_ai.models.describe import SampleShape
from multimodal_ai.models.multimodal_model import MultimodalModel
from multimodal_ai.training import checkpoint
from multimodal_ai.training.config import OptimizerConfig
from multimodal_ai.training.losses import TrainingObjective
from multimodal_ai.training.memory import LiveBytes, allocated_peak, measure_activations
from multimodal_ai.training.plan import Machine, Planner, Training
from multimodal_ai.training.synthetic import image_grid, synthetic_batch
from multimodal_ai.training.trainer import Trainer

STACK = {"width": 64, "layers": 4, "heads": 4, "kv_heads": 2, "hidden": 160}
MODEL = ModelConfig.model_validate(
    {"vocab_size": 512, "vision": STACK | {"patch_size": 4}, "text": STACK, "decoder": STACK, "head": {"width": 32}}
)
SAMPLE = SampleShape(patches=16, source=48, cards=32, target=32, values=16)
FOLDER = Path(__file__).parents[2] / "benchmarks"


def benchmark() -> ModuleType:
    """benchmarks/memory.py, importable by the processes that it starts."""
    spec = importlib.util.spec_from_file_location("benchmark_memory", FOLDER / "memory.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["benchmark_memory"] = module
    spec.loader.exec_module(module)
    return module


def train_case(options: dict[str, Any], folder: str) -> None:
    loaded = benchmark()
    loaded.train(loaded.Case(MODEL, SAMPLE, **options), folder)


@pytest.mark.parametrize("checkpointing, bf16, accumulation", [(False, False, 1), (False, True, 2), (True, False, 1)])
def test_one_process_needs_what_the_plan_says(tmp_path: Path, checkpointing: bool, bf16: bool, accumulation: int):
    options = {"micro": 32, "accumulation": accumulation, "checkpointing": checkpointing, "bf16": bf16}
    train_case(options, str(tmp_path))
    loaded = benchmark()
    predicted = loaded.predicted(loaded.Case(MODEL, SAMPLE, **options))
    assert predicted == pytest.approx(float((tmp_path / "0").read_text()), rel=0.1)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_processes_need_what_the_plan_says(tmp_path: Path, strategy: str):
    options = {"micro": 32, "processes": 2, "strategy": strategy}
    run_processes(2, tmp_path, train_case, options, str(tmp_path))
    loaded = benchmark()
    predicted = loaded.predicted(loaded.Case(MODEL, SAMPLE, **options))
    measured = max(float((tmp_path / str(rank)).read_text()) for rank in range(2))
    assert predicted == pytest.approx(measured, rel=0.1)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_the_copy_that_a_checkpoint_is_written_from_has_the_planned_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str
):
    real, copied = checkpoint.snapshot, []

    def counted(tensors: dict[str, Any]) -> dict[str, Any]:
        copied.append(sum(tensor.nbytes for tensor in tensors.values()))
        return real(tensors)

    monkeypatch.setattr(checkpoint, "snapshot", counted)
    given = {"schedule": {"steps": 2}, "batch": {"global_size": 2, "micro_size": 2}, "optimizer": {"name": optimizer}}
    data = benchmark().Same(synthetic_batch(MODEL, SAMPLE, 2))
    Trainer(toy_config(tmp_path, **given), TrainingObjective(MultimodalModel(MODEL)), data).train()
    training = Training(MODEL, SAMPLE, 2, 2, bf16=False, optimizer=OptimizerConfig(name=optimizer))  # type: ignore[arg-type]
    planned = Planner(training, Machine(1, 1, 1e9, kind="cpu")).snapshot_bytes()
    assert copied[-1] == pytest.approx(planned, rel=0.02)  # parameters that no loss reaches have no state


def test_every_byte_is_counted_while_it_is_there():
    before = torch.ones(1000)
    with LiveBytes([before]) as counter:
        kept = before * 2
        assert counter.current == 4000
        more = kept[::2].clone()
        kept.add_(1)  # in place: nothing new
        assert counter.current == 6000
        del more
        assert (counter.current, counter.peak) == (4000, 6000)


def test_the_allocators_peak_is_above_what_was_there_before():
    lying = torch.ones(1000)
    with allocated_peak(torch.device("cpu")) as peak:
        del lying
        first = torch.ones(500)
        del first
        second = torch.ones(250)
    assert 2000 <= peak() < 2500
    del second


def test_a_frozen_part_keeps_no_activations():
    whole = measure_activations(MODEL, SAMPLE)
    frozen = measure_activations(MODEL, SAMPLE, trainable=lambda name: not name.startswith("vision."))

    def kept(measured: Any) -> float:
        return sum(s.change_at(16) for s in measured.later if s.kind == "vision" and not s.backward)

    assert kept(frozen) < 0.2 * kept(whole)


def test_what_further_layers_cost_is_what_the_second_costs():
    for layers in (1, 2, 3):
        config = MODEL.model_copy(update={"text": MODEL.text.model_copy(update={"layers": layers})})
        repeated = [s for s in measure_activations(config, SAMPLE).later if s.repeated and s.kind == "text"]
        assert len(repeated) == (0 if layers == 1 else 4)  # cards and conversation, forward and backward


def test_a_synthetic_batch_has_the_sizes_asked_for():
    batch = synthetic_batch(MODEL, SAMPLE, 16)
    assert batch.patches.shape[:2] == (16, 16) and batch.source_lengths.tolist() == [52, 51] * 8
    assert batch.target_lengths.tolist() == [32, 31] * 8 and batch.card_index.shape == (16, 2)
    assert len(set(batch.card_index.flatten().tolist())) == 32  # no two share a card, the costliest case
    empty = synthetic_batch(MODEL, SampleShape(patches=0, source=8, cards=0, target=8), 2)
    assert not empty.patches.shape[0] and not empty.card_index.shape[1]


@pytest.mark.parametrize("patches, merge, grid", [(64, 2, (8, 8)), (12, 1, (3, 4)), (8, 2, (2, 4))])
def test_an_image_is_as_square_as_can_be(patches: int, merge: int, grid: tuple[int, int]):
    assert image_grid(patches, merge) == grid


def test_patches_that_no_image_has_are_refused():
    with pytest.raises(ValueError, match="multiple of 4"):
        image_grid(10, 2)
