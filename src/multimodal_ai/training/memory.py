"""What activations cost: one training step, really carried out with a shortened model and counted byte by byte.

Activations cannot be had from the meta device: what a step keeps depends on how attention, autocast and the
losses are written. So a model of the full width with at most two layers a stack goes forward and backward
on this machine's CPU, and every byte of every tensor is counted as it comes and goes. What the second layer
of a stack adds is what each further layer adds, so a stack of any depth follows, and two sizes of the
micro-batch give every other. Nothing here may assume how a layer is written.

Not seen: what a kernel allocates for itself, and the allocator's own loss.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map_only

from multimodal_ai.data.packing import rounded
from multimodal_ai.models.describe import SampleShape
from multimodal_ai.models.multimodal_model import ModelConfig, MultimodalModel
from multimodal_ai.training.distributed import checkpoint_activations
from multimodal_ai.training.losses import DEFAULT_WEIGHTS, TrainingObjective
from multimodal_ai.training.synthetic import MULTIPLE, synthetic_batch

STACKS = ("vision", "text", "decoder")
ALIASING = torch.ops.aten._unsafe_view.default  # returns its input's memory, though its schema does not say so
SMALL = 2**14  # numbers


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors made inside it that are still there, in every operation, backward too.

    current: bytes now; peak: the most since `reset_peak`. Tensors of before are not counted.
    """

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.current = self.peak = 0
        self._storages: dict[int, weakref.ref[Any] | None] = {t.untyped_storage()._cdata: None for t in known}

    def reset_peak(self) -> None:
        """Begin a new peak with what is there now."""
        self.peak = self.current

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = _without_arithmetic(func, args, kwargs or {})
        for tensor in tree_iter(out):
            if isinstance(tensor, Tensor):
                self._see(tensor.untyped_storage())
        return out

    def _see(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._storages:
            return

        def gone(_: object) -> None:
            self._storages.pop(key, None)
            self.current -= size

        self._storages[key] = weakref.ref(storage, gone)
        self.current += size
        self.peak = max(self.peak, self.current)


def _without_arithmetic(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What `func` returns, but many floating-point numbers are left as they lie in memory: only their number matters.

    Integers are computed, since lengths and places are, and so is all that is small.
    """
    tensors = [value for value in tree_iter((args, kwargs)) if isinstance(value, Tensor)]
    aliases = [returned.alias_info for returned in func._schema.returns if returned.alias_info is not None]
    if any(alias.is_write for alias in aliases) and tensors[0].is_floating_point():
        return args[0]
    if aliases or not tensors or func is ALIASING:
        return func(*args, **kwargs)
    if not any(tensor.is_floating_point() for tensor in tensors) or all(t.numel() <= SMALL for t in tensors):
        return func(*args, **kwargs)
    try:
        shapes = func(*tree_map_only(Tensor, lambda t: t.to("meta"), args), **kwargs)
    except (NotImplementedError, RuntimeError):  # what has no kernel for the meta device is really computed
        return func(*args, **kwargs)

    def unwritten(meta: Tensor) -> Tensor:
        made = torch.empty_strided(meta.shape, meta.stride(), dtype=meta.dtype, device=tensors[0].device)
        return made if meta.is_floating_point() else made.zero_()  # places must exist

    return tree_map_only(Tensor, unwritten, shapes)


@dataclass(frozen=True)
class Stretch:
    """A stretch of a step. kind: the stack of the layer that it passes, "" outside layers; repeated: it stands for
    all layers of its stack but the first. change: bytes that it leaves behind (negative: that it frees); peak: the
    most in between, above those at its beginning. Both by samples of the micro-batch: (at none, for each).
    """

    kind: str
    backward: bool
    repeated: bool
    change: tuple[float, float]
    peak: tuple[float, float]

    def change_at(self, size: int) -> float:
        """`change` for a micro-batch of so many samples."""
        return line_at(self.change, self._counted(size))

    def peak_at(self, size: int) -> float:
        """`peak` for a micro-batch of so many samples."""
        return line_at(self.peak, self._counted(size))

    def _counted(self, size: int) -> int:
        """The number of images is rounded up, and the empty ones pass the stem, which lies before the first layer."""
        return rounded(size, MULTIPLE) if self.kind == "vision" and not self.repeated else size


def line_at(line: tuple[float, float], size: int) -> float:
    """(at none, for each) at a size."""
    return line[0] + line[1] * size


@dataclass(frozen=True)
class Activations:
    """What one micro-batch adds to memory, in order. `first`: gradients come into being; `later`: they are there."""

    first: tuple[Stretch, ...]
    later: tuple[Stretch, ...]
    batch: tuple[float, float]  # the micro-batch itself, by samples


class _Marks:
    """Cuts the count at the end of every layer, forward and backward."""

    def __init__(self, counter: LiveBytes, model: MultimodalModel) -> None:
        self.counter = counter
        self.cuts: list[tuple[str, int, bool, int, int]] = []  # stack, layer, backward, change, peak
        self.start = counter.current
        self._handles = []
        for name, block in model.blocks():
            stack, _, number = name.partition(".blocks.")
            self._handles.append(block.register_forward_hook(self._hook(stack, int(number))))

    def cut(self, stack: str, layer: int, backward: bool) -> None:
        """What was until now belongs to this layer (or to what stands before its backward)."""
        counter = self.counter
        self.cuts.append((stack, layer, backward, counter.current - self.start, counter.peak - self.start))
        self.start = counter.current
        counter.reset_peak()

    def _hook(self, stack: str, layer: int) -> Callable[..., None]:
        def hook(block: nn.Module, inputs: object, output: Any) -> None:
            self.cut(stack, layer, False)
            states: Tensor = output[0] if isinstance(output, tuple) else output
            if states.requires_grad:
                states.register_hook(lambda gradient: self.cut(stack, layer, True))

        return hook

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()


def measure_activations(
    config: ModelConfig,
    sample: SampleShape,
    *,
    losses: Mapping[str, float] | None = None,
    trainable: Callable[[str], bool] = lambda name: True,
    bf16: bool = False,
    checkpointing: bool = False,
    gathered: bool = False,
    sizes: tuple[int, int] = (1, 2),
) -> Activations:
    """Carry out two micro-batches of each of two sizes with a shortened model, and say what any size costs.

    trainable: whether the parameter of this name is; layers are named as those of the shortened model.
    bf16: under autocast. gathered: layers hold BF16 weights as they do under FSDP2, so that autocast copies none.
    """
    runs = [
        _measure(config, sample, size, dict(losses or DEFAULT_WEIGHTS), trainable, bf16, checkpointing, gathered)
        for size in sizes
    ]
    (first_a, later_a, batch_a), (first_b, later_b, batch_b) = runs
    low, high = sizes

    def line(a: float, b: float) -> tuple[float, float]:
        slope = (b - a) / (high - low)
        return a - slope * low, slope

    def lines(a: Sequence[Stretch], b: Sequence[Stretch]) -> tuple[Stretch, ...]:
        return tuple(
            Stretch(x.kind, x.backward, x.repeated, line(x.change[0], y.change[0]), line(x.peak[0], y.peak[0]))
            for x, y in zip(a, b, strict=True)
        )

    return Activations(lines(first_a, first_b), lines(later_a, later_b), line(batch_a, batch_b))


def _measure(
    config: ModelConfig,
    sample: SampleShape,
    size: int,
    losses: dict[str, float],
    trainable: Callable[[str], bool],
    bf16: bool,
    checkpointing: bool,
    gathered: bool,
) -> tuple[list[Stretch], list[Stretch], float]:
    short = config.model_copy(
        update={s: getattr(config, s).model_copy(update={"layers": min(getattr(config, s).layers, 2)}) for s in STACKS}
    )
    with torch.device("meta"):
        model = MultimodalModel(short)
    model.to_empty(device="cpu")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trainable(name))
    for _, block in model.blocks():
        if gathered and bf16:
            block.to(torch.bfloat16)
        if checkpointing:
            checkpoint_activations(block)
    objective = TrainingObjective(model, losses)
    batch = synthetic_batch(config, sample, size)
    tensors = [value for value in vars(batch).values() if isinstance(value, Tensor)]
    weights = {term: weight for term, weight in objective.weights.items() if weight}
    timelines = []
    with LiveBytes([*model.parameters(), *tensors]) as counter:
        for _ in range(2):
            marks = _Marks(counter, model)
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                sums = objective(batch)
                loss = sum((sums[term] * weight for term, weight in weights.items()), start=torch.zeros(()))
            cast(Tensor, loss).backward()
            del sums, loss
            marks.cut("", 0, True)
            marks.remove()
            timelines.append(_stretches(marks.cuts))
    return timelines[0], timelines[1], float(sum(tensor.nbytes for tensor in tensors))


def _stretches(cuts: Sequence[tuple[str, int, bool, int, int]]) -> list[Stretch]:
    """From cuts at layers to stretches between them; one from layer to layer of a stack stands for all such."""
    found = []
    before: tuple[str, int] = ("", 0)
    for stack, layer, backward, change, peak in cuts:
        kind = before[0] if backward else stack  # a cut of the backward pass stands before its layer
        repeated = stack == before[0] != "" and layer - before[1] == (-1 if backward else 1)
        found.append(Stretch(kind, backward, repeated, (change, 0.0), (peak, 0.0)))
        before = (stack, layer)
    return found


@contextlib.contextmanager
def allocated_peak(device: torch.device) -> Iterator[Callable[[], int]]:
    """Around any work: the call that it gives says the most bytes that lay on the device in it, above those before.

    On a GPU this is the allocator's own count; on a CPU that of torch's profiler, which makes the work slower.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        yield lambda: torch.cuda.max_memory_allocated(device) - before
        return
    peak = 0
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        yield lambda: peak
    now = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]" and event.device_type() == torch._C._autograd.DeviceType.CPU:
            now += event.nbytes()
            peak = max(peak, now)
