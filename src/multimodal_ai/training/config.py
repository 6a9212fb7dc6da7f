"""What one training stage is: one YAML, one `TrainConfig`.

`TrainerConfig` holds what the training loop itself reads; `TrainConfig` adds what a run is built from
(model, tokenizer, data, the stage before). A config must never open a file or touch a device, so that it
can be checked and printed anywhere.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from multimodal_ai.data.dataset import DataConfig, SourceConfig
from multimodal_ai.models.multimodal_model import ModelConfig
from multimodal_ai.utils.config import ConfigModel

Stage = Literal["pretraining", "alignment", "instruction_tuning"]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Beta = Annotated[float, Field(ge=0, lt=1)]


class PartConfig(ConfigModel):
    """How one part of the model is trained in a stage."""

    trainable: bool = Field(default=True, description="False freezes the part: no gradient, no optimizer state")
    lr_scale: PositiveFloat = Field(default=1.0, description="factor on the learning rate")


class OptimizerConfig(ConfigModel):
    """Optimizer and its numbers."""

    name: Literal["adamw", "muon"] = Field(
        default="muon", description="muon: Muon for all linear layers but the function head's, AdamW for the rest"
    )
    lr: PositiveFloat = Field(default=1e-3, description="peak learning rate of AdamW")
    muon_lr: PositiveFloat | None = Field(
        default=None, description="peak learning rate of Muon, on AdamW's scale; default: lr"
    )
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    momentum: Beta = Field(default=0.95, description="Nesterov momentum of Muon")
    weight_decay: NonNegativeFloat = Field(default=0.1, description="decoupled; on matrices only, not on embeddings")
    grad_clip: NonNegativeFloat = Field(default=1.0, description="largest global gradient norm; 0 switches it off")
    eps: PositiveFloat = 1e-8


class ScheduleConfig(ConfigModel):
    """Learning rate over the stage: linear warm-up, stable, linear decay to 0."""

    kind: Literal["wsd"] = "wsd"
    steps: PositiveInt = Field(description="optimizer steps; with a time budget: at most so many")
    warmup: NonNegativeInt | Fraction = Field(default=0, description="steps, or a fraction of all steps")
    decay: NonNegativeInt | Fraction = Field(default=0.2, description="steps, or a fraction of all steps")
    time_budget_s: PositiveFloat | None = Field(
        default=None, description="seconds the stage may take: the number of steps is then set from the measured speed"
    )

    @model_validator(mode="after")
    def _check(self) -> ScheduleConfig:
        if self.time_budget_s is not None and isinstance(self.warmup, float):
            raise ValueError("with time_budget_s the number of steps is not known during warm-up; give warmup in steps")
        if warmup_steps(self, self.steps) + decay_steps(self, self.steps) > self.steps:
            raise ValueError(f"warmup {self.warmup} and decay {self.decay} together are longer than steps {self.steps}")
        return self


def warmup_steps(schedule: ScheduleConfig, total: int) -> int:
    """Steps of warm-up when the stage has `total` steps."""
    return schedule.warmup if isinstance(schedule.warmup, int) else round(schedule.warmup * total)


def decay_steps(schedule: ScheduleConfig, total: int) -> int:
    """Steps of decay when the stage has `total` steps."""
    return schedule.decay if isinstance(schedule.decay, int) else round(schedule.decay * total)


class BatchConfig(ConfigModel):
    """Samples of one optimizer step, and how many go through the model at once."""

    global_size: PositiveInt = Field(default=64, description="samples of one optimizer step, over all processes")
    micro_size: PositiveInt = Field(default=16, description="samples of one forward pass of one process")

    def accumulation(self, world_size: int) -> int:
        """Micro-batches per step and process.

        Raises:
            ValueError: global_size cannot be split evenly; the message names sizes that can.
        """
        per_pass = self.micro_size * world_size
        if self.global_size % per_pass:
            below = self.global_size // per_pass * per_pass
            near = " or ".join(str(size) for size in (below, below + per_pass) if size)
            raise ValueError(
                f"batch.global_size {self.global_size} is not a multiple of batch.micro_size {self.micro_size} "
                f"times {world_size} processes; set batch.global_size to {near}"
            )
        return self.global_size // per_pass


class CheckpointConfig(ConfigModel):
    """When checkpoints are written, and what happens if one cannot be."""

    every_steps: PositiveInt | None = Field(default=None, description="write one every so many steps")
    every_seconds: PositiveFloat | None = Field(default=600.0, description="write one when so long has passed")
    asynchronous: bool = Field(
        default=True,
        description="train on while one is written, from a copy of weights and optimizer state in main memory; "
        "false: wait for the disk, and keep no copy",
    )
    keep: PositiveInt = Field(default=2, description="complete checkpoints to keep; older ones are deleted")
    resume: bool = Field(default=True, description="continue from the newest complete checkpoint of output_dir")
    on_failure: Literal["warn", "stop"] = Field(
        default="warn", description="when one cannot be written (full disk): go on training, or stop with an error"
    )


class EvalConfig(ConfigModel):
    """Evaluation inside the loop, on held-out data."""

    every_steps: PositiveInt | None = Field(default=None, description="default: only at the end")
    at_end: bool = Field(default=True, description="evaluate once more when the stage is done")
    sources: dict[str, SourceConfig] = Field(
        default={}, description="held-out data by name: the losses on each are logged as eval/<name>/<term>"
    )
    samples: PositiveInt = Field(default=128, description="samples of each source for the losses")
    examples: NonNegativeInt = Field(default=8, description="samples of each source answered, for the trackers")


class CalibrationConfig(ConfigModel):
    """What is fitted when the stage is done and saved with the model: the temperature, the weights of the search."""

    sources: dict[str, SourceConfig] = Field(
        default={},
        description="data by name, of functions that are in no training source; none: no calibration. Those with "
        "`functions: {hidden: 1}` fit the weights of the search",
    )
    samples: PositiveInt = Field(default=1024, description="samples of all sources together, by their weights")


class LoggingConfig(ConfigModel):
    """What is written down, how often and where."""

    every_steps: PositiveInt = Field(default=10, description="one line of metrics.jsonl every so many steps")
    trackers: list[str] = Field(
        default=["tensorboard"],
        description="names of Accelerate's trackers (tensorboard, wandb, mlflow, ...), or module:Class for one's own",
    )
    tracker_options: dict[str, dict[str, Any]] = Field(
        default={}, description="by tracker, what its constructor takes: {wandb: {entity: us, id: run1, resume: allow}}"
    )
    peak_flops: PositiveFloat | None = Field(
        default=None, description="FLOP/s of one device, for the share that is used (MFU); an A100 in BF16: 312e12"
    )
    progress: bool = Field(default=True, description="show a progress bar")


class TrainerConfig(ConfigModel):
    """What the training loop reads of a stage."""

    stage: Stage
    seed: NonNegativeInt = 0
    output_dir: Path = Field(description="folder of the run: checkpoints, metrics.jsonl, logs, the trained model")
    parts: dict[str, PartConfig] = Field(
        default={},
        description="by part (vision, text, ...) or pattern of parameter names (vision.blocks.0.*); last match wins",
    )
    losses: dict[str, NonNegativeFloat] = Field(default={}, description="weight of each loss term")
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig
    batch: BatchConfig = BatchConfig()
    precision: Literal["auto", "bf16", "fp32"] = Field(
        default="auto", description="auto: BF16 where the hardware multiplies it natively, else FP32"
    )
    activation_checkpointing: bool = Field(default=False, description="recompute blocks in the backward pass")
    compile: bool = Field(default=False, description="torch.compile, block by block")
    strategy: Literal["ddp", "fsdp2", "hsdp"] = Field(
        default="ddp", description="how several processes share the work; with one it has no effect"
    )
    hsdp_shard_size: PositiveInt | None = Field(
        default=None, description="hsdp: processes that share one copy of the model; default: those of one machine"
    )
    checkpoint: CheckpointConfig = CheckpointConfig()
    eval: EvalConfig = EvalConfig()
    logging: LoggingConfig = LoggingConfig()
    workers: NonNegativeInt = Field(
        default=0, description="processes that prepare batches; 0: the training process itself"
    )


class TrainConfig(TrainerConfig):
    """One stage of training: the whole YAML. Relative paths start at the working directory."""

    model: ModelConfig | Path | None = Field(
        default=None, description="the model, or a YAML that holds it; default: that of init_from"
    )
    tokenizer: Path | None = Field(default=None, description="tokenizer.json or its folder; default: that of init_from")
    init_from: Path | None = Field(
        default=None, description="output_dir of the stage before, or a folder of a trained model"
    )
    data: DataConfig
    calibration: CalibrationConfig = CalibrationConfig()

    @model_validator(mode="after")
    def _has_origin(self) -> TrainConfig:
        for key in ("model", "tokenizer"):
            if getattr(self, key) is None and self.init_from is None:
                raise ValueError(f"give {key}, or init_from to take it from the stage before")
        return self


# Keys that change neither the data, nor the model, nor the steps: a run may continue with other values.
_FREE_PATHS = ("output_dir", "init_from", "tokenizer")
_FREE_SECTIONS = ("checkpoint", "eval", "calibration", "logging")
_FREE_MEANS = ("batch.micro_size", "workers", "activation_checkpointing", "compile", "strategy", "hsdp_shard_size")
FREE_KEYS = frozenset({*_FREE_PATHS, *_FREE_SECTIONS, *_FREE_MEANS})
