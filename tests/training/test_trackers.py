"""Trackers by name: which there are, what reaches them, and that none of them can end a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from accelerate.tracking import GeneralTracker
from toy import read_losses, toy_config, toy_train

from multimodal_ai.training import trackers
from multimodal_ai.training.metrics import Evaluation

OWN = f"{__name__}:Lines"


class Lines(GeneralTracker):
    """A tracker of one's own: everything as lines of JSON. `fails_at` is the step at which its server is gone."""

    name = "lines"
    requires_logging_directory = True

    def __init__(self, run: str, folder: str, fails_at: int = 0) -> None:
        super().__init__()
        self.path, self.fails_at = Path(folder, f"{run}.lines"), fails_at

    @property
    def tracker(self) -> Path:
        return self.path

    def _append(self, kind: str, value: Any, step: int | None = None) -> None:
        if self.fails_at and step == self.fails_at:
            raise ConnectionError("the server is gone")
        with open(self.path, "a") as file:
            file.write(json.dumps([kind, step, value]) + "\n")

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self._append("config", values)

    def log(self, values: dict[str, Any], step: int | None = None, **options: Any) -> None:
        self._append("log", values, step)

    def log_images(self, values: dict[str, Any], step: int | None = None, **options: Any) -> None:
        self._append("images", {name: list(value.shape) for name, value in values.items()}, step)

    def finish(self) -> None:
        self._append("finish", None)


def logging(**options: Any) -> dict[str, Any]:
    return {"every_steps": 1, "progress": False, "trackers": [OWN], **options}


def told(folder: Path) -> list[list[Any]]:
    return [json.loads(line) for line in (folder / "pretraining.lines").read_text().splitlines()]


def test_a_tracker_of_ones_own_gets_everything(tmp_path: Path):
    def hook(step: int, model: object) -> Evaluation:
        return Evaluation({"accuracy": 0.5}, {"answer": "a call"}, {"plate": np.zeros((1, 4, 4, 3), np.uint8)})

    toy_train(toy_config(tmp_path, logging=logging()), on_evaluate=[hook])
    found = told(tmp_path)
    assert found[0][0] == "config" and found[0][2]["optimizer.lr"] == 0.02 and found[-1][0] == "finish"
    numbers = [value for kind, _, value in found if kind == "log" and "loss" in value]
    assert len(numbers) == 6 and {"loss/language", "lr/text", "grad_norm/head", "memory_gb"} <= set(numbers[0])
    assert ["log", 6, {"eval/accuracy": 0.5}] in found and ["log", 6, {"eval/answer": "a call"}] in found
    assert ["images", 6, {"eval/plate": [1, 4, 4, 3]}] in found


def test_a_tracker_that_fails_is_left_out_and_the_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    errors: list[str] = []
    monkeypatch.setattr(trackers.logger, "error", lambda text, *values: errors.append(text % values))
    options = {OWN: {"fails_at": 3}}
    toy_train(toy_config(tmp_path, logging=logging(trackers=[OWN, "tensorboard"], tracker_options=options)))
    assert [step for kind, step, _ in told(tmp_path) if kind == "log"] == [1, 2]
    assert len(read_losses(tmp_path)) == 6 and len(errors) == 1 and "the server is gone" in errors[0]
    toy_train(toy_config(tmp_path / "b", logging=logging(tracker_options={OWN: {"no such option": 1}})))
    assert len(errors) == 2 and len(read_losses(tmp_path / "b")) == 6


@pytest.mark.parametrize(
    "options, message",
    [
        ({"trackers": ["tensorbord"]}, "unknown tracker tensorbord; allowed: .*tensorboard"),
        ({"trackers": ["clearml"]}, "clearml is not installed"),
        ({"trackers": ["nowhere:Tracker"]}, "No module named 'nowhere'"),
        ({"trackers": ["json:nothing"]}, "no attribute 'nothing'"),
        ({"trackers": ["json:JSONDecoder"]}, "no subclass of accelerate.tracking.GeneralTracker"),
        ({"tracker_options": {"wandb": {}}}, "tracker_options: wandb is not among logging.trackers"),
    ],
)
def test_what_is_no_tracker_is_refused_before_training(tmp_path: Path, options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        toy_train(toy_config(tmp_path, logging=logging(**options)))
    assert not (tmp_path / "metrics.jsonl").exists()
