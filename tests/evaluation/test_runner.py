"""Running suites over files: rows chosen, JSON written, errors told."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from multimodal_ai.evaluation import runner
from multimodal_ai.inference.requests import Reply

from .conftest import RuleEngine


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.jsonl"
    rows = [{"text": f"This is text number {number}."} for number in range(30)]
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


def test_json_has_suite_metric_value(texts: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out.json"
    found = runner.evaluate(RuleEngine(), {"text": texts}, limit=7, json_out=out)
    assert found["text"]["bits_per_byte"] == pytest.approx(2.0)
    assert found["text"]["count"] == 7
    assert json.loads(out.read_text()) == found
    assert [entry.name for entry in out.parent.iterdir()] == ["out.json"]


def test_a_limit_spreads_and_is_the_same_every_time() -> None:
    rows = runner.spread_rows(1000, 50)
    assert rows == runner.spread_rows(1000, 50) == sorted(set(rows))
    assert len(rows) == 50 and rows[0] < 100 and rows[-1] > 900
    assert runner.spread_rows(3, 50) == runner.spread_rows(3, None) == [0, 1, 2]
    with pytest.raises(ValueError, match="at least 1"):
        runner.spread_rows(3, 0)


def test_an_unknown_suite_lists_the_known(texts: Path) -> None:
    with pytest.raises(ValueError, match="unknown suite txt; there are text, retrieval, captions, vqa, calls"):
        runner.evaluate(RuleEngine(), {"txt": texts})


def test_a_bad_row_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"text": "fine"}\n{"messages": [{"role": "robot", "content": "x"}]}\n')
    with pytest.raises(ValueError, match=r"row 2 of bad\.jsonl"):
        runner.load_samples(path)


def test_undefined_metrics_are_null_and_an_old_file_survives_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.json"
    runner.write_json({"calls": {"trigger_auroc": math.nan, "count": 1.0}}, out)
    assert json.loads(out.read_text()) == {"calls": {"trigger_auroc": None, "count": 1.0}}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(runner.os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        runner.write_json({}, out)
    assert json.loads(out.read_text())["calls"]["count"] == 1.0
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.json"]


def test_suites_are_chosen_by_what_the_data_holds() -> None:
    from .conftest import answer_sample, caption_sample, meter_sample, question_sample

    assert runner.suites_for([meter_sample(), answer_sample()]) == ["calls"]
    assert runner.suites_for([question_sample("Colour?", "blue"), caption_sample("red", "red")]) == [
        "retrieval",
        "vqa",
    ]
    found = runner.run_suites(RuleEngine(lambda request: Reply()), {"vqa": [question_sample("Colour?", "blue")]})
    assert found["vqa"].metrics["accuracy"] == 0.0
