"""From one process to many: precision, activation checkpointing, compiling, sharding, collectives.

Everything is applied from outside, block by block and in one order: activation checkpointing, then
compiling, then sharding. The model's own code knows nothing of it, and one process must do exactly what
many do. Accelerate gives process group, device, autocast and trackers; sharding is torch's `fully_shard`
on a device mesh, because Accelerate's own FSDP2 turns into DDP on CPU processes without a word.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, cast

import torch
import torch.distributed as dist
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from multimodal_ai.training.config import TrainerConfig
from multimodal_ai.training.optimizer import multiplies_bf16
from multimodal_ai.utils.logger import get_logger
from multimodal_ai.utils.machine import processor_name

logger = get_logger(__name__)
# Compiled CPU kernels, one for each shape of a product: with oneDNN's default, 1,024, they fill a gigabyte a process.
# Read at the first product, so it is early enough to set them with the accelerator.
KERNEL_CACHES, KERNELS = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"), "352"


def start_accelerator(precision: Literal["auto", "bf16", "fp32"] = "auto") -> Accelerator:
    """Join the process group the launcher set up, if any, and take this process' device.

    May be called again in the same process, with another precision too: stages of a run follow each other.
    """
    for name in KERNEL_CACHES:
        os.environ.setdefault(name, KERNELS)
    launched = int(os.environ.get("WORLD_SIZE", 1))
    on_cpu = os.environ.get("ACCELERATE_USE_CPU", "false").lower() in ("1", "true", "yes")
    on_cpu = on_cpu or (launched > 1 and not torch.accelerator.is_available())
    state = PartialState(cpu=on_cpu)
    if state.num_processes != launched:  # each would train on its own and overwrite the others' files
        raise RuntimeError(f"{launched} processes were launched, but {state.num_processes} found each other")
    mixed = "bf16" if resolve_precision(precision, state.device) == "bf16" else "no"
    if AcceleratorState._shared_state and AcceleratorState._shared_state.get("_mixed_precision") != mixed:
        AcceleratorState._reset_state()  # only the precision is forgotten; the process group stays
    return Accelerator(cpu=on_cpu or None, mixed_precision=mixed)


def resolve_precision(precision: str, device: torch.device) -> str:
    """ "bf16" or "fp32"; "auto" takes BF16 where the device multiplies it natively."""
    native = multiplies_bf16(device)
    if precision == "auto":
        return "bf16" if native else "fp32"
    if precision == "bf16" and not native:
        logger.warning("precision bf16: %s has no native BF16 products and will be slow; fp32 is faster", device.type)
    return precision


class Distribution:
    """The objective on this process' device, wrapped by the strategy, with what the loop asks of many processes.

    `module` is what to call; `objective` is the same without a wrapper; `mesh` is the device mesh under
    FSDP2 and HSDP, else None. Scalars cannot be sharded: every process keeps them.

    Raises:
        ValueError: the strategy cannot be applied (a shard size that does not divide).
    """

    def __init__(self, objective: nn.Module, config: TrainerConfig, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.device: torch.device = accelerator.device
        self.rank, self.world_size = accelerator.process_index, accelerator.num_processes
        self.objective = objective.to(self.device)
        self.mesh: DeviceMesh | None = None
        self._scalars: list[nn.Parameter] = []
        blocks: list[nn.Module] = [block for _, block in cast(Any, objective).model.blocks()]
        for block in blocks:
            if config.activation_checkpointing:
                checkpoint_activations(block)
            if config.compile:
                block.compile(dynamic=True)  # batches differ in length; a compilation for each would be too many
        self.module: nn.Module = self.objective
        if self.world_size > 1:
            self.objective.register_forward_hook(_touch_whole)
        if config.strategy == "ddp" or not dist.is_initialized():
            if self.world_size > 1:
                self.module = DistributedDataParallel(
                    self.objective,
                    device_ids=[self.device.index] if self.device.type == "cuda" else None,
                    gradient_as_bucket_view=True,
                )
        else:
            self.mesh = device_mesh(config, self.device, self.world_size)
            bf16 = accelerator.mixed_precision == "bf16"
            self._scalars = [p for p in self.objective.parameters() if p.ndim == 0 and p.requires_grad]
            shard(self.objective, blocks, self.mesh, bf16)
            assert_sharded(self.objective, self.mesh)

    @property
    def _share(self) -> float:
        """Factor on the norm of what every process of a shard group holds, so that it counts once."""
        return 1.0 if self.mesh is None else self.mesh["shard"].size() ** -0.5

    @property
    def main(self) -> bool:
        """Whether this process writes files and talks."""
        return self.rank == 0

    @contextlib.contextmanager
    def gradient_sync(self, last: bool) -> Iterator[None]:
        """Around forward and backward of one micro-batch: only the step's last one talks between copies.

        FSDP2 reduces every micro-batch all the same, because keeping whole gradients would cost the
        memory that sharding saves; HSDP then adds up its copies once.
        """
        with contextlib.ExitStack() as stack:
            if isinstance(self.module, DistributedDataParallel) and not last:
                stack.enter_context(self.module.no_sync())
            elif isinstance(self.module, FSDPModule):
                self.module.set_requires_all_reduce(last)
            yield

    def finish_gradients(self) -> None:
        """After the step's last backward pass: average the gradients of scalars, which no strategy sharded."""
        if not self._scalars:
            return
        zero = torch.zeros((), device=self.device)
        grads = torch.stack([zero if p.grad is None else p.grad for p in self._scalars])
        seen = torch.stack([zero if p.grad is None else zero + 1 for p in self._scalars])
        both = torch.stack((grads, seen))
        dist.all_reduce(both)
        for parameter, grad, count in zip(self._scalars, both[0] / self.world_size, both[1].tolist(), strict=True):
            parameter.grad = grad if count else None

    def sum(self, values: Sequence[float]) -> list[float]:
        """Element-wise sum over all processes, in float64."""
        if self.world_size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor)
        return cast(list[float], tensor.tolist())

    def gather(self, value: object, processes: dist.ProcessGroup | None = None) -> list[Any]:
        """Every process' value, on every process, by rank. For rare and small things.

        processes: a group of all processes; default: the one that training uses.
        """
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value, group=processes)
        return values

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.world_size > 1:
            self.accelerator.wait_for_everyone()

    def agree(self, error: Exception | None, processes: dist.ProcessGroup | None = None) -> Exception | None:
        """The first error any process has, on all of them; nobody waits for one that gave up. As `gather`."""
        errors = self.gather(None if error is None else f"{type(error).__name__}: {error}", processes)
        for rank, text in enumerate(errors):
            if text is not None:
                return error if error is not None else RuntimeError(f"process {rank}: {text}")
        return None

    def gradient_norms(self, parameters: Sequence[nn.Parameter]) -> list[float]:
        """L2 norm of each parameter's whole gradient, whatever piece of it lies here; 0 without one."""
        norms = [torch.zeros((), device=self.device)] * len(parameters)
        for number, parameter in enumerate(parameters):
            if parameter.grad is not None:
                norm = local(parameter.grad).norm(dtype=torch.float32)
                norms[number] = norm if isinstance(parameter, DTensor) else norm * self._share
        squares = torch.stack(norms).square()
        if self.mesh is not None:
            dist.all_reduce(squares, group=self.mesh.get_group("shard"))
        return cast(list[float], squares.sqrt().tolist())

    def whole_model(self, device: torch.device | None = None) -> nn.Module | None:
        """A model that can be called and saved on its own: on the main process, None on the others.

        Not sharded, that is the model in training itself; sharded, a copy with all the weights, on `device`
        (default: main memory).
        """
        model: nn.Module = cast(Any, self.objective).model
        if self.mesh is None:
            return model if self.main else None
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        state = get_model_state_dict(model, options=options)
        if not self.main:
            return None
        with torch.device("meta"):
            copy = type(model)(cast(Any, model).config)
        copy.load_state_dict(state, assign=True)
        return copy.to(device or "cpu")


def lost_contact(error: RuntimeError) -> bool:
    """Whether an error means that another process is gone. Gloo and NCCL have no exception of their own for it."""
    text = str(error)
    return isinstance(error, dist.DistError) or any(word in text for word in ("gloo", "NCCL", "Connection closed"))


def describe_process(accelerator: Accelerator) -> dict[str, str]:
    """What a run runs on, in words."""
    device = accelerator.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name()
    precision = "bf16" if accelerator.mixed_precision == "bf16" else "fp32"
    return {"device": f"{accelerator.num_processes} x {device.type}, {name}", "precision": precision}


def local(tensor: Tensor) -> Tensor:
    """The piece of a tensor that lies in this process; shares its memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def device_mesh(config: TrainerConfig, device: torch.device, world_size: int) -> DeviceMesh:
    """A mesh ("shard",) for fsdp2, ("replicate", "shard") for hsdp."""
    if config.strategy == "fsdp2":
        return init_device_mesh(device.type, (world_size,), mesh_dim_names=("shard",))
    size = config.hsdp_shard_size or int(os.environ.get("LOCAL_WORLD_SIZE", world_size))
    if world_size % size:
        raise ValueError(
            f"strategy hsdp: {world_size} processes cannot be divided into groups of {size}; "
            f"set hsdp_shard_size to a divisor of {world_size}"
        )
    return init_device_mesh(device.type, (world_size // size, size), mesh_dim_names=("replicate", "shard"))


def shard(objective: nn.Module, blocks: Sequence[nn.Module], mesh: DeviceMesh, bf16: bool) -> None:
    """`fully_shard` every block, then the rest as one group; scalars are left out.

    With `bf16`, blocks are gathered in BF16 and their gradients reduced in FP32; inputs are left as they
    are, so that the residual stream stays in FP32 as it does under DDP with autocast.
    """
    # Torch warns of blocks that return views (keys, values); the model never writes into them.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    scalars = {parameter for parameter in objective.parameters() if parameter.ndim == 0}
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if bf16 else None, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    for block in blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    rest = MixedPrecisionPolicy(reduce_dtype=torch.float32)
    fully_shard(objective, mesh=mesh, mp_policy=rest, ignored_params=scalars)


def assert_sharded(objective: nn.Module, mesh: DeviceMesh) -> None:
    """Every parameter but scalars is a DTensor, and the pieces of one shard group make up exactly one model.

    Raises:
        RuntimeError: a parameter is whole on every process, so that sharding would save nothing.
    """
    here = total = 0
    device = torch.device(mesh.device_type)
    for name, parameter in objective.named_parameters():
        if parameter.ndim == 0:
            continue
        if not isinstance(parameter, DTensor):
            raise RuntimeError(f"{name} was not sharded")
        here += parameter.to_local().numel()
        total += parameter.numel()
    pieces = torch.tensor(here, dtype=torch.int64, device=device)
    dist.all_reduce(pieces, group=mesh.get_group("shard"))
    if int(pieces) != total:
        raise RuntimeError(f"the shards hold {int(pieces):,} numbers, the model {total:,}")


def _touch_whole(objective: nn.Module, inputs: object, sums: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give a zero gradient to every parameter that is whole here and that this process' batch did not use.

    DDP waits for the gradient of every parameter. FSDP2 reduces those that are there: with others used on
    another process (no image here, no function there) messages of different sizes meet, and the run fails
    or hangs. (Under FSDP2, only what lies outside the blocks is whole at this point.)
    """
    touched = [p.sum() for p in objective.parameters() if p.requires_grad and not isinstance(p, DTensor)]
    if not touched:
        return sums
    nothing = torch.stack([value.float() for value in touched]).sum() * 0.0
    return {term: value + nothing for term, value in sums.items()}  # to all: a stage may train a single one


def checkpoint_activations(block: nn.Module) -> None:
    """Recompute the block in the backward pass. In place, so that names of parameters stay as they are.

    A function, not functools.partial: torch.compile passes over a partial without a word.
    """
    plain: Callable[..., Any] = block.forward

    def forward(*arguments: Any, **options: Any) -> Any:
        return checkpoint(plain, *arguments, use_reentrant=False, **options)

    block.__dict__["forward"] = forward
