"""The configuration page agrees with the code."""

from __future__ import annotations

from pathlib import Path

from multimodal_ai.training.config import TrainConfig
from multimodal_ai.utils.config_reference import config_reference

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


def test_the_page_is_what_the_models_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == config_reference([TrainConfig]), (
        "docs/configuration.md is out of date; run: python scripts/config_reference.py"
    )
