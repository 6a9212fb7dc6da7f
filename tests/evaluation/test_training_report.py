"""The page of a training run, and the examples that it keeps for it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from typer.testing import CliRunner

from multimodal_ai.cli import app
from multimodal_ai.evaluation.common import Example
from multimodal_ai.evaluation.saved_examples import read_examples, write_examples
from multimodal_ai.evaluation.training_report import write_training_report
from multimodal_ai.training.run_record import RunRecord

from .conftest import picture
from .test_report import EVIL, Page


def write_run(folder: Path, **changes: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {"step": step, "time": step * 2.0, "loss": 3 / step, "loss/language": 2 / step, "loss/trigger": 1 / step,
         "source/books/language": 1 / step, "source/chat/language": 3 / step, "source/chat/trigger": 1 / step,
         "lr": 0.1, "lr/text": 0.1, "lr/head": 0.01, "grad_norm": 1, "grad_norm/text": 1 / step,
         "tokens_per_s": 100.4, "images_per_s": 1, "data_wait": 0.01, "mfu": 0.4, "memory_gb": 1.5}
        for step in range(1, 40)
    ]  # fmt: skip
    (folder / "metrics.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (folder / "config.yaml").write_text(f"stage: alignment\nnote: {EVIL}\n")
    record = RunRecord(
        "alignment", "failed", 39, 200, f"no data {EVIL}", command=["multimodal-ai", "train", "-c", "x.yaml"],
        folder="/there", environment={"device": "1 x cpu, a processor", "versions": "torch 2.13.0"},
    )  # fmt: skip
    (folder / "run.json").write_text(json.dumps({**asdict(record), **changes}))
    return folder


def examples() -> dict[str, list[Example]]:
    return {
        "plates": [
            Example("training", f"Which? {EVIL}", "red", "blue", False, [picture("blue")], source="plates"),
            Example("training", "Which?", "red", "red", True, [picture("red"), b"no image"]),
        ]
    }


def test_the_page_tells_everything_and_is_whole(tmp_path: Path):
    run = write_run(tmp_path / "run")
    write_examples(run, 20, examples())
    text = write_training_report(run, tmp_path / "page.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == [] and "script" not in page.tags and EVIL not in text
    assert all(url.startswith(("data:image/", "#")) for url in page.loaded) and page.tags.count("img") == 2
    for words in (
        "Training of run", "of 200 planned, failed", "language by data source", "Learning rate of each part",
        "Gradient norm of each part", "Use of the hardware", "Peak memory", "cd /there &amp;&amp; multimodal-ai train",
        "no data &lt;script", "stage: alignment", "torch 2.13.0", "1 x cpu, a processor", "plates, after step 20",
        "40.0%", "1.3 minutes",
    ):  # fmt: skip
        assert words in text, words
    assert "trigger by data source" not in text, "of one source it is the curve of the term"


def test_a_folder_of_stages_is_one_page(tmp_path: Path):
    for stage in ("pretraining", "alignment"):
        write_run(tmp_path / "run" / stage, state="finished", environment={"device": stage})
    text = write_training_report(tmp_path / "run", tmp_path / "page.html").read_text(encoding="utf-8")
    assert text.index("Pretraining: configuration") < text.index("Alignment: configuration")
    assert "Device, alignment" in text


def test_the_command_writes_it_beside_the_run(tmp_path: Path):
    run = write_run(tmp_path / "run")
    (run / "run.json").unlink()
    (run / "config.yaml").unlink()
    done = CliRunner().invoke(app, ["report", str(run)])
    assert done.exit_code == 0, done.output
    assert done.stdout.strip() == str(run / "training.html") and (run / "training.html").is_file()
    done = CliRunner().invoke(app, ["report", str(tmp_path / "nowhere")])
    assert done.exit_code == 2 and "no metrics.jsonl here" in done.output


def test_examples_come_back_and_images_are_kept_once(tmp_path: Path):
    for step in (10, 20):
        write_examples(tmp_path, step, examples())
    assert len(list((tmp_path / "examples" / "images").iterdir())) == 2
    (tmp_path / "examples" / "step_00000030.json").write_text('{"plates": [{"suite"')  # cut short
    found = read_examples(tmp_path)
    assert found is not None and found[0] == 20
    wrong, right = found[1]["plates"]
    assert (wrong.given, wrong.correct, len(wrong.images), len(right.images)) == ("blue", False, 1, 1)
    assert wrong.images[0].is_file()
    assert read_examples(tmp_path / "nowhere") is None


@pytest.mark.parametrize("line", ["", '{"step": 1, "time": 1}'])
def test_a_run_that_has_hardly_begun_has_a_page(tmp_path: Path, line: str):
    (tmp_path / "metrics.jsonl").write_text(line)
    if not line:
        with pytest.raises(ValueError, match="no metrics"):
            write_training_report(tmp_path, tmp_path / "page.html")
    else:
        assert Page(write_training_report(tmp_path, tmp_path / "page.html").read_text(encoding="utf-8")).open == []
