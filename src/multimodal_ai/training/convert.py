"""From a checkpoint to a model folder: safetensors, config, tokenizer, image processing.

For a run that did not come to its end, or a step before it. It reads what any number of processes and any
strategy wrote, in one process, and verifies every file first. The checkpoint is never touched.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp

from multimodal_ai.data.processing import ProcessingConfig
from multimodal_ai.models.multimodal_model import ModelConfig, MultimodalModel
from multimodal_ai.training.checkpoint import CheckpointError, damaged_files, latest, read_manifest
from multimodal_ai.training.config import TrainConfig
from multimodal_ai.training.run import configured_tokenizer


def convert_checkpoint(path: Path, folder: Path) -> int:
    """Write the model of a checkpoint, or of a run's newest complete one, to `folder`; returns its step.

    The trigger's temperature is 1: it is fitted when a stage ends.

    Raises:
        CheckpointError: there is no complete checkpoint, a file is damaged, or parameters are missing.
        ConfigError: the tokenizer that the run began with is not where its config says, or is another one.
    """
    found = path if (path / "manifest.json").is_file() else latest(path / "checkpoints")
    if found is None:
        raise CheckpointError(
            f"{path}: no complete checkpoint; give a run's output_dir or one of its checkpoints/step_*"
        )
    manifest = read_manifest(found)
    damaged = damaged_files(found, manifest, sorted(manifest["files"]))
    if damaged:
        raise CheckpointError(f"{found / damaged[0]}: damaged (its SHA-256 is not the manifest's)")
    config = TrainConfig.model_validate(manifest["config"])
    tokenizer = configured_tokenizer(config)
    if tokenizer.fingerprint != manifest["identity"].get("tokenizer"):
        raise CheckpointError(f"{found}: was trained with another tokenizer than the one its config names now")
    assert isinstance(config.model, ModelConfig)  # a run writes the model that it trained
    with torch.device("meta"):
        model = MultimodalModel(config.model)
    model.to_empty(device="cpu")
    reader = dcp.FileSystemReader(found)
    target = {f"model/model.{name}": tensor for name, tensor in model.state_dict().items()}
    stored = reader.read_metadata().state_dict_metadata
    for name, tensor in target.items():
        if getattr(stored.get(name), "size", None) != tensor.shape:
            raise CheckpointError(f"{found}: {name} is missing or has another shape than {list(tensor.shape)}")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        dcp.load(target, storage_reader=reader, no_dist=True)
    model.save_pretrained(folder)
    tokenizer.save(folder)
    image = config.data.image.model_copy(update={"augment": None})
    ProcessingConfig(image=image, rendering=config.data.rendering).save(folder)
    return int(manifest["step"])
