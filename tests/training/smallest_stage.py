"""A whole stage of the smallest size that has every part: data with an image and a call, model, tokenizer, config."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from multimodal_ai.data.tokenizer import Tokenizer

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


def write_stage(folder: Path) -> Path:
    """Write stage.yaml and everything it refers to; returns the folder."""
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
