"""The index of a source lies on disk, is built once, and takes hardly any memory of a process."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pytest

from multimodal_ai.data import row_index
from multimodal_ai.data.dataset import Source, SourceConfig
from multimodal_ai.data.row_index import rows_of_tasks
from multimodal_ai.data.rows import DataError

TASKS = ("chat", "vqa", "call")


def table(path: Path, count: int, batch: int = 1000) -> datasets.Dataset:
    """Rows that have a task and nothing else, as the cache of `datasets` keeps them."""
    schema = pa.schema([("task", pa.string())])
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
        for first in range(0, count, batch):
            tasks = [TASKS[row % 3] for row in range(first, min(first + batch, count))]
            writer.write_batch(pa.record_batch([pa.array(tasks)], schema=schema))
    return datasets.Dataset.from_file(str(path))


def test_the_rows_of_the_tasks_are_found_in_order_and_mapped(tmp_path: Path) -> None:
    rows = table(tmp_path / "rows.arrow", 100_000)
    found = rows_of_tasks(rows, ["vqa", "call"], "rows")
    assert isinstance(found, np.memmap) and found.dtype == np.uint32 and not found.flags.writeable
    assert found.tolist() == [row for row in range(100_000) if row % 3]
    file = next(tmp_path.glob("rows_of_tasks_*.npy"))
    assert file.stat().st_size <= 4 * len(found) + 128  # four bytes a row: 400 MB for a hundred million
    assert not list(tmp_path.glob("*.partial"))


def test_it_is_built_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = table(tmp_path / "rows.arrow", 100)
    first = rows_of_tasks(rows, ["vqa"], "rows")
    monkeypatch.setattr(row_index, "_write", lambda *given: pytest.fail("built again"))
    assert np.array_equal(rows_of_tasks(rows, ["vqa"], "rows"), first)
    with pytest.raises(pytest.fail.Exception, match="built again"):
        rows_of_tasks(rows, ["call"], "rows")  # another question, another file


def _length(folder: Path) -> int:
    return len(rows_of_tasks(datasets.Dataset.from_file(str(folder / "rows.arrow")), ["vqa"], "rows"))


def test_processes_that_begin_together_share_one_file(tmp_path: Path) -> None:
    table(tmp_path / "rows.arrow", 3000)
    with multiprocessing.get_context("fork").Pool(3) as pool:
        assert pool.map(_length, [tmp_path] * 3) == [1000] * 3
    assert len(list(tmp_path.glob("rows_of_tasks_*.npy"))) == 1


def test_a_source_names_the_row_of_its_file(tmp_path: Path) -> None:
    path = tmp_path / "mixed.jsonl"
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    lines = [{"messages": turns[number % 2 :], "task": ["chat", "text"][number % 2]} for number in range(6)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    source = Source("mixed", SourceConfig(path=path, tasks=["text"]))  # type: ignore[arg-type]
    assert len(source) == 3 and [source.row(index) for index in range(3)] == [1, 3, 5]
    assert source.where(1) == "row 4 of mixed.jsonl" and source.sample(1).task == "text"
    with pytest.raises(DataError, match="no rows of the tasks vqa"):
        Source("mixed", SourceConfig(path=path, tasks=["vqa"]))  # type: ignore[arg-type]


def test_rows_without_tasks_are_refused(tmp_path: Path) -> None:
    rows = datasets.Dataset.from_dict({"messages": ["[]"]})
    with pytest.raises(DataError, match="no column `task`"):
        rows_of_tasks(rows, ["chat"], "rows.parquet")
