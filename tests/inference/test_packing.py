"""A packed model answers like the model it was made of, and takes a quarter of the room."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from multimodal_ai import shipped
from multimodal_ai.cli import app
from multimodal_ai.data.processing import ProcessingConfig
from multimodal_ai.data.tokenizer import Tokenizer
from multimodal_ai.inference import Engine, Request
from multimodal_ai.models import MultimodalModel


@pytest.fixture
def folder(small_model: MultimodalModel, small_tokenizer: Tokenizer, tmp_path: Path) -> Path:
    place = tmp_path / "model"
    small_model.save_pretrained(place)
    small_tokenizer.save(place)
    ProcessingConfig(trigger_temperature=1.5).save(place)
    return place


def test_a_packed_model_is_a_model_folder(folder: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["model", "pack", str(folder), "--out", str(tmp_path / "packed")])
    assert done.exit_code == 0, done.output
    before, after = Engine.from_pretrained(folder), Engine.from_pretrained(tmp_path / "packed")
    assert after.processing == before.processing
    asked = [Request([{"role": "user", "content": text}]) for text in ("Hello", "Log 42 for the meter")]
    words = ["one", "two"]
    for left, right in zip(before.score(asked, words), after.score(asked, words), strict=True):
        assert right == pytest.approx(left, rel=0.02)
    sizes = [(place / "model.safetensors").stat().st_size for place in (folder, tmp_path / "packed")]
    assert sizes[1] < 0.45 * sizes[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--weights", "int3"], "int3; there are float32, bfloat16, int8"),
        (["--out", "."], "holds the model itself"),
    ],
)
def test_what_cannot_be_packed_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(folder)
    done = CliRunner().invoke(app, ["model", "pack", ".", "--out", "../other", *arguments])
    assert done.exit_code == 2 and message in done.output


def test_no_model_named_takes_the_one_that_comes_along(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(shipped, "_FOLDER", folder)
    assert shipped.model_folder(None) == folder and shipped.model_name(None) == "default"
    done = CliRunner().invoke(app, ["ask", "Hello", "--max-tokens", "4", "--json"])
    assert done.exit_code == 0, done.output
    monkeypatch.setattr(shipped, "_FOLDER", tmp_path / "nothing")
    done = CliRunner().invoke(app, ["ask", "Hello"])
    assert done.exit_code == 2 and "name one with --model" in done.output
    assert shipped.model_name(Path("runs/quickstart")) == "quickstart"
