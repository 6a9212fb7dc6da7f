from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from toy import read_losses, toy_config, toy_train, toy_trainer, train_until, weights

from multimodal_ai.training import checkpoint
from multimodal_ai.training.checkpoint import CheckpointError, latest, read_manifest

EVERY = {"every_steps": 1, "keep": 2}


def test_keeps_the_last_ones_and_says_what_is_in_them(tmp_path: Path):
    result = toy_train(toy_config(tmp_path, checkpoint=EVERY))
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step_00000005", "step_00000006"]
    assert result.checkpoint == latest(tmp_path / "checkpoints") == tmp_path / "checkpoints" / names[-1]
    manifest = read_manifest(tmp_path / "checkpoints" / names[-1])
    assert manifest["step"] == 6 and manifest["data"] == {"step": 6, "samples": 48}
    assert manifest["versions"]["torch"] and manifest["config"]["optimizer"]["lr"] == 0.02
    assert all(len(entry["sha256"]) == 64 and entry["bytes"] for entry in manifest["files"].values())


def test_an_incomplete_checkpoint_is_passed_over(tmp_path: Path):
    toy_train(toy_config(tmp_path, checkpoint=EVERY))
    folder = tmp_path / "checkpoints"
    data = next((folder / "step_00000006").glob("__*"))
    os.truncate(data, data.stat().st_size - 1)
    assert latest(folder) == folder / "step_00000005"
    (folder / "step_00000005" / "manifest.json").unlink()
    assert latest(folder) is None


def test_a_damaged_file_is_named(tmp_path: Path):
    train_until(toy_config(tmp_path), 3)
    data = next((tmp_path / "checkpoints" / "step_00000003").glob("__*"))
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"{data.name}: damaged.*delete step_00000003"):
        toy_train(toy_config(tmp_path))


def test_another_config_is_refused_and_its_keys_are_named(tmp_path: Path):
    train_until(toy_config(tmp_path), 3, identity={"tokenizer": "this"})
    with pytest.raises(CheckpointError, match=r"another config:\s+optimizer.lr: 0.02 in the checkpoint, 0.5 now"):
        toy_train(toy_config(tmp_path, optimizer={"lr": 0.5}), identity={"tokenizer": "this"})
    with pytest.raises(CheckpointError, match=r"identity.tokenizer: \"this\" in the checkpoint, \"other\" now"):
        toy_train(toy_config(tmp_path), identity={"tokenizer": "other"})
    assert toy_train(toy_config(tmp_path), identity={"tokenizer": "this", "new": "1"}).status == "completed"


def test_starting_anew_over_checkpoints_is_refused(tmp_path: Path):
    toy_train(toy_config(tmp_path))
    with pytest.raises(CheckpointError, match="give another output_dir"):
        toy_train(toy_config(tmp_path, checkpoint={"resume": False}))


def test_another_model_is_refused(tmp_path: Path):
    train_until(toy_config(tmp_path), 3)
    trainer = toy_trainer(toy_config(tmp_path))
    trainer.distribution.objective.register_parameter("new", torch.nn.Parameter(torch.zeros(3)))
    with pytest.raises(CheckpointError, match="model/new is missing"):
        trainer.train()


def fail_in_save(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Let writing the data of one checkpoint fail as a full disk does, after part of it is written."""
    real = dcp.FileSystemWriter.write_data

    def full(self: dcp.FileSystemWriter, *arguments: object) -> object:
        if f"step_{step:08d}" in str(self.path):
            (Path(self.path) / "__0_0.distcp").write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(dcp.FileSystemWriter, "write_data", full)


def test_a_full_disk_keeps_the_former_checkpoint_and_training_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    fail_in_save(monkeypatch, 6)
    messages: list[str] = []
    monkeypatch.setattr(checkpoint.logger, "error", lambda text, *values: messages.append(text % values))
    result = toy_train(toy_config(tmp_path, checkpoint={**EVERY, "every_steps": 2}))
    assert result.status == "completed" and result.step == 6
    folder = tmp_path / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["step_00000002", "step_00000004"]
    assert result.checkpoint == latest(folder) == folder / "step_00000004"
    assert "step 6 was NOT written: No space left on device; the checkpoint step_00000004 is untouched" in messages[0]
    monkeypatch.undo()
    again = toy_train(toy_config(tmp_path, checkpoint=EVERY))  # continues from step 4
    assert again.step == 6 and len(read_losses(tmp_path)) == 6


def test_a_full_disk_stops_training_where_the_config_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    fail_in_save(monkeypatch, 2)
    with pytest.raises(CheckpointError, match="NOT written: No space left"):
        toy_train(toy_config(tmp_path, checkpoint={**EVERY, "on_failure": "stop"}))
    assert latest(tmp_path / "checkpoints") == tmp_path / "checkpoints" / "step_00000001"


@pytest.mark.parametrize("checked", [True, False], ids=["seen before", "met while writing"])
def test_a_disk_that_is_really_full(tmp_path: Path, tiny_disk: Path, checked: bool, monkeypatch: pytest.MonkeyPatch):
    config = toy_config(tmp_path, checkpoint=EVERY)
    trainer = toy_trainer(config)
    trainer.checkpointer.folder = tiny_disk / "checkpoints"
    if not checked:
        monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 2**60}))
    messages: list[str] = []
    monkeypatch.setattr(checkpoint.logger, "error", lambda text, *values: messages.append(text % values))

    def fill(step: int, model: torch.nn.Module) -> dict[str, float]:
        if step == 3:
            trainer.checkpointer.wait()
            with open(tiny_disk / "filler", "wb") as file:
                free = os.statvfs(tiny_disk)
                file.write(b"x" * (free.f_bavail * free.f_bsize - 20_000))
        return {}

    trainer.config = config.model_copy(update={"eval": config.eval.model_copy(update={"every_steps": 1})})
    trainer.on_evaluate = [fill]
    result = trainer.train()
    assert result.status == "completed" and messages
    kept = latest(tiny_disk / "checkpoints")
    assert kept is not None and kept.name == "step_00000003"
    trainer.checkpointer.load(kept, trainer.distribution.objective, trainer.optimizer)  # verifies every hash
    assert not list((tiny_disk / "checkpoints").glob(".step*"))


def test_a_parameter_that_no_loss_reaches_needs_no_state_and_is_left_alone(tmp_path: Path):
    train_until(toy_config(tmp_path), 3)
    path = latest(tmp_path / "checkpoints")
    assert path is not None
    keys = dcp.FileSystemReader(path).read_metadata().state_dict_metadata
    assert "model/model.never" in keys and "optimizer/model.head.weight/exp_avg" in keys
    assert not any(key.startswith("optimizer/model.never") for key in keys)
    toy_train(toy_config(tmp_path))
    assert torch.equal(weights(tmp_path)["never"], torch.ones(2, 2))


def test_a_manifest_of_a_later_format_is_refused(tmp_path: Path):
    toy_train(toy_config(tmp_path))
    path = tmp_path / "checkpoints" / "step_00000006"
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**manifest, "format": 99}))
    with pytest.raises(CheckpointError, match="format 99, this version reads 1"):
        toy_train(toy_config(tmp_path))
