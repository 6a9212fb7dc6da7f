"""Training speed: this project against T5Gemma 2 of `transformers` with the same shapes and random weights.

    pip install -e ".[bench]"
    python benchmarks/train.py [--size tiny] [--compile] [--json OUT]
    chrt -r 1 taskset -c 1 env OMP_NUM_THREADS=1 python benchmarks/train.py     # one core, first in its queue
    python benchmarks/train.py --size base --compile                            # a GPU of 80 GB
    python benchmarks/train.py --size large --compile --apart

Runs on whatever is there: the first GPU, else the CPU; without --size it takes `base` on a GPU and `tiny` on a CPU.
`tiny` takes about a minute on one core. A step is forward, backward, clipping and a fused AdamW step, in BF16
(autocast) where the device multiplies it natively. Steps of both sides alternate and medians are compared; --apart
measures one side after the other where both do not fit into memory. `full`: all samples have the same length,
`mixed`: lengths between a quarter and the whole, as in real data; the peer pads them. The share of the matmul rate
counts what the samples need, padding apart, for the peer by counting its operators on single samples.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from peers import Shape, SyntheticSample, peer_batch, peer_loss, peer_model, visual_tokens
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from multimodal_ai.data.examples import Example
from multimodal_ai.data.image_processor import ImageConfig, ImageProcessor
from multimodal_ai.data.packing import Batch, collate
from multimodal_ai.data.rendering import IMAGE, USER, Source, Target
from multimodal_ai.models import ModelConfig, MultimodalModel
from multimodal_ai.training.config import OptimizerConfig, TrainerConfig
from multimodal_ai.training.distributed import Distribution, start_accelerator
from multimodal_ai.training.flops import TrainingFlops
from multimodal_ai.training.losses import TrainingObjective
from multimodal_ai.training.optimizer import build_optimizer, parameter_plan
from multimodal_ai.utils.config import load_config

CONFIGS = Path(__file__).parent.parent / "configs" / "models"
SHAPES = {
    "tiny": Shape(side=64, source=96, target=32, batch=24),
    "small": Shape(side=128, source=256, target=64, batch=16),
    "base": Shape(side=256, source=512, target=128, batch=64),
    "large": Shape(side=256, source=512, target=128, batch=24),
}
BATCHES = 4  # different ones that take turns
Step = Callable[[], object]


@dataclass
class Side:
    """One of the two that are compared: its next step, the FLOPs that a step needs, and what was measured."""

    step: Step
    flops: float
    first: float = 0.0  # seconds of the first step, compiling included
    seconds: list[float] = field(default_factory=list)
    memory: float | None = None  # bytes, peak, on a GPU

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def samples_of(model: ModelConfig, shape: Shape, mixed: bool, rng: random.Random) -> list[SyntheticSample]:
    """One batch. Lengths are eighths of the whole, from two to eight of them."""
    found, image = [], visual_tokens(model, shape.side)

    def ids(count: int) -> list[int]:
        return [rng.randrange(100, model.vocab_size - 3) for _ in range(count)]

    for _ in range(shape.batch):
        eighths = [rng.randint(2, 8) if mixed else 8 for _ in range(2)]
        source = max(shape.source * eighths[0] // 8 - image, 1)
        pixels = torch.randint(0, 256, (3, shape.side, shape.side), dtype=torch.uint8)
        found.append(SyntheticSample(pixels, ids(source), ids(shape.target * eighths[1] // 8)))
    return found


def own_batch(model: ModelConfig, samples: Sequence[SyntheticSample]) -> Batch:
    """The samples as this project trains on them."""
    examples = []
    for sample in samples:
        side, patch = sample.pixels.shape[1], model.vision.patch_size
        processor = ImageProcessor(
            ImageConfig(patch_size=patch, max_patches=(side // patch) ** 2, merge=model.fusion.merge)
        )
        tokens = visual_tokens(model, side)
        source = Source(
            [0] * tokens + sample.source,
            [False] * (tokens + len(sample.source)),
            [IMAGE] * tokens + [USER] * len(sample.source),
            [(place, 0, place) for place in range(tokens)],
        )
        length = len(sample.target)
        target = Target([1, *sample.target[:-1]], sample.target, [1.0] * length, [None] * length, [-1] * length)
        examples.append(Example(source, target, images=[processor(sample.pixels)]))
    return collate(examples, 3 * model.vision.patch_size**2, space=2, multiple=16)


def optimizer_step(optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter]) -> None:
    nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def ours(config: ModelConfig, samples: Sequence[list[SyntheticSample]], precision: str, compiled: bool) -> Side:
    torch.manual_seed(0)
    model = MultimodalModel(config)
    objective = TrainingObjective(model, {"language": 1.0})
    trainer = TrainerConfig.model_validate(
        {"stage": "pretraining", "output_dir": "unused", "schedule": {"steps": 1}, "compile": compiled}
    )
    flops = TrainingFlops(model)
    distribution = Distribution(objective, trainer, start_accelerator(precision))  # type: ignore[arg-type]
    adamw = OptimizerConfig(name="adamw", lr=1e-4)
    optimizer = build_optimizer(model, parameter_plan(model, {}, adamw), adamw)
    parameters = [p for p in model.parameters() if p.requires_grad]
    batches = [own_batch(config, batch) for batch in samples]
    cuda = distribution.device.type == "cuda"
    batches = [batch.pin_memory() for batch in batches] if cuda else batches
    turn = iter(range(10**9))

    def step() -> Tensor:
        batch = batches[next(turn) % len(batches)]
        on_device = batch.to(distribution.device, non_blocking=True)
        with distribution.accelerator.autocast():
            loss = distribution.module(on_device)["language"] / objective.counts(batch)["language"]
        loss.backward()
        optimizer_step(optimizer, parameters)
        return loss.detach()

    return Side(step, statistics.mean(flops(batch) for batch in batches))


def peer(
    config: ModelConfig, shape: Shape, samples: Sequence[list[SyntheticSample]], device: torch.device, bf16: bool,
    compiled: bool,
) -> Side:  # fmt: skip
    torch.manual_seed(0)
    model = peer_model(config, shape).to(device)
    flops = statistics.mean(sum(peer_flops(config, shape, sample) for sample in batch) for batch in samples)
    run = torch.compile(model) if compiled else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    parameters = [p for p in model.parameters() if p.requires_grad]
    batches = [peer_batch(config, shape, batch) for batch in samples]
    if device.type == "cuda":
        batches = [{name: value.pin_memory() for name, value in batch.items()} for batch in batches]
    turn = iter(range(10**9))

    def step() -> Tensor:
        batch = batches[next(turn) % len(batches)]
        on_device = {name: value.to(device, non_blocking=True) for name, value in batch.items()}
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            loss = peer_loss(run, on_device)
        loss.backward()
        optimizer_step(optimizer, parameters)
        return loss.detach()

    return Side(step, flops)


def peer_flops(config: ModelConfig, shape: Shape, sample: SyntheticSample) -> float:
    """What forward and backward of one sample alone cost the peer, by its operators."""
    return _peer_flops(config.model_dump_json(), shape, len(sample.source), len(sample.target))


@cache
def _peer_flops(config_json: str, shape: Shape, source: int, target: int) -> float:
    config = ModelConfig.model_validate_json(config_json)
    pixels = torch.zeros(3, shape.side, shape.side, dtype=torch.uint8)
    batch = peer_batch(config, shape, [SyntheticSample(pixels, [1] * source, [1] * target)])
    with FlopCounterMode(display=False) as counter:
        peer_loss(_eager_peer(config_json, shape), batch).backward()
    return float(counter.get_total_flops())


@cache
def _eager_peer(config_json: str, shape: Shape) -> nn.Module:
    return peer_model(ModelConfig.model_validate_json(config_json), shape, "eager")


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a large square product in this precision: the best of several, since nothing runs faster."""
    size = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    times = []
    for _ in range(8):
        began = time.perf_counter()
        torch.mm(a, b)
        synchronize(device)
        times.append(time.perf_counter() - began)
    return 2 * size**3 / min(times)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(side: Side, device: torch.device, count: int) -> None:
    """`count` steps, each timed with everything it started."""
    for _ in range(count):
        synchronize(device)
        began = time.perf_counter()
        side.step()
        synchronize(device)
        side.seconds.append(time.perf_counter() - began)


def begin(make: Callable[[], Side], device: torch.device, warm_up: int) -> Side:
    """Build a side, take its first step, and those in which kernels of further shapes are made."""
    before = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
    side = make()
    timed(side, device, 1)
    side.first = side.seconds[0]
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    timed(side, device, warm_up)
    if device.type == "cuda":
        side.memory = float(torch.cuda.max_memory_allocated(device) - before)
    side.seconds.clear()
    return side


def compare(
    makers: Sequence[Callable[[], Side]], device: torch.device, rounds: int, steps: int, apart: bool
) -> list[Side]:
    """Measure both; alternating in `rounds` of `steps`, or apart, one after the other."""
    if not apart:
        sides = [begin(make, device, 2 * BATCHES) for make in makers]
        for _ in range(rounds):
            for side in sides:
                timed(side, device, steps)
        return sides
    sides = []
    for make in makers:
        side = begin(make, device, 2 * BATCHES)
        timed(side, device, rounds * steps)
        side.step = lambda: None  # lets go of model and optimizer
        sides.append(side)
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return sides


def rows_of(own: Side, other: Side, batch: int, rate: float) -> list[dict[str, Any]]:
    """The measures of the table. `better` says in which direction."""
    pairs: list[tuple[str, str, float, float]] = [
        ("samples/s", "higher", batch / own.median, batch / other.median),
        ("share of the matmul rate", "higher", own.flops / own.median / rate, other.flops / other.median / rate),
        ("FLOPs a sample", "lower", own.flops / batch, other.flops / batch),
        ("first step, s", "lower", own.first, other.first),
    ]
    if own.memory is not None and other.memory is not None:
        pairs.append(("peak memory, GB", "lower", own.memory / 1e9, other.memory / 1e9))
    return [
        {"measure": name, "better": better, "ours": a, "peer": b, "ratio": a / b} for name, better, a, b in pairs
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SHAPES, help="default: base on a GPU, tiny on a CPU")
    parser.add_argument("--batch", type=int, help="samples a step")
    parser.add_argument("--precision", choices=("auto", "bf16", "fp32"), default="auto")
    parser.add_argument("--lengths", nargs="+", choices=("full", "mixed"), default=["full", "mixed"])
    parser.add_argument("--compile", action="store_true", help="compile both as well, ours block by block")
    parser.add_argument("--apart", action="store_true", help="one side after the other, for models that fill a GPU")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=4, help="of each side in a round")
    parser.add_argument("--json", type=Path, help="write the rows here")
    arguments = parser.parse_args()
    accelerator = start_accelerator(arguments.precision)
    device, bf16 = accelerator.device, accelerator.mixed_precision == "bf16"
    size = arguments.size or ("base" if device.type == "cuda" else "tiny")
    config, shape = load_config(ModelConfig, CONFIGS / f"{size}.yaml"), SHAPES[size]
    if arguments.batch:
        shape = Shape(shape.side, shape.source, shape.target, arguments.batch)
    rate = matmul_rate(device, torch.bfloat16 if bf16 else torch.float32)
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "CPU"
    import transformers

    about = {
        "size": size, "batch": shape.batch, "side": shape.side, "source": shape.source, "target": shape.target,
        "precision": "bf16" if bf16 else "fp32", "device": machine, "threads": torch.get_num_threads(),
        "torch": torch.__version__, "transformers": transformers.__version__, "matmul_flops_per_s": rate,
    }  # fmt: skip
    print(json.dumps(about))
    rows: list[dict[str, Any]] = []
    for compiled in (False, True) if arguments.compile else (False,):
        for lengths in arguments.lengths:
            rng = random.Random(0)
            samples = [samples_of(config, shape, lengths == "mixed", rng) for _ in range(BATCHES)]
            sides = compare(
                [
                    partial(ours, config, samples, arguments.precision, compiled),
                    partial(peer, config, shape, samples, device, bf16, compiled),
                ],
                device, arguments.rounds, arguments.steps, arguments.apart,
            )  # fmt: skip
            for row in rows_of(*sides, shape.batch, rate):
                row = {"lengths": lengths, "compiled": compiled, **row}
                rows.append(row)
                how = f"{lengths}{', compiled' if compiled else ''}"
                print(f"{how:16} {row['measure']:26} ours {row['ours']:12.4g}  peer {row['peer']:12.4g}"
                      f"  ratio {row['ratio']:6.2f}", flush=True)  # fmt: skip
    if arguments.json:
        arguments.json.write_text(json.dumps([{**about, **row} for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
