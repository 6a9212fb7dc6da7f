"""Makes the toy model of the training tests importable, here and in the processes that tests start."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path += [str(Path(__file__).parent), str(Path(__file__).parents[1] / "training")]

from smallest_stage import write_stage


@pytest.fixture(scope="session")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with stage.yaml and everything it refers to."""
    return write_stage(tmp_path_factory.mktemp("stage"))
