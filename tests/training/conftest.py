"""Makes `toy` importable, here and in the processes that tests start, and gives a stage to train."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
torch.set_num_threads(1)  # the tensors are tiny; threads would only wait for each other

from smallest_stage import write_stage  # noqa: E402


@pytest.fixture(scope="session")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with stage.yaml and everything it refers to."""
    return write_stage(tmp_path_factory.mktemp("stage"))
