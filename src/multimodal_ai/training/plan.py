"""What a training will need before it is started: memory per GPU, the largest micro-batch, time and money.

Weights, gradients and optimizer state are counted on a model without memory (the meta device); activations
are measured (`memory.py`) and laid along the step's course, layer by layer, so that the peak is where it
will be. Time is arithmetic: FLOPs by the rate that one GPU reaches, bytes by bandwidths, what can overlap
taken off. A plan never starts a process group and needs no GPU.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch

from multimodal_ai.models.describe import SampleShape
from multimodal_ai.models.multimodal_model import ModelConfig, MultimodalModel
from multimodal_ai.training.config import OptimizerConfig, PartConfig
from multimodal_ai.training.flops import TrainingFlops
from multimodal_ai.training.memory import STACKS, Activations, Stretch, line_at, measure_activations
from multimodal_ai.training.optimizer import (
    NEWTON_SCHULZ,
    ParameterPlan,
    freeze,
    matrices_at_once,
    parameter_plan,
)
from multimodal_ai.training.synthetic import MULTIPLE, synthetic_batch

Strategy = Literal["ddp", "fsdp2", "hsdp"]
MEASURED = (16, 32)  # samples: `collate` rounds the number of images and texts to 16
LARGEST = 2**14  # no micro-batch is planned larger


@dataclass(frozen=True)
class Training:
    """What is to be trained, and how: the part of a plan that does not depend on machines."""

    model: ModelConfig
    sample: SampleShape
    micro_size: int = 16
    global_size: int = 256
    steps: int | None = None
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    parts: Mapping[str, PartConfig] = field(default_factory=dict)
    losses: Mapping[str, float] | None = None
    bf16: bool = True
    asynchronous: bool = True  # checkpoints: written from a copy while training goes on


@dataclass(frozen=True)
class Machine:
    """What it is to run on. Bytes, bytes a second and FLOP/s of one GPU; price of one GPU for an hour."""

    gpus: int
    per_node: int
    memory: float
    reserve: float = 0.0  # what others than tensors take: the CUDA context, NCCL, gaps between tensors
    rate: float = 125e12
    bandwidth: float = 230e9
    node_bandwidth: float = 25e9
    price: float | None = None
    kind: Literal["cuda", "cpu"] = "cuda"


@dataclass(frozen=True)
class Estimate:
    """One strategy, with or without activation checkpointing. Memory in bytes per GPU, times in seconds.

    activations: what is there at the peak besides weights, gradients and optimizer state; moment: when that is.
    snapshot: the copy in main memory that a checkpoint is written from; on a CPU it is part of the peak.
    micro_size: the config's, or the largest that fits where the config's does not; 0: not even one sample fits.
    """

    strategy: str
    checkpointing: bool
    weights: float
    gradients: float
    optimizer: float
    activations: float
    snapshot: float
    peak: float
    moment: str
    fits: bool
    largest_micro: int
    micro_size: int
    accumulation: int
    compute_s: float
    waiting_s: float  # communication that nothing hides
    optimizer_s: float
    step_s: float
    tokens_per_s: float
    hours: float | None
    cost: float | None


@dataclass(frozen=True)
class Plan:
    """All estimates, and what they rest on."""

    training: Training
    machine: Machine
    parameters: int
    trained: int
    tokens_per_sample: float
    flops_per_sample: float
    steps: int | None
    estimates: list[Estimate]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        training = {**asdict(self.training), "model": self.training.model.model_dump(mode="json")}
        training["optimizer"] = self.training.optimizer.model_dump(mode="json")
        training["parts"] = {key: part.model_dump(mode="json") for key, part in self.training.parts.items()}
        return {**{key: getattr(self, key) for key in ("parameters", "trained", "tokens_per_sample")},
                "flops_per_sample": self.flops_per_sample, "steps": self.steps, "training": training,
                "machine": asdict(self.machine), "estimates": [asdict(one) for one in self.estimates]}  # fmt: skip


def make_plan(training: Training, machine: Machine, tokens: float | None = None) -> Plan:
    """Plan every strategy that makes sense on so many GPUs. tokens: the budget; default: the config's steps.

    Raises:
        ValueError: sizes that cannot be (see `synthetic_batch`, `parameter_plan`).
    """
    if machine.gpus % machine.per_node and machine.gpus > machine.per_node:
        raise ValueError(f"{machine.gpus} GPUs cannot be divided into machines of {machine.per_node}")
    planner = Planner(training, machine)
    steps = training.steps
    if tokens is not None:
        steps = math.ceil(tokens / (planner.tokens * training.global_size))
    strategies: list[Strategy] = ["ddp"] if machine.gpus == 1 else ["ddp", "fsdp2"]
    if machine.gpus > machine.per_node:
        strategies.append("hsdp")
    estimates = [planner.estimate(s, c, steps) for s in strategies for c in (False, True)]
    counts = planner.counts
    return Plan(training, machine, counts.all, counts.trained, planner.tokens, planner.flops, steps, estimates)


@dataclass(frozen=True)
class Counts:
    """Numbers of parameters: of all, of those trained, by who updates them, of one layer of each stack, of the rest."""

    all: int
    trained: int
    muon: int
    adamw: int
    layer: dict[str, int]
    layer_trained: dict[str, int]
    rest: int
    rest_trained: int
    muon_matrices: list[tuple[int, int]]

    @classmethod
    def of(cls, model: MultimodalModel, plan: Mapping[str, ParameterPlan]) -> Counts:
        sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
        trained = {name: size for name, size in sizes.items() if plan[name].trainable}
        layers = {stack: len(model.get_submodule(stack).blocks) for stack in STACKS}  # type: ignore[arg-type]

        def in_layers(counted: Mapping[str, int], stack: str) -> int:
            return sum(size for name, size in counted.items() if name.startswith(f"{stack}.blocks."))

        layer = {stack: in_layers(sizes, stack) // layers[stack] for stack in STACKS}
        layer_trained = {stack: in_layers(trained, stack) // layers[stack] for stack in STACKS}
        return cls(
            sum(sizes.values()),
            sum(trained.values()),
            sum(size for name, size in trained.items() if plan[name].muon),
            sum(size for name, size in trained.items() if not plan[name].muon),
            layer,
            layer_trained,
            sum(sizes.values()) - sum(in_layers(sizes, stack) for stack in STACKS),
            sum(trained.values()) - sum(in_layers(trained, stack) for stack in STACKS),
            [(p.shape[0], p.shape[1]) for name, p in model.named_parameters() if name in trained and plan[name].muon],
        )


class Planner:
    """Makes the estimates of one training on one kind of machine; measures activations when first asked."""

    def __init__(self, training: Training, machine: Machine) -> None:
        self.training, self.machine = training, machine
        self.shapes = training.model
        if machine.kind == "cuda":  # on a GPU the fused kernel, on a CPU what the layer itself would choose
            update = {s: getattr(self.shapes, s).model_copy(update={"attention": "sdpa"}) for s in STACKS}
            self.shapes = self.shapes.model_copy(update=update)
        with torch.device("meta"):
            model = MultimodalModel(training.model)
        self.plan = parameter_plan(model, training.parts, training.optimizer)
        freeze(model, self.plan)
        self.counts = Counts.of(model, self.plan)
        batch = synthetic_batch(training.model, training.sample, MULTIPLE)
        flops = TrainingFlops(model)
        self.tokens, self.flops = batch.useful_tokens / MULTIPLE, flops(batch) / MULTIPLE
        self.recomputed = sum(flops.forward(batch)[stack] for stack in STACKS) / MULTIPLE
        self._activations: dict[tuple[bool, bool], Activations] = {}

    def activations(self, checkpointing: bool, sharded: bool) -> Activations:
        """What a micro-batch keeps, measured; in FP32 it does not matter whether the layers are sharded."""
        key = (checkpointing, sharded and self.training.bf16)
        if key not in self._activations:
            self._activations[key] = measure_activations(
                self.shapes,
                self.training.sample,
                losses=self.training.losses,
                trainable=self._trainable,
                bf16=self.training.bf16,
                checkpointing=checkpointing,
                gathered=key[1],
                sizes=MEASURED,
            )
        return self._activations[key]

    def _trainable(self, name: str) -> bool:
        """Of a parameter of the shortened model: a layer counts as trainable where any layer of its stack is."""
        stack, inside, _ = name.partition(".blocks.")
        return self.counts.layer_trained[stack] > 0 if inside else self.plan[name].trainable

    def groups(self, strategy: str) -> int:
        """GPUs that share one copy of the model."""
        return {"ddp": 1, "fsdp2": self.machine.gpus, "hsdp": self.machine.per_node}[strategy]

    # -- memory -----------------------------------------------------------------------------------------------

    def memory(self, strategy: str, checkpointing: bool, micro: int, accumulation: int) -> dict[str, Any]:
        """Bytes per GPU: weights, gradients, optimizer, activations, snapshot, peak, and the moment of the peak."""
        counts, share = self.counts, self.groups(strategy)
        sharded = strategy != "ddp" and self.machine.gpus > 1
        weights, gradients = 4 * counts.all / share, 4 * counts.trained / share
        optimizer = (4 * counts.muon + 8 * counts.adamw) / share
        measured = self.activations(checkpointing, sharded)
        batch = line_at(measured.batch, micro)
        # Alone, a process makes the gradients of the step's first micro-batch as it goes back, while activations
        # go; with DDP they lie in buckets from the start.
        made = self.machine.gpus == 1 and accumulation == 1
        if sharded:
            above = self._sharded_course(measured, micro, share, accumulation == 1)
        else:
            above = _course(measured.first if made else measured.later, micro, self._layers)
        backward = weights + optimizer + above + batch + (0 if made else gradients)
        if sharded and accumulation == 1:
            backward -= gradients  # the course counts them as they come
        update = weights + gradients + optimizer + self._update_bytes(strategy) + batch
        peak, moment = max((backward, "backward"), (update, "optimizer step"))
        activations, snapshot = peak - weights - gradients - optimizer, self.snapshot_bytes()
        if self.machine.kind == "cpu":  # steps go on while the copy is written, at their peak too
            peak += snapshot
        return {
            "weights": weights,
            "gradients": gradients,
            "optimizer": optimizer,
            "activations": activations,
            "snapshot": snapshot,
            "peak": peak,
            "moment": moment,
        }

    def snapshot_bytes(self) -> float:
        """Main memory of the copy that a checkpoint is written from; processes divide what several have."""
        counts = self.counts
        whole = 4.0 * (counts.all + counts.muon + 2 * counts.adamw)
        return whole / self.machine.gpus if self.training.asynchronous else 0.0

    @cached_property
    def _layers(self) -> dict[str, int]:
        return {stack: getattr(self.training.model, stack).layers for stack in STACKS}

    def _sharded_course(self, measured: Activations, micro: int, share: int, gradients_made: bool) -> float:
        """The peak above weights and optimizer state under `fully_shard`.

        The parameters outside layers are gathered for the whole of a micro-batch, and their whole gradients lie
        there until its end; a layer is gathered while it runs, into one buffer and from there into its parameters;
        backward its whole gradients come on top, and the copy of them, in FP32, that is sent.
        """
        counts, width = self.counts, 2 if self.training.bf16 else 4
        now, peak = 4.0 * counts.rest, 8.0 * counts.rest
        returned = False
        for stretch in measured.later:
            if stretch.backward and not returned:
                returned, now = True, now + 4.0 * counts.rest_trained
            layer, trained = counts.layer.get(stretch.kind, 0), counts.layer_trained.get(stretch.kind, 0)
            extra = 2 * width * layer + ((width + 4) * trained if stretch.backward else 0)
            for _ in range(self._layers[stretch.kind] - 1 if stretch.repeated else 1):
                peak = max(peak, now + stretch.peak_at(micro) + extra)
                now += stretch.change_at(micro)
                now += 4 * trained / share if stretch.backward and gradients_made else 0
        return max(peak, now + 4.0 * counts.rest_trained)

    def _update_bytes(self, strategy: str) -> float:
        """What Muon needs beside its state: some updates, and the powers of those that this process iterates."""
        width, share = 2 if self.training.bf16 else 4, self._dividing(strategy)
        most = 0.0
        for (rows, columns), count in Counter(self.counts.muon_matrices).items():
            together = matrices_at_once(rows * columns, self.machine.kind)
            if strategy == "ddp" or share == 1:
                together = min(count, max(share, together))
                own, copies = -(-together // share), (2 if share > 1 else 1) * together
            else:  # an update, what is sent and what comes back, each of it some rows of every matrix
                own = min(count, together)
                copies = 3 * own
            most = max(most, rows * columns * (4.0 * copies + own * (4 + 3 * width)))
        return most

    def _dividing(self, strategy: str) -> int:
        """Processes that divide Muon's matrices."""
        return self.machine.gpus if strategy == "ddp" else self.groups(strategy)

    def fits(self, strategy: str, checkpointing: bool, micro: int) -> bool:
        """Whether micro-batches of this size find room, several a step."""
        peak: float = self.memory(strategy, checkpointing, micro, 2)["peak"]
        return peak + self.machine.reserve <= self.machine.memory

    def largest_micro(self, strategy: str, checkpointing: bool) -> int:
        """The most samples of a micro-batch that fit; 0 where one does not."""
        low, high = 0, 1
        while high <= LARGEST and self.fits(strategy, checkpointing, high):
            low, high = high, high * 2
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.fits(strategy, checkpointing, middle) else (low, middle)
        return low

    # -- time -------------------------------------------------------------------------------------------------

    def estimate(self, strategy: Strategy, checkpointing: bool, steps: int | None) -> Estimate:
        """Everything about one strategy."""
        training, machine = self.training, self.machine
        largest = self.largest_micro(strategy, checkpointing)
        each = training.global_size / machine.gpus  # samples of a step
        micro = min(training.micro_size, largest)
        accumulation = max(math.ceil(each / micro), 1) if micro else 1
        memory = self.memory(strategy, checkpointing, training.micro_size, accumulation)
        fits = memory["peak"] + machine.reserve <= machine.memory
        flops = self.flops + (self.recomputed if checkpointing else 0.0)
        compute = flops * each / machine.rate
        waiting = self._waiting(strategy, compute, accumulation)
        optimizer = self._optimizer_seconds(strategy)
        step = compute + waiting + optimizer
        hours = None if steps is None else steps * step / 3600
        return Estimate(
            strategy if machine.gpus > 1 else "one GPU",
            checkpointing,
            **memory,
            fits=fits,
            largest_micro=largest,
            micro_size=micro,
            accumulation=accumulation,
            compute_s=compute,
            waiting_s=waiting,
            optimizer_s=optimizer,
            step_s=step,
            tokens_per_s=self.tokens * training.global_size / step,
            hours=hours,
            cost=None if hours is None or machine.price is None else hours * machine.gpus * machine.price,
        )

    def _waiting(self, strategy: str, compute: float, accumulation: int) -> float:
        """Seconds a step of communication that computing does not hide; rings, so (n - 1) / n of the bytes pass."""
        machine, counts = self.machine, self.counts
        if machine.gpus == 1:
            return 0.0
        several = machine.gpus > machine.per_node
        across = machine.node_bandwidth if several else machine.bandwidth
        one = compute / accumulation
        if strategy == "ddp":  # gradients of the last micro-batch go while those before them are computed
            return max(0.0, 2 * 4 * counts.trained * _ring(machine.gpus) / across - one * 2 / 3)
        group = self.groups(strategy)
        width = 2 if self.training.bf16 else 4
        layers = counts.all - counts.rest
        passed = 2 * width * layers + 4 * counts.rest + 4 * counts.trained  # gathered twice, reduced once
        inside = machine.bandwidth if group <= machine.per_node else across
        waiting = accumulation * max(0.0, passed * _ring(group) / inside - one)
        if strategy == "hsdp":
            copies = machine.gpus // group
            waiting += max(0.0, 2 * 4 * counts.trained / group * _ring(copies) / machine.node_bandwidth - one * 2 / 3)
        return waiting

    def _optimizer_seconds(self, strategy: str) -> float:
        """Muon's products, divided among the processes, and its updates, sent to those that need them."""
        machine, counts = self.machine, self.counts
        flops = 0.0
        for rows, columns in counts.muon_matrices:
            short, long = sorted((rows, columns))
            flops += len(NEWTON_SCHULZ) * (4.0 * short**2 * long + 2.0 * short**3)
        share = self._dividing(strategy)
        across = machine.node_bandwidth if share > machine.per_node else machine.bandwidth
        sent = 4 * counts.muon if strategy == "ddp" else 2 * 4 * counts.muon / share
        return flops / machine.rate / share + sent * _ring(share) / across


def _ring(processes: int) -> float:
    return (processes - 1) / processes


def _course(stretches: Iterable[Stretch], size: int, layers: Mapping[str, int]) -> float:
    """The peak over a whole micro-batch, for a model with so many layers."""
    now = peak = 0.0
    for stretch in stretches:
        for _ in range(layers[stretch.kind] - 1 if stretch.repeated else 1):
            peak = max(peak, now + stretch.peak_at(size))
            now += stretch.change_at(size)
    return peak
