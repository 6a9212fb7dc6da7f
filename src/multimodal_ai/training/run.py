"""From a stage's config to a trained model: builds tokenizer, model, data and objective, and runs the trainer.

The command line and `scripts/train.py` both call `run_training`. What does not fit together (tokenizer and
model, images and vision encoder) is refused here, before anything is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from multimodal_ai.data.dataset import MicroBatches
from multimodal_ai.data.processing import ProcessingConfig
from multimodal_ai.data.tokenizer import Tokenizer
from multimodal_ai.models.multimodal_model import ModelConfig, MultimodalModel
from multimodal_ai.training.calibration import calibrate
from multimodal_ai.training.checkpoint import config_differences
from multimodal_ai.training.config import TrainConfig
from multimodal_ai.training.distributed import start_accelerator
from multimodal_ai.training.flops import TrainingFlops
from multimodal_ai.training.held_out import HeldOutLosses
from multimodal_ai.training.losses import TrainingObjective
from multimodal_ai.training.optimizer import freeze, parameter_plan
from multimodal_ai.training.trainer import EvalHook, Trainer, TrainResult
from multimodal_ai.utils.config import ConfigError, dump_config, load_config
from multimodal_ai.utils.logger import get_logger

logger = get_logger(__name__)
HookFactory = Callable[[TrainConfig, Tokenizer], EvalHook]


def run_training(
    config_path: str | Path, overrides: Sequence[str] = (), hooks: Sequence[HookFactory] = ()
) -> TrainResult:
    """Run the stage of a YAML file, with `key=value` overrides.

    hooks: further evaluations inside the loop, besides the held-out losses; each is made from the config
    and the tokenizer.

    Raises:
        ConfigError, DataError, CheckpointError: what was given cannot be used; nothing was trained.
        NonFiniteError: a loss became NaN or infinite.
    """
    path = Path(config_path)
    return run_stage(load_config(TrainConfig, path, overrides), hooks, path.parent)


def run_stage(config: TrainConfig, hooks: Sequence[HookFactory] = (), folder: Path = Path()) -> TrainResult:
    """As `run_training`, from a config that is loaded; `folder` is where its YAML lay."""
    source = _model_folder(config.init_from) if config.init_from is not None else None
    tokenizer = _tokenizer(config, source)
    config = config.model_copy(update={"model": _model_config(config, source, folder, tokenizer)})
    _check_fit(config)
    accelerator = start_accelerator(config.precision)
    torch.manual_seed(config.seed)
    if source is not None:
        model = MultimodalModel.from_pretrained(source, accelerator.device)
    else:
        assert isinstance(config.model, ModelConfig)
        with torch.device(accelerator.device):
            model = MultimodalModel(config.model)
    plan = parameter_plan(model, config.parts, config.optimizer)
    freeze(model, plan)
    batches = MicroBatches(
        config.data,
        tokenizer,
        seed=config.seed,
        global_size=config.batch.global_size,
        micro_size=config.batch.micro_size,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
    )
    objective = TrainingObjective(model, dict(config.losses) or None, list(config.data.sources))
    if accelerator.is_main_process:
        dump_config(config, config.output_dir / "config.yaml")
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        total = sum(p.numel() for p in model.parameters())
        precision = "bf16" if accelerator.mixed_precision == "bf16" else "fp32"
        device = f"{accelerator.num_processes} {accelerator.device.type}"
        size, of = f"{trained:,} of {total:,} parameters", f"{config.batch.global_size} samples a step"
        logger.info("%s: %s, %s, %s on %s", config.stage, size, of, precision, device)
    evaluations: list[EvalHook] = [hook(config, tokenizer) for hook in hooks]
    if config.eval.sources:
        evaluations.insert(0, HeldOutLosses(config, tokenizer))

    def finish(model_folder: Path) -> None:
        tokenizer.save(model_folder)
        image = config.data.image.model_copy(update={"augment": None})
        processing = ProcessingConfig(image=image, rendering=config.data.rendering)
        if config.calibration.sources:
            saved = MultimodalModel.from_pretrained(model_folder, accelerator.device)
            processing = processing.model_copy(update=calibrate(saved, config, tokenizer))
        elif source is not None and ProcessingConfig.load(source).calibrated:
            logger.warning("the calibration is lost by this stage; name calibration.sources to fit it anew")
        processing.save(model_folder)

    return Trainer(
        config,
        objective,
        batches,
        on_evaluate=evaluations,
        flops=TrainingFlops(model),
        identity={"tokenizer": tokenizer.fingerprint}
        | {f"rows of {part.name}": f"{len(part):,}" for part in batches.sources},
        on_save=[finish],
        accelerator=accelerator,
    ).train()


def _model_folder(path: Path) -> Path:
    """The trained model of a stage's output_dir, or the folder itself."""
    for folder in (path / "model", path):
        if (folder / "config.json").is_file():
            return folder
    raise ConfigError(
        f"init_from: {path} holds no trained model; give the output_dir of a stage that is finished, or a folder "
        "with config.json and model.safetensors"
    )


def _tokenizer(config: TrainConfig, source: Path | None) -> Tokenizer:
    given = Tokenizer.load(config.tokenizer) if config.tokenizer is not None else None
    if source is None:
        assert given is not None  # TrainConfig demands one of the two
        return given
    before = Tokenizer.load(source)
    if given is not None and given.fingerprint != before.fingerprint:
        raise ConfigError(
            f"tokenizer: {config.tokenizer} is not the tokenizer of init_from ({source}), whose embeddings would "
            "then mean nothing; leave the key out"
        )
    return before


def configured_tokenizer(config: TrainConfig) -> Tokenizer:
    """The tokenizer a config names, or that of the stage before."""
    return _tokenizer(config, _model_folder(config.init_from) if config.init_from is not None else None)


def configured_model(config: TrainConfig, folder: Path) -> ModelConfig:
    """The model a config names, or that of the stage before; `folder` is where the YAML lay."""
    given = _given_model(config, folder)
    if given is not None:
        return given
    assert config.init_from is not None  # TrainConfig demands one of the two
    return _model_before(_model_folder(config.init_from))


def _given_model(config: TrainConfig, folder: Path) -> ModelConfig | None:
    if not isinstance(config.model, Path):
        return config.model
    nearby = folder / config.model
    return load_config(ModelConfig, nearby if not config.model.exists() and nearby.exists() else config.model)


def _model_before(source: Path) -> ModelConfig:
    return ModelConfig.model_validate_json((source / "config.json").read_text(encoding="utf-8"))


def _model_config(config: TrainConfig, source: Path | None, folder: Path, tokenizer: Tokenizer) -> ModelConfig:
    """The model to train; from scratch, its vocabulary is as large as the tokenizer's."""
    given = _given_model(config, folder)
    if given is not None and given.vocab_size < tokenizer.vocab_size:
        raise ConfigError(
            f"model.vocab_size is {given.vocab_size}, but the tokenizer has {tokenizer.vocab_size} entries; "
            "raise it, or train a smaller tokenizer"
        )
    if given is not None:
        given = given.model_copy(update={"vocab_size": tokenizer.vocab_size})
    if source is None:
        assert given is not None  # TrainConfig demands one of the two
        return given
    before = _model_before(source)
    if given is not None:
        different = config_differences(before.model_dump(mode="json"), given.model_dump(mode="json"))
        if different:
            lines = "\n  ".join(line.replace("in the checkpoint", "in init_from") for line in different)
            raise ConfigError(f"model: not the model of init_from ({source}); leave the key out:\n  {lines}")
    return before


def _check_fit(config: TrainConfig) -> None:
    """What data and model must agree on."""
    model, data = config.model, config.data
    assert isinstance(model, ModelConfig)
    slots = "patches" if model.fusion.kind == "projection" else "one"
    pairs: list[tuple[str, object, str, object]] = [
        ("data.image.patch_size", data.image.patch_size, "model.vision.patch_size", model.vision.patch_size),
        ("data.image.merge", data.image.merge, "model.fusion.merge", model.fusion.merge),
        ("data.rendering.merge", data.rendering.merge, "model.fusion.merge", model.fusion.merge),
        (
            "data.rendering.image_slots",
            data.rendering.image_slots,
            f"model.fusion.kind {model.fusion.kind} needs",
            slots,
        ),
    ]
    for key, value, other, needed in pairs:
        if value != needed:
            raise ConfigError(f"{key} is {value}, but {other} {needed}; set {key}={needed}")
