"""A whole stage of the smallest size. Makes `toy` importable, here and in the processes that tests start."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from multimodal_ai.data.tokenizer import Tokenizer

sys.path.insert(0, str(Path(__file__).parent))
torch.set_num_threads(1)  # the tensors are tiny; threads would only wait for each other

BLOCK = {"width": 32, "layers": 1, "heads": 2, "kv_heads": 1, "hidden": 48}
TOOL = {
    "type": "function",
    "function": {
        "name": "log_reading",
        "description": "Store the reading of a meter",
        "parameters": {
            "type": "object",
            "properties": {"meter": {"type": "string"}, "value": {"type": "integer"}},
            "required": ["meter", "value"],
        },
    },
}


def rows(folder: Path) -> list[dict[str, Any]]:
    picture = folder / "plate.png"
    Image.new("RGB", (32, 16), "red").save(picture)
    image = {"type": "image"}

    def turns(user: Any, **assistant: Any) -> list[dict[str, Any]]:
        return [{"role": "user", "content": user}, {"role": "assistant", **assistant}]

    call = [{"name": "log_reading", "arguments": {"meter": "A7", "value": 42}}]
    return [
        {"messages": [{"role": "assistant", "content": "The meter stands in the cellar."}], "task": "text"},
        {"messages": turns([image], content="a red plate"), "images": [str(picture)], "task": "caption"},
        {"messages": turns("Log 42 for meter A7", tool_calls=call), "tools": [TOOL], "task": "call"},
        {"messages": turns("Hello", content="Hello, what can I do?"), "tools": [TOOL], "task": "chat"},
        {"messages": turns([image, {"type": "text", "text": "Which colour?"}], content="red"),
         "images": [str(picture)], "task": "vqa"},
    ]  # fmt: skip


@pytest.fixture(scope="session")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with stage.yaml and everything it refers to."""
    folder = tmp_path_factory.mktemp("stage")
    data = rows(folder)
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in data))
    Tokenizer.train([json.dumps(row) for row in data], 320).save(folder)
    (folder / "model.yaml").write_text(
        yaml.safe_dump({"vocab_size": 400, "vision": BLOCK, "text": BLOCK, "decoder": BLOCK, "head": {"width": 16}})
    )
    config = {
        "stage": "instruction_tuning",
        "output_dir": str(folder / "run"),
        "model": "model.yaml",
        "tokenizer": str(folder),
        "data": {"sources": {"mixed": {"path": str(folder / "train.jsonl")}}},
        "optimizer": {"lr": 3e-3},
        "schedule": {"steps": 4, "warmup": 1},
        "batch": {"global_size": 4, "micro_size": 2},
        "precision": "fp32",
        "logging": {"every_steps": 1, "trackers": [], "progress": False},
    }
    (folder / "stage.yaml").write_text(yaml.safe_dump(config))
    return folder
