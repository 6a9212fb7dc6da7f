"""Writes docs/configuration.md from the configuration models: `python scripts/config_reference.py`."""

from __future__ import annotations

from pathlib import Path

from multimodal_ai.training.config import TrainConfig
from multimodal_ai.utils.config_reference import config_reference

PAGE = Path(__file__).resolve().parent.parent / "docs" / "configuration.md"

if __name__ == "__main__":
    PAGE.write_text(config_reference([TrainConfig]), encoding="utf-8")
    print(PAGE)
