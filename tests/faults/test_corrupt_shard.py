"""A shard with wrong bytes: one of a checkpoint costs the steps since the one before, one of the data is named."""

from __future__ import annotations

from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from toy import toy_config, toy_train, train_until
from undisturbed import assert_same_run

from multimodal_ai.data.rows import DataError, load_rows
from multimodal_ai.training.checkpoint import CheckpointError, latest


def flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path: Path):
    config = toy_config(tmp_path / "run", checkpoint={"every_steps": 1, "keep": 2})
    train_until(config, 4)
    folder = config.output_dir / "checkpoints"
    flip(next((folder / "step_00000004").glob("__*")))
    toy_train(config)
    toy_train(toy_config(tmp_path / "whole"))
    assert_same_run(config.output_dir, tmp_path / "whole")
    assert (folder / ".step_00000004.damaged").is_dir(), "to be looked at"
    assert latest(folder) == folder / "step_00000006"


def test_without_another_one_the_run_does_not_start_anew_by_itself(tmp_path: Path):
    config = toy_config(tmp_path)
    train_until(config, 4)
    flip(next((tmp_path / "checkpoints" / "step_00000004").glob("__*")))
    with pytest.raises(CheckpointError, match=r"__0_0\.distcp: damaged .* delete step_00000004 .* anew"):
        toy_train(config)
    assert (tmp_path / "checkpoints" / "step_00000004").is_dir()


@pytest.mark.parametrize("how", ["cut short", "wrong bytes", "empty"])
def test_a_damaged_shard_of_the_data_is_named(tmp_path: Path, how: str):
    rows = [{"messages": [{"role": "assistant", "content": f"Text {number} of a shard."}]} for number in range(50)]
    for number in range(3):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / f"train-{number:05d}.parquet")
    shard = tmp_path / "train-00001.parquet"
    content = shard.read_bytes()
    middle = content[:4] + bytes(len(content) // 2) + content[4 + len(content) // 2 :]
    shard.write_bytes({"cut short": content[: len(content) // 2], "wrong bytes": middle, "empty": b""}[how])
    with pytest.raises(DataError, match=r"train-00001\.parquet: cannot be read: "):
        load_rows(tmp_path)
