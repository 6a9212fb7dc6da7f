"""Sources of a mix may lie in object storage: any URL that fsspec knows."""

from __future__ import annotations

import io
import json
from typing import Any

import fsspec
import pytest
from PIL import Image

from multimodal_ai.data.dataset import DataConfig, MicroBatches
from multimodal_ai.data.rows import DataError, load_rows
from multimodal_ai.data.tokenizer import Tokenizer


def rows(count: int) -> list[dict[str, Any]]:
    png = io.BytesIO()
    Image.new("RGB", (32, 32), "red").save(png, "PNG")
    image = {"path": None, "bytes": png.getvalue()}
    question = [{"type": "image"}, {"type": "text", "text": "which colour"}]
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": "red"}]
    return [{"messages": json.dumps(turns), "images": [image], "task": "vqa"} for _ in range(count)]


def test_a_mix_is_read_from_a_bucket(small_tokenizer: Tokenizer) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    buffer = io.BytesIO()
    pa.parquet.write_table(pa.Table.from_pylist(rows(4)), buffer)
    bucket = fsspec.filesystem("memory")
    bucket.pipe("/bucket/questions.parquet", buffer.getvalue())
    chat = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}], "task": "chat"}
    bucket.pipe("/bucket/chat.jsonl", (json.dumps(chat) + "\n").encode() * 3)
    config = DataConfig.model_validate(
        {
            "sources": {
                "questions": {"path": "memory://bucket/questions.parquet", "tasks": ["vqa"]},
                "chat": {"path": "memory://bucket/chat.jsonl"},
            },
            "image": {"patch_size": 8, "max_patches": 16},
        }
    )
    batch = MicroBatches(config, small_tokenizer, seed=0, global_size=8, micro_size=8)[0]
    assert len(batch.patches) and {origin.split(" of ")[1] for origin in batch.origins} == {
        "questions.parquet",
        "chat.jsonl",
    }


def test_a_file_that_changed_is_read_again() -> None:
    bucket = fsspec.filesystem("memory")
    line = json.dumps({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}) + "\n"
    for count in (2, 3):
        bucket.pipe("/bucket/growing.jsonl", line.encode() * count)
        assert len(load_rows("memory://bucket/growing.jsonl")) == count


@pytest.mark.parametrize("url", ["memory://bucket/none.jsonl", "nothing://bucket/none.jsonl"])
def test_what_is_not_there_is_an_error_that_names_it(url: str) -> None:
    with pytest.raises(DataError, match=r"none\.jsonl"):
        load_rows(url)
