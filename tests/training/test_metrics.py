from __future__ import annotations

from pathlib import Path

import pytest
from accelerate import Accelerator

from multimodal_ai.training.config import LoggingConfig
from multimodal_ai.training.metrics import MetricsLog, StepMetrics, append_whole, summary
from multimodal_ai.training.trackers import Trackers


NO_TRACKERS = Trackers(LoggingConfig(trackers=[]), Path(), "run")


def step(
    loss: float, language: float, seconds: float = 0.5, tokens: float = 100, rare: float | None = None
) -> StepMetrics:
    return StepMetrics({"language": language} | ({} if rare is None else {"rare": rare}), loss, {"text": 3.0, "head": 4.0}, 0.1, tokens, 2, 1e6,
                       seconds, 0.1)  # fmt: skip


def test_a_window_is_averaged_and_its_rates_are_over_its_time():
    values = summary([step(1.0, 2.0), step(3.0, 4.0, seconds=1.5)], peak_flops=1e7, processes=2)
    assert values["loss"] == 2.0 and values["loss/language"] == 3.0 and values["grad_norm"] == 5.0
    assert values["tokens_per_s"] == 100 and values["images_per_s"] == 2 and values["data_wait"] == pytest.approx(0.1)
    assert values["flops_per_s"] == 1e6 and values["mfu"] == pytest.approx(0.05)


def test_a_term_without_a_label_in_the_window_is_left_out():
    assert "loss/rare" not in summary([step(1.0, 2.0)], None, 1)
    assert summary([step(1.0, 2.0), step(1.0, 2.0, rare=3.0), step(1.0, 2.0)], None, 1)["loss/rare"] == 3.0


def test_steps_that_will_be_done_again_are_dropped_and_a_cut_line_too(tmp_path: Path):
    log = MetricsLog(tmp_path, Accelerator(cpu=True), NO_TRACKERS, None)
    for number in range(1, 5):
        log.add(step(number, number))
        log.flush(number, float(number))
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 5, "lo')
    log.start(2)
    assert [line.split(",")[0] for line in log.path.read_text().splitlines()] == ['{"step": 1', '{"step": 2']
    assert log.last_losses()["loss"] == 2
