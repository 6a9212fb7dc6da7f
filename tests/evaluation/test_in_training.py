"""Generated examples inside the training loop: what trackers get, and what is kept for the report."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.conftest import SMALL_PROCESSING, build_model

from multimodal_ai.data.messages import Sample
from multimodal_ai.data.tokenizer import Tokenizer
from multimodal_ai.evaluation import in_training
from multimodal_ai.evaluation.in_training import GeneratedExamples
from multimodal_ai.evaluation.saved_examples import read_examples


@pytest.fixture
def hook(samples: dict[str, list[Sample]], small_tokenizer: Tokenizer, tmp_path: Path) -> GeneratedExamples:
    shown = [sample for sample in samples["digits"] if sample.images][:2]
    return GeneratedExamples({"digits": shown}, small_tokenizer, SMALL_PROCESSING, tmp_path)


def test_every_example_has_a_row_and_its_image(
    hook: GeneratedExamples, small_tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_training, "MAX_TOKENS", 8)
    result = hook(30, build_model(small_tokenizer))
    rows = result.text["examples/digits"].splitlines()
    assert [row.split("|")[1].strip() for row in rows] == ["", "---", "1", "2"]
    assert set(result.images) == {"examples/digits/1", "examples/digits/2"}
    assert 0 <= result.metrics["digits/examples_exact"] <= 1
    found = read_examples(tmp_path)
    assert found is not None and found[0] == 30
    kept = found[1]["digits"]
    assert len(kept) == 2 and all(example.images[0].is_file() for example in kept)
    assert result.metrics["digits/examples_exact"] == sum(example.correct for example in kept) / 2


def test_a_full_disk_costs_the_kept_examples_alone(
    hook: GeneratedExamples, small_tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_training, "MAX_TOKENS", 8)
    (tmp_path / "examples").write_text("in the way")
    assert hook(30, build_model(small_tokenizer)).images
    assert read_examples(tmp_path) is None
