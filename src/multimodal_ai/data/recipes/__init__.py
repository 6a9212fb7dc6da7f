"""All recipes by name, and writing one to Parquet.

A recipe is written aside and renamed when it is complete, so a folder never holds half a dataset.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from multimodal_ai.data.recipes import (
    books,
    clinc150,
    digits,
    easy_vqa,
    emoji_noto,
    function_cards,
    function_search,
    grocery,
    metatool,
    nlvr,
    openclipart,
    openstax_img,
    openstax_text,
    rendered_lines,
    rendered_receipts,
    rendered_scenes,
    reprinted_receipts,
    sealtools,
    sgd,
    snips,
    sroie,
    stdlib_text,
    storybooks,
    wiki_summaries,
)
from multimodal_ai.data.recipes.common import Recipe, RecipeContext

__all__ = ["FEATURES", "RECIPES", "Recipe", "RecipeContext", "get_recipe", "write_recipe"]

RECIPES: dict[str, Recipe] = {
    module.RECIPE.name: module.RECIPE
    for module in (
        books,
        clinc150,
        digits,
        easy_vqa,
        emoji_noto,
        function_cards,
        function_search,
        grocery,
        metatool,
        nlvr,
        openclipart,
        openstax_img,
        openstax_text,
        rendered_lines,
        rendered_receipts,
        rendered_scenes,
        reprinted_receipts,
        sealtools,
        sgd,
        snips,
        sroie,
        stdlib_text,
        storybooks,
        wiki_summaries,
    )
} | {recipe.name: recipe for recipe in (digits.TILE_RECIPE, easy_vqa.TILE_RECIPE)}

#: Columns of a written recipe; `messages`, `tools` and `meta` are JSON strings, images are encoded files.
FEATURES = datasets.Features(
    {
        "messages": datasets.Value("string"),
        "tools": datasets.Value("string"),
        "images": datasets.List(datasets.Value("binary")),
        "task": datasets.Value("string"),
        "meta": datasets.Value("string"),
    }
)


def get_recipe(name: str) -> Recipe:
    """The recipe of that name; ValueError lists the names there are."""
    if name not in RECIPES:
        raise ValueError(f"no recipe {name!r}; there are {', '.join(sorted(RECIPES))}")
    return RECIPES[name]


def write_recipe(
    name: str,
    out: Path,
    *,
    source: Path | None = None,
    seed: int = 0,
    limit: int | None = None,
    tasks: Sequence[str] | None = None,
    splits: Sequence[str] | None = None,
    on_sample: Callable[[str], None] | None = None,
    batch: int = 500,
) -> dict[str, Path]:
    """Writes `<out>/<name>/<split>.parquet` for each split and returns the paths.

    Samples are validated on the way and memory holds `batch` rows. `on_sample(split)` is called after
    each sample, for a progress bar. Raises ValueError for unknown names, splits and missing files, and for
    a split without samples; DataError for a row that breaks the message schema. A split that fails leaves
    the file that stood there before.
    """
    recipe = get_recipe(name)
    context = RecipeContext(source, seed, limit, frozenset(tasks) if tasks is not None else None)
    folder = Path(out) / name
    folder.mkdir(parents=True, exist_ok=True)
    written: dict[str, Path] = {}
    for split in splits if splits is not None else recipe.splits:
        path = folder / f"{split}.parquet"
        aside = folder / f".{split}.parquet.{os.getpid()}"
        try:
            count = 0
            with pq.ParquetWriter(aside, FEATURES.arrow_schema) as writer:
                for rows in _batches(recipe, context, split, batch, on_sample):
                    writer.write_table(pa.Table.from_pylist(rows, FEATURES.arrow_schema))
                    count += len(rows)
            if not count:
                chosen = f" for tasks {', '.join(tasks)}" if tasks is not None else ""
                raise ValueError(f"{name}/{split}: no samples{chosen}; leave the split out, or choose other tasks")
            os.replace(aside, path)
        finally:
            aside.unlink(missing_ok=True)
        written[split] = path
    return written


def _batches(
    recipe: Recipe, context: RecipeContext, split: str, size: int, on_sample: Callable[[str], None] | None
) -> Iterator[list[dict[str, Any]]]:
    """Rows of the written form in lists of `size`."""
    rows: list[dict[str, Any]] = []
    for sample in recipe.build(context, split):
        rows.append(sample.to_row())
        if on_sample is not None:
            on_sample(split)
        if len(rows) == size:
            yield rows
            rows = []
    if rows:
        yield rows
