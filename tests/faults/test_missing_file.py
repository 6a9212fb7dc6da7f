"""A file that is gone in the middle of a run: an image costs its row until too many are gone, a shard is noticed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image
from undisturbed import state

from multimodal_ai.training.checkpoint import CheckpointError, latest
from multimodal_ai.training.config import TrainConfig
from multimodal_ai.training.interface import TrainingStopped
from multimodal_ai.training.run import run_stage
from multimodal_ai.utils.config import load_config


@pytest.fixture
def config(stage: Path, tmp_path: Path) -> TrainConfig:
    """A stage on images that are files of their own, in two shards of rows."""
    data = tmp_path / "data"
    data.mkdir()
    for shard in range(2):
        lines = []
        for number in range(20):
            Image.new("RGB", (32, 16), (shard * 255, number * 12, 0)).save(data / f"{shard}_{number}.png")
            user = {"role": "user", "content": [{"type": "image"}]}
            row = {"messages": [user, {"role": "assistant", "content": "a plate"}], "images": [f"{shard}_{number}.png"]}
            lines.append(json.dumps({**row, "task": "caption"}) + "\n")
        (data / f"train-{shard:05d}.jsonl").write_text("".join(lines))
    overrides = [
        f"output_dir={tmp_path / 'run'}", f"data.sources={{plates: {{path: {data}}}}}", "schedule.steps=14",
        "checkpoint.every_steps=1",
    ]  # fmt: skip
    return load_config(TrainConfig, stage / "stage.yaml", overrides)


class At:
    """Evaluation hook: does something after a step."""

    def __init__(self, step: int, action: object) -> None:
        self.step, self.action = step, action

    def __call__(self, step: int, model: object) -> dict[str, float]:
        if step == self.step:
            self.action()  # type: ignore[operator]
        return {}


def train(config: TrainConfig, stage: Path, *hooks: At) -> None:
    each_step = config.eval.model_copy(update={"every_steps": 1})
    run_stage(
        config.model_copy(update={"eval": each_step}), [lambda config, tokenizer, hook=hook: hook for hook in hooks],
        stage,
    )  # fmt: skip


def test_images_that_vanish_stop_the_run_when_they_are_many(config: TrainConfig, stage: Path, tmp_path: Path):
    data, moved = tmp_path / "data", tmp_path / "moved"
    moved.mkdir()

    def take_away() -> None:
        for image in data.glob("1_*.png"):
            shutil.move(image, moved)

    with pytest.raises(TrainingStopped, match=r"no data: .*samples could not be used .*1_\d+\.png") as caught:
        train(config, stage, At(3, take_away))
    kept = latest(tmp_path / "run" / "checkpoints")
    assert kept is not None and str(kept) in str(caught.value) and state(tmp_path / "run") == "failed"
    for image in moved.iterdir():
        shutil.move(image, data)
    train(config, stage)
    assert state(tmp_path / "run") == "finished"


def test_a_shard_that_is_gone_is_noticed_before_it_changes_the_data(config: TrainConfig, stage: Path, tmp_path: Path):
    class Interrupt(Exception):
        pass

    def stop() -> None:
        raise Interrupt

    with pytest.raises(Interrupt):
        train(config, stage, At(3, stop))
    shard = tmp_path / "data" / "train-00001.jsonl"
    shard.rename(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match=r'identity\.rows of plates: "40" in the checkpoint, "20" now'):
        train(config, stage)
    assert state(tmp_path / "run") == "failed", "the command that was refused is not the run"
    (tmp_path / "elsewhere").rename(shard)
    train(config, stage)
    assert state(tmp_path / "run") == "finished"
