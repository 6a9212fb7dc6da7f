"""The real model, data and losses through the trainer, at the smallest size that has every part."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import toy

from multimodal_ai.data.tokenizer import Tokenizer
from multimodal_ai.inference.engine import Engine
from multimodal_ai.models import MultimodalModel
from multimodal_ai.training.flops import TrainingFlops
from multimodal_ai.training.run import run_training
from multimodal_ai.utils.config import ConfigError


@pytest.fixture(scope="module")
def trained(stage: Path) -> Path:
    held_out = f"{{mixed: {{path: {stage / 'train.jsonl'}}}}}"
    result = run_training(stage / "stage.yaml", [f"eval.sources={held_out}", "eval.samples=4"])
    assert result.status == "completed" and "mixed/language" in result.evaluation
    return stage / "run"


def test_the_folder_that_comes_out_is_whole(trained: Path):
    engine = Engine.from_pretrained(trained / "model")
    assert engine.model.config.vocab_size == engine.tokenizer.vocab_size == 320
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["loss/language"] > 0 and lines[0]["flops_per_s"] > 0 and lines[0]["grad_norm/decoder"] > 0
    assert lines[0]["source/mixed/language"] == pytest.approx(lines[0]["loss/language"], rel=1e-4)
    assert lines[0]["lr/decoder"] == pytest.approx(1.5e-3)  # half of the peak: the first of one step of warm-up
    assert (trained / "config.yaml").exists()


def test_the_next_stage_starts_from_the_one_before(trained: Path, stage: Path, tmp_path: Path):
    keys = [f"init_from={trained}", f"output_dir={tmp_path}", "model=null", "tokenizer=null", "stage=alignment"]
    result = run_training(stage / "stage.yaml", [*keys, "parts={text: {trainable: false}, head: {trainable: false}}"])
    before, after = (MultimodalModel.from_pretrained(folder / "model") for folder in (trained, tmp_path))
    assert result.status == "completed"
    for (name, old), new in zip(before.text.named_parameters(), after.text.parameters(), strict=True):
        assert torch.equal(old, new), name
    assert not torch.equal(before.embedding.weight, after.embedding.weight)


def test_two_processes_sharded_and_not_agree_with_one(trained: Path, stage: Path, tmp_path: Path):
    jobs = [[f"output_dir={tmp_path / name}", f"strategy={name}"] for name in ("ddp", "fsdp2")]
    single = [[f"output_dir={tmp_path / f'single {name}'}", f"strategy={name}"] for name in ("ddp", "fsdp2")]
    jobs += [[*job, "losses={selection: 1}"] for job in single]  # what other terms alone reach gets no gradient
    toy.run_processes(2, tmp_path, toy.run_all, str(stage / "stage.yaml"), jobs)
    for name in ("ddp", "fsdp2"):
        assert toy.read_losses(tmp_path / name) == pytest.approx(toy.read_losses(trained), rel=2e-3)
        MultimodalModel.from_pretrained(tmp_path / name / "model")
        assert (tmp_path / f"single {name}" / "model").is_dir()


@pytest.mark.parametrize(
    "override, message",
    [
        ("data.image.patch_size=16", r"data.image.patch_size is 16, but model.vision.patch_size 8; set"),
        ("init_from=nowhere", "init_from: nowhere holds no trained model"),
        ("losses={lm: 1}", "unknown term 'lm'"),
        ("batch.global_size=5", "batch.global_size 5"),
        ("data.sources.mixed.weigth=2", "did you mean"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(stage: Path, tmp_path: Path, override: str, message: str):
    with pytest.raises(ValueError, match=message):
        run_training(stage / "stage.yaml", [override, f"output_dir={tmp_path}"])


def test_a_vocabulary_too_small_for_the_tokenizer_is_refused(stage: Path, tmp_path: Path):
    (tmp_path / "model.yaml").write_text((stage / "model.yaml").read_text().replace("400", "100"))
    with pytest.raises(ConfigError, match=r"model.vocab_size is 100, but the tokenizer has 320"):
        run_training(stage / "stage.yaml", [f"model={tmp_path / 'model.yaml'}", f"output_dir={tmp_path}"])


def test_flops_are_those_of_a_plain_transformer_and_leave_padding_out(trained: Path, stage: Path):
    from multimodal_ai.data.dataset import MicroBatches
    from multimodal_ai.training.config import TrainConfig
    from multimodal_ai.utils.config import load_config

    config = load_config(TrainConfig, trained / "config.yaml")
    batches = MicroBatches(config.data, Tokenizer.load(stage), seed=0, global_size=5, micro_size=5)
    flops = TrainingFlops(MultimodalModel.from_pretrained(trained / "model"))
    batch = batches[0]
    parts = flops.forward(batch)
    target = float((batch.labels >= 0).sum())
    assert parts["embedding"] == 2 * 320 * 32 * target
    assert parts["vision"] > 0 and parts["fusion"] > 0
    assert flops(batch) == pytest.approx(3 * sum(parts.values()))


def test_every_stage_that_names_calibration_fits_the_temperature_anew(trained: Path, stage: Path, tmp_path: Path):
    keys = [f"calibration.sources={{cards: {{path: {stage / 'train.jsonl'}}}}}", "calibration.samples=8"]

    def temperature(folder: Path, *more: str) -> float:
        run_training(stage / "stage.yaml", [*keys, f"output_dir={folder}", *more])
        return Engine.from_pretrained(folder / "model").processing.trigger_temperature

    first = temperature(tmp_path / "a")
    again = temperature(tmp_path / "b", f"init_from={tmp_path / 'a'}", "model=null", "tokenizer=null", "seed=1")
    without = Engine.from_pretrained(trained / "model").processing.trigger_temperature
    assert len({1.0, first, again}) == 3 and without == 1.0


def test_calibration_needs_functions(stage: Path, tmp_path: Path):
    row = (stage / "train.jsonl").read_text().splitlines()[0]
    (tmp_path / "text.jsonl").write_text(row + "\n")
    keys = [f"calibration.sources={{text: {{path: {tmp_path / 'text.jsonl'}}}}}", f"output_dir={tmp_path / 'run'}"]
    with pytest.raises(ValueError, match=r"calibration.sources \(text\): no sample lists functions"):
        run_training(stage / "stage.yaml", keys)
