"""From what a person has (a YAML, a run that was measured) to what `plan.py` asks for. Trains and builds nothing."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

import torch
import yaml

from multimodal_ai.models.describe import SampleShape
from multimodal_ai.models.multimodal_model import ModelConfig
from multimodal_ai.training.checkpoint import latest, read_manifest
from multimodal_ai.training.config import BatchConfig, TrainConfig
from multimodal_ai.training.distributed import resolve_precision
from multimodal_ai.training.metrics import METRICS_FILE
from multimodal_ai.training.plan import Training
from multimodal_ai.training.run import configured_model
from multimodal_ai.utils.config import load_config


def read_training(
    path: Path,
    overrides: Sequence[str] = (),
    sample: str | None = None,
    micro_size: int | None = None,
    global_size: int | None = None,
    device: str = "cuda",
) -> Training:
    """What the YAML of a stage describes, or that of a model alone with this project's defaults.

    sample: changes of the sample's sizes, as `source=512,target=128`. precision `auto` is BF16 on a GPU.

    Raises:
        ConfigError, ValueError: the YAML is wrong, or a key of `sample` is unknown.
    """
    if _is_model(path):
        model = load_config(ModelConfig, path, overrides)
        training = Training(model, SampleShape(), bf16=device == "cuda", global_size=BatchConfig().global_size)
    else:
        config = load_config(TrainConfig, path, overrides)
        model = configured_model(config, path.parent)
        precision = config.precision
        if precision == "auto":
            precision = "bf16" if device == "cuda" else resolve_precision("auto", torch.device("cpu"))  # type: ignore[assignment]
        training = Training(
            model,
            largest_sample(config, model),
            config.batch.micro_size,
            config.batch.global_size,
            config.schedule.steps,
            config.optimizer,
            config.parts,
            dict(config.losses) or None,
            bf16=precision == "bf16",
            asynchronous=config.checkpoint.asynchronous,
        )
    changed = replace(training, sample=_changed(training.sample, sample))
    return replace(changed, micro_size=micro_size or changed.micro_size, global_size=global_size or changed.global_size)


def largest_sample(config: TrainConfig, model: ModelConfig) -> SampleShape:
    """The largest sample that the stage's limits let through, with one image and two functions."""
    merge, limits = model.fusion.merge, config.data.rendering
    patches = config.data.image.max_patches // merge**2 * merge**2
    visual = patches // merge**2 if model.fusion.kind == "projection" else 1
    return SampleShape(
        patches=patches,
        source=max(limits.max_source - visual, 2),
        cards=2 * limits.max_card,
        target=limits.max_target,
        values=limits.max_target // 4,
    )


def measured_rate(given: str) -> float:
    """FLOP/s of one process: the number itself, or the median of what a run's metrics say.

    Raises:
        ValueError: neither a number nor the folder of a run with FLOP/s in its metrics and a checkpoint.
    """
    try:
        return float(given)
    except ValueError:
        pass
    folder = Path(given)
    newest = latest(folder / "checkpoints")
    if not (folder / METRICS_FILE).is_file() or newest is None:
        raise ValueError(f"--rate {given}: neither a number nor a run's folder with {METRICS_FILE} and a checkpoint")
    lines = map(json.loads, (folder / METRICS_FILE).read_text(encoding="utf-8").splitlines())
    found = [line["flops_per_s"] for line in lines if "flops_per_s" in line]
    if not found:
        raise ValueError(f"--rate {given}: its {METRICS_FILE} has no flops_per_s")
    return statistics.median(found) / float(read_manifest(newest)["processes"])


def _is_model(path: Path) -> bool:
    """Whether the YAML describes a model alone; what cannot be read is left to `load_config` to explain."""
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return False
    return isinstance(raw, dict) and "vocab_size" in raw


def _changed(sample: SampleShape, text: str | None) -> SampleShape:
    changes = {}
    names = [field.name for field in fields(SampleShape)]
    for item in filter(None, (text or "").split(",")):
        key, _, value = item.partition("=")
        if key.strip() not in names or not value.strip().isdigit():
            raise ValueError(f"--sample {item}: expected KEY=NUMBER with one of {', '.join(names)}")
        changes[key.strip()] = int(value)
    return replace(sample, **changes)
