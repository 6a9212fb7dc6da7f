from __future__ import annotations

from pathlib import Path

import pytest
from toy import toy_config

from multimodal_ai.training.checkpoint import config_differences
from multimodal_ai.training.config import BatchConfig, ScheduleConfig, TrainConfig, TrainerConfig
from multimodal_ai.training.losses import TERMS
from multimodal_ai.utils.config import ConfigError, load_config, parse_config


def test_accumulation_is_what_is_left_of_the_global_batch():
    assert BatchConfig(global_size=64, micro_size=8).accumulation(2) == 4


def test_a_batch_that_cannot_be_split_names_sizes_that_can():
    with pytest.raises(ValueError, match=r"set batch\.global_size to 60 or 66"):
        BatchConfig(global_size=64, micro_size=3).accumulation(2)


def test_warmup_and_decay_must_fit_into_the_steps():
    with pytest.raises(ValueError, match="longer than steps 10"):
        ScheduleConfig(steps=10, warmup=5, decay=6)


def test_a_time_budget_needs_warmup_in_steps():
    with pytest.raises(ValueError, match="give warmup in steps"):
        ScheduleConfig(steps=10, warmup=0.1, time_budget_s=60)


def test_an_unknown_key_is_an_error_that_names_it():
    raw = {"stage": "alignment", "output_dir": "x", "schedule": {"steps": 1}, "optimizer": {"learning_rate": 1}}
    with pytest.raises(ConfigError, match=r"optimizer\.learning_rate: unknown key"):
        parse_config(TrainerConfig, raw)


def test_a_stage_needs_a_model_or_the_stage_before(tmp_path: Path):
    path = tmp_path / "stage.yaml"
    path.write_text("stage: alignment\noutput_dir: x\nschedule: {steps: 1}\ntokenizer: t\ndata: {sources: {}}\n")
    with pytest.raises(ConfigError, match="give model, or init_from"):
        load_config(TrainConfig, path)


def test_only_keys_that_change_what_is_computed_count_as_differences(tmp_path: Path):
    before = toy_config(tmp_path).model_dump(mode="json")
    free = toy_config(
        tmp_path / "elsewhere", workers=2, strategy="fsdp2", batch={"global_size": 8, "micro_size": 2}
    ).model_dump(mode="json")
    assert config_differences(before, free) == []
    other = toy_config(tmp_path, seed=3, optimizer={"lr": 0.5}).model_dump(mode="json")
    assert config_differences(before, other) == [
        "optimizer.lr: 0.02 in the checkpoint, 0.5 now",
        "seed: 0 in the checkpoint, 3 now",
    ]


ROOT = Path(__file__).parents[2]
STAGES = [path for path in sorted((ROOT / "configs").rglob("*.yaml")) if path.read_text().find("\nstage:") > 0]


@pytest.mark.parametrize("path", STAGES, ids=lambda path: str(path.relative_to(ROOT / "configs")))
def test_every_stage_that_comes_with_the_project_can_be_read(path: Path):
    config = load_config(TrainConfig, path)
    assert set(config.losses) <= set(TERMS) and config.data.sources
    assert config.model is None or (isinstance(config.model, Path) and (ROOT / config.model).is_file())
    assert not {source.path for source in config.calibration.sources.values()} & {
        source.path for source in config.data.sources.values()
    }
