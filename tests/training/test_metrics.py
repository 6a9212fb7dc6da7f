from __future__ import annotations

import json
import resource
from dataclasses import replace
from pathlib import Path

import pytest
from accelerate import Accelerator

from multimodal_ai.training.config import LoggingConfig
from multimodal_ai.training.metrics import Evaluation, MetricsLog, StepMetrics, append_whole, summary
from multimodal_ai.training.trackers import Trackers

NO_TRACKERS = Trackers(LoggingConfig(trackers=[]), Path(), "run")


def step(
    loss: float, language: float, seconds: float = 0.5, tokens: float = 100, rare: float | None = None
) -> StepMetrics:
    losses = {"language": language} | ({} if rare is None else {"rare": rare})
    norms, sources = {"text": 3.0, "head": 4.0}, {"books/language": (language * 10, 10.0)}
    return StepMetrics(losses, loss, norms, 0.1, tokens, 2, 1e6, seconds, 0.1, {"text": 0.1, "head": 0.01}, sources)


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


def test_sources_are_averaged_over_their_labels_and_rates_are_the_last():
    heavy = replace(step(1.0, 2.0), sources={"books/language": (30.0, 30.0), "chat/trigger": (1.0, 4.0)})
    values = summary([step(1.0, 2.0), heavy], None, 1)
    assert values["source/books/language"] == (20 + 30) / 40 and values["source/chat/trigger"] == 0.25
    assert values["lr/text"] == 0.1 and values["lr/head"] == 0.01


def test_steps_that_no_line_tells_of_come_from_the_checkpoint(tmp_path: Path):
    def log() -> MetricsLog:
        return MetricsLog(tmp_path, Accelerator(cpu=True), NO_TRACKERS, None)

    first = log()
    for number in range(1, 6):
        first.add(step(number, number))
        if number == 4:
            first.flush(4, 4.0)
            first.evaluation(4, 4.0, Evaluation({"accuracy": 1.0}))
    window = json.loads(json.dumps(first.window))  # the checkpoint of step 5
    first.flush(5, 5.0)  # the run is stopped
    second = log()
    second.start(5, window)
    for number in range(6, 9):
        second.add(step(number, number))
    second.flush(8, 8.0)
    found = [json.loads(line) for line in second.path.read_text().splitlines()]
    assert [(line["step"], line.get("loss")) for line in found] == [(4, 2.5), (4, None), (8, 6.5)]


def test_a_write_that_fails_in_the_middle_leaves_nothing(tmp_path: Path):
    path = tmp_path / "lines"
    append_whole(path, "one\n")
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6, hard))  # two bytes of the next line fit
    try:
        with pytest.raises(OSError):
            append_whole(path, "two\n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert path.read_text() == "one\n"
