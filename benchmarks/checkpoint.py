"""What a checkpoint costs the training: written while training waits, and written beside it.

    python benchmarks/checkpoint.py                               tiny and small, 1 process
    python benchmarks/checkpoint.py --processes 2 --strategy fsdp2 --folder /mnt/disk --json OUT

Trains on the same batch again and again and saves every few steps, with `checkpoint.asynchronous` false and true in
turn. `held`: how long training stands still at a save (with true: for the copy in main memory). `slower`: how much
longer the steps take, all together, while a thread writes. `lost` is their sum; `write`: from there to the renamed
folder. Medians over the saves; the time of an undisturbed step is the median of those while nothing is written.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from memory import CONFIGS, Same

from multimodal_ai.models.describe import SampleShape
from multimodal_ai.models.multimodal_model import ModelConfig, MultimodalModel
from multimodal_ai.training.config import TrainerConfig
from multimodal_ai.training.losses import TrainingObjective
from multimodal_ai.training.synthetic import synthetic_batch
from multimodal_ai.training.trainer import Trainer
from multimodal_ai.utils.config import load_config

Spans = list[tuple[float, float]]


def spans(owner: Any, method: str) -> Spans:
    """When each call of a method of `owner` began and ended, from now on."""
    real, found = getattr(owner, method), Spans()

    def timed(*arguments: Any) -> Any:
        began = time.perf_counter()
        try:
            return real(*arguments)
        finally:
            found.append((began, time.perf_counter()))

    setattr(owner, method, timed)
    return found


def measure(size: str, asynchronous: bool, arguments: argparse.Namespace, folder: str) -> dict[str, float]:
    """Train with checkpoints, and say what each cost; seconds and bytes."""
    model = load_config(ModelConfig, CONFIGS / f"{size}.yaml")
    world = int(os.environ.get("WORLD_SIZE", 1))
    config = TrainerConfig.model_validate(
        {
            "stage": "pretraining",
            "output_dir": folder,
            "schedule": {"steps": arguments.every * (arguments.saves + 1)},
            "batch": {"micro_size": arguments.micro, "global_size": arguments.micro * world},
            "strategy": arguments.strategy,
            "checkpoint": {"every_steps": arguments.every, "every_seconds": None, "asynchronous": asynchronous},
            "logging": {"trackers": [], "progress": False},
        }
    )
    torch.manual_seed(0)
    data = Same(synthetic_batch(model, SampleShape(), arguments.micro))
    trainer = Trainer(config, TrainingObjective(MultimodalModel(model)), data)
    steps, saves = spans(trainer, "_train_step"), spans(trainer.checkpointer, "save")
    writes = spans(trainer.checkpointer, "_write")
    trainer._save_model = lambda: config.output_dir  # type: ignore[method-assign]
    trainer.train()
    steps, saves, writes = steps[1:], saves[: arguments.saves], writes[: arguments.saves]  # the last ones end the run
    touched = [any(a < end and began < b for a, b in writes) for began, end in steps]
    calm = statistics.median(end - began for (began, end), hit in zip(steps, touched, strict=True) if not hit)
    slower = [
        sum(end - began - calm for began, end in steps if a < end and began < b) if asynchronous else 0.0
        for a, b in writes
    ]
    held = [end - began for began, end in saves]
    checkpoint = trainer.checkpointer.newest
    assert checkpoint is not None
    return {
        "step_s": calm,
        "held_s": statistics.median(held),
        "slower_s": statistics.median(slower),
        "lost_s": statistics.median(a + b for a, b in zip(held, slower, strict=True)),
        "write_s": statistics.median(b - a for a, b in writes),
        "bytes": float(sum(path.stat().st_size for path in checkpoint.iterdir())),
    }


def _process(rank: int, size: str, asynchronous: bool, arguments: argparse.Namespace, folder: str) -> None:
    world = arguments.processes
    torch.set_num_threads(arguments.threads)
    if world > 1:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), LOCAL_WORLD_SIZE=str(world))
        os.environ.update(ACCELERATE_USE_CPU="true", MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
        method = f"file://{folder}/rendezvous"
        torch.distributed.init_process_group("gloo", init_method=method, rank=rank, world_size=world)
    found = measure(size, asynchronous, arguments, f"{folder}/run")
    if rank == 0:
        Path(folder, "found.json").write_text(json.dumps(found))
    if world > 1:
        torch.distributed.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["tiny", "small"])
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    parser.add_argument("--strategy", choices=("ddp", "fsdp2", "hsdp"), default="ddp")
    parser.add_argument("--micro", type=int, default=16)
    parser.add_argument("--every", type=int, default=6, help="steps between two saves")
    parser.add_argument("--saves", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=2, help="how often each side takes its turn")
    parser.add_argument("--folder", type=Path, help="on the disk to measure; default: that of temporary files")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = []
    for size in arguments.sizes:
        sides: dict[bool, list[dict[str, float]]] = {False: [], True: []}
        for _ in range(arguments.rounds):
            for asynchronous, found in sides.items():
                with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
                    torch.multiprocessing.start_processes(
                        _process, (size, asynchronous, arguments, folder), nprocs=arguments.processes,
                        start_method="spawn",
                    )  # fmt: skip
                    found.append(json.loads(Path(folder, "found.json").read_text()))
        for asynchronous, found in sides.items():
            row = {key: statistics.median(one[key] for one in found) for key in found[0]}
            rows.append({"size": size, "asynchronous": asynchronous, "processes": arguments.processes,
                         "strategy": arguments.strategy, **row})  # fmt: skip
            print(f"{size}, {'beside' if asynchronous else 'waiting'}: " + ", ".join(
                f"{key.removesuffix('_s')} {value * 1e3:,.0f} ms" for key, value in row.items() if key != "bytes"
            ) + f", {row['bytes'] / 1e6:,.0f} MB", flush=True)  # fmt: skip
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
