"""Predicted and measured peak memory: what `multimodal-ai plan` says, against steps that are really trained.

    python benchmarks/memory.py                       tiny and small, 1 and 2 processes on this machine's CPU
    python benchmarks/memory.py --sizes base --processes 1 --micro 16 --json rows.json

Each case trains three steps through the trainer, on batches of the shape that was planned, without checkpoints; three,
because some parameters have a gradient and state from the second on only. On a CPU memory is what torch's allocator has
handed out at most (its profiler's count), on a GPU the CUDA allocator's maximum; both leave out what a kernel library
takes for itself. A GPU is used where there is one, by a single process.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from multimodal_ai.data.packing import Batch
from multimodal_ai.models.describe import SampleShape
from multimodal_ai.models.multimodal_model import ModelConfig, MultimodalModel
from multimodal_ai.training.config import OptimizerConfig, TrainerConfig
from multimodal_ai.training.losses import TrainingObjective
from multimodal_ai.training.memory import allocated_peak
from multimodal_ai.training.plan import Machine, Planner, Training
from multimodal_ai.training.synthetic import synthetic_batch
from multimodal_ai.training.trainer import Trainer
from multimodal_ai.utils.config import load_config

CONFIGS = Path(__file__).parent.parent / "configs" / "models"


@dataclass(frozen=True)
class Case:
    """One thing to predict and to measure."""

    model: ModelConfig
    sample: SampleShape
    micro: int
    accumulation: int = 1
    processes: int = 1
    strategy: str = "ddp"
    checkpointing: bool = False
    bf16: bool = False
    optimizer: str = "muon"


class Same(Dataset[Batch]):
    """The same micro-batch again and again."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def __getitem__(self, number: int) -> Batch:
        return self.batch


def predicted(case: Case) -> float:
    """Bytes of one process at the peak, as the plan has them."""
    training = Training(
        case.model, case.sample, case.micro, case.micro * case.accumulation * case.processes, bf16=case.bf16,
        optimizer=OptimizerConfig(name=case.optimizer), asynchronous=False,  # type: ignore[arg-type]
    )  # fmt: skip
    kind: Any = "cuda" if torch.cuda.is_available() else "cpu"
    planner = Planner(training, Machine(case.processes, case.processes, 1e15, kind=kind))
    return float(planner.memory(case.strategy, case.checkpointing, case.micro, case.accumulation)["peak"])


def train(case: Case, folder: str) -> None:
    """Train three steps as one process of the group, and write the peak, in bytes, to FOLDER/RANK."""
    cuda = torch.cuda.is_available()
    config = TrainerConfig.model_validate(
        {
            "stage": "pretraining",
            "output_dir": folder + "/run",
            "schedule": {"steps": 3, "decay": 0},
            "batch": {"micro_size": case.micro, "global_size": case.micro * case.accumulation * case.processes},
            "optimizer": {"name": case.optimizer},
            "precision": "bf16" if case.bf16 else "fp32",
            "strategy": case.strategy,
            "activation_checkpointing": case.checkpointing,
            "checkpoint": {"every_seconds": None},
            "logging": {"trackers": [], "progress": False},
        }
    )
    with allocated_peak(torch.device("cuda" if cuda else "cpu")) as peak:
        with torch.device("cuda" if cuda else "cpu"):
            model = MultimodalModel(case.model)
        batch = synthetic_batch(case.model, case.sample, case.micro)
        trainer = Trainer(config, TrainingObjective(model), Same(batch))
        trainer.checkpointer.save = lambda *_: None  # type: ignore[method-assign, assignment]
        trainer._save_model = lambda: config.output_dir  # type: ignore[method-assign]
        trainer.train()
        del trainer, model, batch
    Path(folder, os.environ.get("RANK", "0")).write_text(str(peak()))


def _process(rank: int, case: Case, folder: str) -> None:
    world = case.processes
    if world > 1:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), LOCAL_WORLD_SIZE=str(world))
        os.environ.update(ACCELERATE_USE_CPU="true", MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
        method = f"file://{folder}/rendezvous"
        torch.distributed.init_process_group("gloo", init_method=method, rank=rank, world_size=world)
        torch.set_num_threads(1)
    train(case, folder)
    if world > 1:
        torch.distributed.destroy_process_group()


def measured(case: Case, start: Callable[..., Any] = torch.multiprocessing.start_processes) -> float:
    """Bytes of the process that had most, from really training in processes of their own."""
    with tempfile.TemporaryDirectory() as folder:
        start(_process, (case, folder), nprocs=case.processes, start_method="spawn")
        return max(float(Path(folder, str(rank)).read_text()) for rank in range(case.processes))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["tiny", "small"])
    parser.add_argument("--processes", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--micro", type=int, default=16)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    print("model, processes, strategy, checkpointing, precision, accumulation: predicted, measured (MB), ratio")
    for size in options.sizes:
        model = load_config(ModelConfig, CONFIGS / f"{size}.yaml")
        for processes in options.processes:
            for strategy in ["ddp"] if processes == 1 else ["ddp", "fsdp2", "hsdp"]:
                for bf16, checkpointing, accumulation in ((False, False, 1), (True, False, 2), (True, True, 1)):
                    case = Case(
                        model, SampleShape(), options.micro, accumulation, processes, strategy, checkpointing, bf16
                    )
                    said, was = predicted(case), measured(case)
                    rows.append({"model": size, "processes": processes, "strategy": strategy, "bf16": bf16,
                                 "checkpointing": checkpointing, "accumulation": accumulation,
                                 "predicted_bytes": said, "measured_bytes": was, "ratio": said / was})  # fmt: skip
                    print(
                        f"{size}, {processes}, {strategy}, {checkpointing}, {'bf16' if bf16 else 'fp32'}, "
                        f"{accumulation}: {said / 1e6:,.1f}, {was / 1e6:,.1f}, {said / was:.3f}",
                        flush=True,
                    )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
