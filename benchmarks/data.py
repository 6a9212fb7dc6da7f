"""How full the packed rows of a training mix are, how long its batches take, and how long training waits for them.

    python benchmarks/data.py --config configs/quickstart/instruction_tuning.yaml [--set KEY=VALUE] [--json OUT]

The config's data and tokenizer must be there (`make quickstart` makes those of `configs/quickstart/`). Slots are the
rows that the blocks' linears run on: sources and function cards in the encoder, answers in the decoder, patches in the
vision transformer; beside each, what padding would use. With --train N it also trains N steps with the config's workers
and reports the share of the time spent waiting for data, from the run's own metrics.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from multimodal_ai.data.dataset import MicroBatches
from multimodal_ai.data.packing import Batch
from multimodal_ai.data.tokenizer import Tokenizer
from multimodal_ai.models.attention import Packing
from multimodal_ai.training.config import TrainConfig
from multimodal_ai.training.run import run_training
from multimodal_ai.utils.config import load_config

TARGET, WAIT = 0.95, 0.02


def packings(batch: Batch) -> dict[str, Packing]:
    """What the model packs of a batch, by part."""
    sizes = {
        "encoder, sources": (batch.source_lengths, batch.source_ids.shape[1]),
        "encoder, cards": (batch.text_lengths, batch.text_ids.shape[1]),
        "decoder": (batch.target_lengths, batch.target_ids.shape[1]),
        "patches": (batch.grids.prod(-1), batch.patches.shape[1]),
    }
    return {part: Packing(lengths, size) for part, (lengths, size) in sizes.items() if len(lengths) and size}


def slots(batches: MicroBatches, count: int) -> tuple[dict[str, tuple[int, int, int]], float]:
    """Useful tokens, packed rows and padded places by part, over `count` micro-batches; mean seconds of a batch."""
    sums: dict[str, tuple[int, int, int]] = {}
    seconds = []
    for number in range(count):
        began = time.perf_counter()
        batch = batches[number]
        seconds.append(time.perf_counter() - began)
        for part, packing in packings(batch).items():
            before = sums.get(part, (0, 0, 0))
            here = (packing.total, packing.count, packing.shape[0] * packing.shape[1])
            sums[part] = (before[0] + here[0], before[1] + here[1], before[2] + here[2])
    return sums, statistics.mean(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--batches", type=int, default=48)
    parser.add_argument("--train", type=int, default=0, metavar="N", help="steps to train, to see the waiting")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    config = load_config(TrainConfig, arguments.config, arguments.set)
    origin = config.tokenizer or config.init_from
    assert origin is not None
    tokenizer = Tokenizer.load(origin / "model" if (origin / "model").is_dir() else origin)
    batch = config.batch
    batches = MicroBatches(
        config.data, tokenizer, seed=config.seed, global_size=batch.global_size, micro_size=batch.micro_size
    )
    sums, seconds = slots(batches, arguments.batches)
    sums["all"] = tuple(map(sum, zip(*sums.values(), strict=True)))  # type: ignore[assignment]
    result: dict[str, Any] = {"config": str(arguments.config), "samples_per_batch": batch.micro_size,
                              "batch_s": seconds, "slots": {}}  # fmt: skip
    for part, (useful, rows, padded) in sums.items():
        result["slots"][part] = {"packed": useful / rows, "padded": useful / padded}
        print(f"{part:18} {useful / arguments.batches:8.0f} tokens a batch, {useful / rows:6.1%} of the packed rows, "
              f"{useful / padded:6.1%} of padded ones")  # fmt: skip
    enough = result["slots"]["all"]["packed"]
    print(f"at least {TARGET:.0%} of the packed rows: {'yes' if enough >= TARGET else 'NO'}")
    print(f"{seconds * 1e3:.0f} ms to make a batch of {batch.micro_size}, in one process")
    if arguments.train:
        with tempfile.TemporaryDirectory() as folder:
            steps = arguments.train
            run = [f"output_dir={folder}", f"schedule={{steps: {steps}, warmup: 0}}", "logging.every_steps=1",
                   "logging.progress=false", "logging.trackers=[]", "calibration={}", "eval={}"]  # fmt: skip
            run_training(arguments.config, [*arguments.set, *run])
            lines = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
        lines = lines[steps // 4 :]  # the first steps compile, and workers start
        result["data_wait"] = sum(line["data_wait"] * line["step_s"] for line in lines) / sum(
            line["step_s"] for line in lines
        )
        result["step_s"], result["workers"] = statistics.median(line["step_s"] for line in lines), config.workers
        print(f"{config.workers} workers: {result['step_s']:.2f} s a step, {result['data_wait']:.2%} of it waiting for "
              f"data; at most {WAIT:.0%}: {'yes' if result['data_wait'] <= WAIT else 'NO'}")  # fmt: skip
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
