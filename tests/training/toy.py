"""A model, an objective and data small enough to read, shaped like the real ones as the trainer sees them."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed.checkpoint as dcp
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils.data import Dataset

from multimodal_ai.training import checkpoint, distributed, optimizer
from multimodal_ai.training.config import EvalConfig, TrainerConfig
from multimodal_ai.training.interface import NonFiniteError, TrainingStopped, TrainResult
from multimodal_ai.training.run import run_training
from multimodal_ai.training.trainer import Trainer
from multimodal_ai.utils.config import ConfigModel

VOCABULARY, WIDTH, LENGTH = 23, 16, 6
PRELOAD = ["multimodal_ai.training.run"]  # imported once for all processes that tests start


class ToyConfig(ConfigModel):
    width: int = WIDTH
    dropout: float = 0.0


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.up = nn.RMSNorm(width), nn.Linear(width, 2 * width, bias=False)
        self.down = nn.Linear(2 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(F.silu(self.up(self.norm(x))))


class ToyModel(nn.Module):
    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(VOCABULARY, config.width)
        nn.init.normal_(self.embedding.weight, std=0.3)
        self.vision = nn.Sequential(nn.Linear(4, config.width), Block(config.width))
        self.text = nn.ModuleList([Block(config.width), Block(config.width)])
        self.head = nn.Linear(config.width, 3)
        self.scale = nn.Parameter(torch.tensor(1.0))  # a scalar cannot be sharded
        self.never = nn.Parameter(torch.ones(2, 2))  # no loss reaches it

    def parts(self) -> dict[str, nn.Module]:
        return {"vision": self.vision, "text": self.text, "head": self.head, "embedding": self.embedding}

    def blocks(self) -> list[tuple[str, nn.Module]]:
        return [("vision.1", self.vision[1]), ("text.0", self.text[0]), ("text.1", self.text[1])]

    def forward(self, batch: ToyBatch) -> tuple[Tensor, Tensor]:
        image = self.vision(batch.patches if len(batch.patches) else batch.patches.new_zeros(1, 4))
        x = self.embedding(batch.ids)
        if len(batch.patches):
            x = x.index_add(0, batch.image_row, image[:, None].expand(-1, LENGTH, -1).to(x.dtype))
        else:
            x = x + image.sum() * 0.0
        for block in self.text:
            x = block(x)
        x = F.dropout(x, self.config.dropout, self.training)
        return x @ self.embedding.weight.T * self.scale, self.head(x.mean(1))

    def save_pretrained(self, folder: str | Path) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        torch.save(self.state_dict(), Path(folder) / "model.pt")


@dataclass
class ToyBatch:
    ids: Tensor
    labels: Tensor  # -100 without loss
    patches: Tensor
    image_row: Tensor
    classes: Tensor  # -1 unknown
    origins: list[str]

    @property
    def useful_tokens(self) -> int:
        return self.ids.numel()

    def to(self, device: torch.device | str, non_blocking: bool = False) -> ToyBatch:
        return self


class ToyObjective(nn.Module):
    def __init__(self, model: ToyModel, break_at: int | None = None) -> None:
        super().__init__()
        self.model, self.weights = model, {"language": 1.0, "trigger": 0.5}
        self.break_at, self.calls = break_at, 0

    def counts(self, batch: ToyBatch) -> dict[str, float]:
        return {"language": float((batch.labels >= 0).sum()), "trigger": float((batch.classes >= 0).sum())}

    def forward(self, batch: ToyBatch) -> dict[str, Tensor]:
        logits, classes = self.model(batch)
        self.calls += 1
        language = F.cross_entropy(logits.flatten(0, 1).float(), batch.labels.flatten(), reduction="sum")
        if self.calls - 1 == self.break_at:
            language = language * float("nan")
        trigger = F.cross_entropy(classes.float(), batch.classes, ignore_index=-1, reduction="sum")
        return {"language": language, "trigger": trigger}


class ToyData(Dataset[ToyBatch]):
    """Sample p is a function of p. Samples 4-7 of every 8 have no image and no class."""

    def __init__(self, config: TrainerConfig, rank: int = 0, world: int = 1) -> None:
        self.micro, self.total = config.batch.micro_size, config.batch.global_size
        self.rank, self.accumulation = rank, config.batch.accumulation(world)

    def __getitem__(self, number: int) -> ToyBatch:
        step, part = divmod(number, self.accumulation)
        first = step * self.total + (self.rank * self.accumulation + part) * self.micro
        rows = []
        for position in range(first, first + self.micro):
            generator = torch.Generator().manual_seed(position)
            ids = torch.randint(VOCABULARY, (LENGTH + 1,), generator=generator)
            labels = ids[1:].clone()
            labels[: position % LENGTH] = -100  # samples weigh differently
            rows.append((ids[:-1], labels, torch.rand(4, generator=generator), position))
        seen = [n for n, row in enumerate(rows) if row[3] % 8 < 4]
        return ToyBatch(
            torch.stack([row[0] for row in rows]),
            torch.stack([row[1] for row in rows]),
            torch.stack([rows[n][2] for n in seen]) if seen else torch.zeros(0, 4),
            torch.tensor(seen, dtype=torch.long),
            torch.tensor([row[3] % 3 if row[3] % 8 < 4 else -1 for row in rows]),
            [f"row {row[3] + 1} of toy.jsonl" for row in rows],
        )


def toy_config(folder: Path, **changes: Any) -> TrainerConfig:
    values: dict[str, Any] = {
        "stage": "pretraining",
        "output_dir": folder,
        "schedule": {"steps": 6, "warmup": 2},
        "batch": {"global_size": 8, "micro_size": 4},
        "optimizer": {"lr": 0.02},
        "precision": "fp32",
        "logging": {"every_steps": 1, "trackers": [], "progress": False},
    }
    return TrainerConfig.model_validate({**values, **changes})


def toy_trainer(
    config: TrainerConfig,
    break_at: int | None = None,
    dropout: float = 0.0,
    data: Callable[..., ToyData] = ToyData,
    **options: Any,
) -> Trainer:
    torch.manual_seed(config.seed)
    objective = ToyObjective(ToyModel(ToyConfig(dropout=dropout)), break_at)
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    return Trainer(config, objective, data(config, rank, world), **options)


def toy_train(config: TrainerConfig, **options: Any) -> TrainResult:
    """Train to the end. Muon iterates in FP32: in BF16 the last bits of a sum would decide how an entry is rounded."""
    with mock.patch.object(optimizer, "multiplies_bf16", lambda device: False):
        return toy_trainer(config, **options).train()


def toy_train_or_tell(config: TrainerConfig, **options: Any) -> None:
    """Train; the message of an error that stops the run goes to a file of this process in output_dir."""
    try:
        toy_train(config, **options)
    except TrainingStopped as error:
        (config.output_dir / f"stopped_{os.environ.get('RANK', 0)}").write_text(str(error))
        raise


class StopAfter:
    """Evaluation hook that sends this process a signal after so many steps."""

    def __init__(self, step: int, number: int = signal.SIGTERM) -> None:
        self.step, self.number = step, number

    def __call__(self, step: int, model: nn.Module) -> dict[str, float]:
        if step == self.step:
            os.kill(os.getpid(), self.number)
        return {}


def train_until(config: TrainerConfig, step: int, **options: Any) -> TrainResult:
    """Train as told by the config, but stop by a signal after `step` steps."""
    config = config.model_copy(update={"eval": EvalConfig(every_steps=1)})
    return toy_train(config, on_evaluate=[StopAfter(step)], **options)


def train_for_ever(config: TrainerConfig) -> None:
    """Train, and leave the process with the exit code of the result."""
    os._exit(toy_train(config).exit_code)


def train_all(configs: list[TrainerConfig]) -> None:
    """Several runs one after another, in the same processes."""
    for config in configs:
        toy_train(config)


def write_shard_sizes(config: TrainerConfig, folder: str) -> None:
    """What lies on this process, as name -> [numbers here, numbers in all]; and what happens if nothing is sharded."""
    trainer = toy_trainer(config)
    sizes = {
        name: [p.to_local().numel() if isinstance(p, DTensor) else p.numel(), p.numel(), isinstance(p, DTensor)]
        for name, p in trainer.distribution.objective.named_parameters()
    }
    trainer.train()
    states = [s["exp_avg"] for s in trainer.optimizer.state.values() if "exp_avg" in s and s["exp_avg"].ndim]
    broken = ""
    with mock.patch.object(distributed, "fully_shard", lambda *arguments, **options: None):
        try:
            toy_trainer(config)
        except RuntimeError as error:
            broken = str(error)
    report = {"sizes": sizes, "states_sharded": all(isinstance(s, DTensor) for s in states), "broken": broken}
    Path(folder, f"report_{os.environ['RANK']}.json").write_text(json.dumps(report))


def run_all(stage: str, jobs: list[list[str]]) -> None:
    """The stage of a YAML file with each list of overrides, in the same processes."""
    for overrides in jobs:
        run_training(stage, overrides)


def break_on_second(config: TrainerConfig, folder: str) -> None:
    """On process 1 the loss breaks in step 2; every process writes down the error it gets."""
    rank = int(os.environ["RANK"])
    try:
        toy_trainer(config, break_at=1 if rank == 1 else None).train()
    except NonFiniteError as error:
        Path(folder, f"error_{rank}").write_text(str(error))


def train_and_block(config: TrainerConfig, save: int, method: str) -> None:
    """Train, but stay forever inside `method` of the checkpoint writer, in the save after step `save`."""
    owner: Any = {"write_data": dcp.FileSystemWriter, "_fingerprint": checkpoint, "rename": os}[method]
    real = getattr(owner, method)

    def blocked(*arguments: Any, **options: Any) -> Any:
        if any(f"step_{save:08d}" in str(argument) for argument in (*arguments, getattr(arguments[0], "path", ""))):
            (config.output_dir / "blocked").touch()
            time.sleep(600)
        return real(*arguments, **options)

    setattr(owner, method, blocked)
    toy_train(config)


def read_losses(folder: Path) -> list[float]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [line["loss"] for line in map(json.loads, lines) if "loss" in line]


def weights(folder: Path) -> dict[str, Tensor]:
    loaded: dict[str, Tensor] = torch.load(folder / "model" / "model.pt")
    return loaded


def start_process(work: Callable[..., None], *arguments: Any) -> BaseProcess:
    """One process of its own, started without importing torch again."""
    multiprocessing.set_forkserver_preload(PRELOAD)
    process = multiprocessing.get_context("forkserver").Process(target=work, args=arguments)
    process.start()
    return process


def _process(rank: int, world: int, folder: str, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), LOCAL_WORLD_SIZE=str(world))
    os.environ.update(ACCELERATE_USE_CPU="true", MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
    try:
        work(*arguments)
    finally:
        torch.distributed.destroy_process_group()


def run_processes(world: int, folder: Path, work: Callable[..., None], *arguments: Any) -> None:
    """Run `work(*arguments)` in `world` processes that form a gloo group."""
    context = start_processes(world, folder, work, *arguments)
    while not context.join():
        pass


def start_processes(world: int, folder: Path, work: Callable[..., None], *arguments: Any) -> Any:
    """As `run_processes`, without waiting for them; returns torch's ProcessContext."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rendezvous").unlink(missing_ok=True)
    multiprocessing.set_forkserver_preload(PRELOAD)
    return torch.multiprocessing.start_processes(
        _process, (world, str(folder), work, arguments), nprocs=world, start_method="forkserver", join=False
    )
