"""Where the shared data files are, if they are there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

DEFAULT = Path(__file__).parents[4] / "shared" / "data"


@pytest.fixture(scope="session")
def data_folder() -> Path:
    folder = Path(os.environ.get("MULTIMODAL_AI_DATA", DEFAULT))
    if not (folder / "snips.jsonl.xz").is_file():
        pytest.skip(f"no data files in {folder}; set MULTIMODAL_AI_DATA to the folder that holds them")
    return folder
