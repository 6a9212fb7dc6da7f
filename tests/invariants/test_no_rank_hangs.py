"""DESIGN 7.3: a process whose batch has no image, no text or no functions never hangs the others."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch.utils.data import Dataset
from toy import ToyData, read_losses, run_processes, toy_config, toy_train, train_all

from multimodal_ai.data.packing import Batch
from multimodal_ai.models.describe import SampleShape
from multimodal_ai.models.multimodal_model import ModelConfig, MultimodalModel
from multimodal_ai.training.config import TrainerConfig
from multimodal_ai.training.losses import TrainingObjective
from multimodal_ai.training.synthetic import synthetic_batch
from multimodal_ai.training.trainer import Trainer

STRATEGIES = ("ddp", "fsdp2", "hsdp")
BLOCK = {"width": 32, "layers": 1, "heads": 2, "kv_heads": 1, "hidden": 48}
MODEL = ModelConfig.model_validate(
    {"vocab_size": 64, "vision": BLOCK | {"patch_size": 4}, "text": BLOCK, "decoder": BLOCK, "head": {"width": 16}}
)
IMAGE = SampleShape(patches=16, source=0, cards=0, target=8)
TEXT = SampleShape(patches=0, source=12, cards=0, target=8)
CALL = SampleShape(patches=0, source=12, cards=16, target=8, values=4)


class OneKindEach(Dataset[Batch]):
    """In every step the n-th process has samples of the n-th kind alone; a single process has all in turn."""

    def __init__(self, kinds: list[SampleShape]) -> None:
        self.batches = [synthetic_batch(MODEL, kind, 1) for kind in kinds]

    def __getitem__(self, number: int) -> Batch:
        world = int(os.environ.get("WORLD_SIZE", 1))
        own = self.batches[int(os.environ.get("RANK", 0)) :: world]
        return own[number % len(own)]


def train_kinds(kinds: list[SampleShape], configs: list[TrainerConfig]) -> None:
    for config in configs:
        torch.manual_seed(0)
        Trainer(config, TrainingObjective(MultimodalModel(MODEL)), OneKindEach(kinds)).train()


def kinds_config(folder: Path, kinds: list[SampleShape], **changes: object) -> TrainerConfig:
    return toy_config(
        folder,
        batch={"global_size": len(kinds), "micro_size": 1},
        schedule={"steps": 3},
        optimizer={"lr": 1e-3},
        **changes,
    )


def check_kinds(folder: Path, kinds: list[SampleShape]) -> None:
    """As many processes as kinds, under every strategy, against one process."""
    configs = [kinds_config(folder / strategy, kinds, strategy=strategy) for strategy in STRATEGIES[:2]]
    configs.append(kinds_config(folder / "hsdp", kinds, strategy="hsdp", hsdp_shard_size=2))
    run_processes(len(kinds), folder, train_kinds, kinds, configs)
    train_kinds(kinds, [kinds_config(folder / "one", kinds)])
    for config in configs:
        assert read_losses(config.output_dir) == pytest.approx(read_losses(folder / "one"), rel=1e-5)


@pytest.mark.parametrize("other", [TEXT, CALL])
def test_a_process_with_images_alone_trains_along(tmp_path: Path, other: SampleShape):
    images = synthetic_batch(MODEL, IMAGE, 1)
    assert len(images.patches) and not images.text_lengths.sum() and (images.source_ids == 0).all()
    check_kinds(tmp_path, [IMAGE, other])


@pytest.mark.slow
def test_four_processes_with_images_text_and_functions_apart(tmp_path: Path):
    check_kinds(tmp_path, [IMAGE, TEXT, CALL, IMAGE])


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
