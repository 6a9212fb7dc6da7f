"""Packs a trained model for shipping: its weights in fewer bits, its tokenizer and settings as they are."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from multimodal_ai.data.processing import ProcessingConfig
from multimodal_ai.data.tokenizer import Tokenizer
from multimodal_ai.models.multimodal_model import MultimodalModel
from multimodal_ai.models.weights import Storage


def pack(model: Path, folder: Path, weights: str) -> int:
    """Write the model of one folder into another with its weights stored as `weights`; returns the bytes written.

    Raises:
        ValueError: an unknown way to store weights, no model in `model`, or both folders are the same.
    """
    if model.resolve() == folder.resolve():
        raise ValueError(f"{folder} holds the model itself; pack it into another folder")
    loaded, tokenizer, processing = (
        MultimodalModel.from_pretrained(model),
        Tokenizer.load(model),
        ProcessingConfig.load(model),
    )
    loaded.save_pretrained(folder, cast(Storage, weights))
    tokenizer.save(folder)
    processing.save(folder)
    return sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
