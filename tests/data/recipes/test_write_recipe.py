"""Writing Parquet: complete or not at all, readable by the loader, the same samples again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from multimodal_ai.data import recipes
from multimodal_ai.data.messages import DataError, Sample
from multimodal_ai.data.recipes import Recipe, RecipeContext, write_recipe
from multimodal_ai.data.recipes.common import Row, text_row
from multimodal_ai.data.rows import load_rows


def test_written_rows_are_the_built_samples(tmp_path: Path) -> None:
    seen: Counter[str] = Counter()
    paths = write_recipe("digits", tmp_path, limit=40, on_sample=lambda split: seen.update([split]), batch=7)
    assert paths == {split: tmp_path / "digits" / f"{split}.parquet" for split in ("train", "test")}
    assert seen == {"train": 40, "test": 40}
    built = list(recipes.RECIPES["digits"].build(RecipeContext(limit=40), "train"))
    table = load_rows(paths["train"])
    assert len(table) == 40
    for row, sample in zip(table, built, strict=True):
        again = Sample.from_row(row)
        assert again.messages == sample.messages
        assert again.images == sample.images
        assert again.tools == sample.tools
        assert (again.task, again.meta) == (sample.task, sample.meta)


def test_same_arguments_same_file(tmp_path: Path) -> None:
    one = write_recipe("function_cards", tmp_path / "a", limit=30, seed=5, splits=["train"])
    two = write_recipe("function_cards", tmp_path / "b", limit=30, seed=5, splits=["train"])
    assert list(one) == ["train"]
    assert one["train"].read_bytes() == two["train"].read_bytes()


def test_a_failure_leaves_the_former_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def rows(context: RecipeContext, split: str) -> Iterator[Row]:
        yield text_row("broken", "a good row")
        if context.seed:
            yield {"messages": [], "task": "text"}

    monkeypatch.setitem(recipes.RECIPES, "broken", Recipe("broken", "none", "test", ("train",), rows))
    path = write_recipe("broken", tmp_path)["train"]
    before = path.read_bytes()
    with pytest.raises(DataError, match="row 2 of broken/train"):
        write_recipe("broken", tmp_path, seed=1)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_tasks_choose_what_is_written(tmp_path: Path) -> None:
    path = write_recipe("digits", tmp_path, limit=20, tasks=["caption"], splits=["test"])["test"]
    assert set(load_rows(path)["task"]) == {"caption"}


def test_a_split_without_rows_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="easy_vqa/test: no samples for tasks caption; leave the split out"):
        write_recipe("easy_vqa", tmp_path, tasks=["caption"], splits=["test"], limit=5)
    assert list((tmp_path / "easy_vqa").iterdir()) == []
