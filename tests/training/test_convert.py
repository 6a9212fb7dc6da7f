from __future__ import annotations

from pathlib import Path

import pytest
import torch
from toy import run_all, run_processes
from typer.testing import CliRunner

from multimodal_ai.cli import app
from multimodal_ai.models import MultimodalModel
from multimodal_ai.training.checkpoint import CheckpointError, latest
from multimodal_ai.training.convert import convert_checkpoint
from multimodal_ai.training.run import run_training


def test_a_sharded_checkpoint_becomes_the_very_model_that_was_trained(stage: Path, tmp_path: Path):
    run_processes(2, tmp_path, run_all, str(stage / "stage.yaml"), [[f"output_dir={tmp_path}/run", "strategy=fsdp2"]])
    result = CliRunner().invoke(app, ["checkpoint", "convert", str(tmp_path / "run"), "--out", str(tmp_path / "model")])
    assert result.exit_code == 0 and "after 4 steps" in result.output, result.output
    converted, saved = (MultimodalModel.from_pretrained(f) for f in (tmp_path / "model", tmp_path / "run" / "model"))
    for name, value in saved.state_dict().items():
        assert torch.equal(converted.state_dict()[name], value), name
    names = {path.name for path in (tmp_path / "run" / "model").iterdir()}
    assert {path.name for path in (tmp_path / "model").iterdir()} == names


def test_a_damaged_checkpoint_and_a_folder_without_one_are_refused(stage: Path, tmp_path: Path):
    with pytest.raises(CheckpointError, match="no complete checkpoint"):
        convert_checkpoint(tmp_path, tmp_path / "model")
    run_training(stage / "stage.yaml", [f"output_dir={tmp_path / 'run'}"])
    found = latest(tmp_path / "run" / "checkpoints")
    assert found is not None
    data = next(found.glob("__*"))
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{data.name}: damaged"):
        convert_checkpoint(tmp_path / "run", tmp_path / "model")
    assert not (tmp_path / "model").exists()
