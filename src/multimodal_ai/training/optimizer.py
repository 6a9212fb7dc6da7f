"""Parameter groups, AdamW, Muon for linear layers, and the warm-up-stable-decay schedule.

A rule of the config that matches nothing is an error, a frozen parameter is in no group, and every
trainable parameter is in exactly one. The optimizer never looks at what a parameter is for: that was
decided by `parameter_plan` from the model's own parts and blocks.

Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) replaces the momentum matrix by its nearest
orthogonal one. The update is scaled by 0.2 * sqrt(max(rows, columns)) (Liu et al., arXiv 2502.16982), so
that learning rate and weight decay of AdamW carry over.

Why not torch.optim.Muon: it multiplies in BF16 everywhere. 30 matrices of 256 x 768 on 2 CPU threads
(`benchmarks/muon.py`): 112 ms a step where the CPU multiplies BF16 natively, as here; 540 ms on AVX-512
without BF16, where FP32 takes 215 ms; 9.4 s on AVX2, where FP32 takes 0.24 s. It also runs every product
of the iteration as a collective when parameters are sharded (measured 4 times as slow). Here the processes
divide the matrices among themselves, sharded or not, and send each other the results.
"""

from __future__ import annotations

import fnmatch
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from multimodal_ai.training.config import (
    OptimizerConfig,
    PartConfig,
    ScheduleConfig,
    decay_steps,
    warmup_steps,
)

# One quintic a step, each the best there is for what the step before left (Amsel et al., arXiv 2505.16932):
# singular values between 0.003 and 1 end between 0.8 and 1.2.
NEWTON_SCHULZ = (
    (8.3837, -24.7659, 18.3571),
    (4.0434, -3.0114, 0.5695),
    (3.5056, -2.6267, 0.5257),
    (2.4901, -1.8343, 0.4368),
)
OTHER = "other"  # part of parameters that no part of the model holds
HEAD = "head"  # its layers end in few outputs; under Muon its losses went to 1e14 (docs/decisions.md)


@dataclass(frozen=True)
class ParameterPlan:
    """What happens to one parameter."""

    name: str
    part: str
    trainable: bool
    lr_scale: float
    muon: bool
    decay: bool


def parameter_plan(
    model: nn.Module, rules: Mapping[str, PartConfig], optimizer: OptimizerConfig
) -> dict[str, ParameterPlan]:
    """Decide for every parameter of `model` (with `parts()` and `blocks()`) how it is trained.

    A rule's key is a part or an fnmatch pattern of parameter names; the last that matches wins.

    Raises:
        ValueError: a rule matches nothing, or nothing is left to train.
    """
    shaped: Any = model
    parts: dict[str, nn.Module] = shaped.parts()
    part_of: dict[int, str] = {}
    for part, module in parts.items():
        for parameter in module.parameters():
            part_of.setdefault(id(parameter), part)
    linear = {id(module.weight) for module in model.modules() if isinstance(module, nn.Linear)}
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    names = {name: parameter for name, parameter in model.named_parameters()}
    rule_of: dict[str, PartConfig] = {}
    for key, rule in rules.items():
        matched = [
            name
            for name, parameter in names.items()
            if (part_of.get(id(parameter), OTHER) == key if key in parts else fnmatch.fnmatchcase(name, key))
        ]
        if not matched:
            raise ValueError(
                f'parts."{key}" matches no parameter; give a part ({", ".join(parts)}) or a pattern of '
                f"parameter names such as {next(iter(names))}"
            )
        rule_of.update(dict.fromkeys(matched, rule))
    plan = {}
    for name, parameter in names.items():
        rule = rule_of.get(name, PartConfig())
        plan[name] = ParameterPlan(
            name,
            part_of.get(id(parameter), OTHER),
            rule.trainable,
            rule.lr_scale,
            muon=optimizer.name == "muon" and id(parameter) in linear and part_of.get(id(parameter)) != HEAD,
            decay=parameter.ndim >= 2 and id(parameter) not in embeddings,
        )
    if not any(entry.trainable for entry in plan.values()):
        raise ValueError("parts: every part is frozen, so there is nothing to train")
    return plan


def freeze(model: nn.Module, plan: Mapping[str, ParameterPlan]) -> None:
    """Set `requires_grad` of every parameter as planned."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(plan[name].trainable)


def build_optimizer(
    model: nn.Module,
    plan: Mapping[str, ParameterPlan],
    config: OptimizerConfig,
    processes: dist.ProcessGroup | None = None,
) -> MuonAdamW:
    """The optimizer over the trainable parameters of `model`, grouped by kind, decay and learning rate.

    Call it after the model stands on its device and is sharded. processes: those that hold the same parameters,
    whole, with the same gradients, and step together; they divide Muon's work.
    """
    grouped: dict[tuple[bool, bool, float, bool], list[Tensor]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        entry = plan[name]
        if entry.trainable:  # torch's kernels take sharded or whole tensors, not both at once
            grouped[entry.muon, entry.decay, entry.lr_scale, isinstance(parameter, DTensor)].append(parameter)
    groups = []
    for (muon, decay, scale, _), parameters in grouped.items():
        base = (config.muon_lr or config.lr) if muon else config.lr
        groups.append(
            {
                "params": parameters,
                "muon": muon,
                "base_lr": base * scale,
                "lr": base * scale,
                "weight_decay": config.weight_decay if decay else 0.0,
            }
        )
    return MuonAdamW(groups, config.betas, config.eps, config.momentum, processes)


class MuonAdamW(torch.optim.Optimizer):
    """AdamW and Muon in one object; a group with `muon: True` is Muon's.

    State per parameter: `step`, `exp_avg`, `exp_avg_sq` under AdamW, `momentum_buffer` under Muon. A
    parameter that never got a gradient has none.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        momentum: float = 0.95,
        processes: dist.ProcessGroup | None = None,
    ) -> None:
        defaults = {"lr": 1e-3, "weight_decay": 0.0, "muon": False, "betas": betas, "eps": eps, "momentum": momentum}
        super().__init__(list(groups), defaults)
        self._processes = processes
        self._adamw: torch.optim.AdamW | None = None
        self._link()

    def _link(self) -> None:
        """Let torch's AdamW work on the very groups and state of this object."""
        groups = [group for group in self.param_groups if not group["muon"]]
        if not groups:
            return
        # Fused: one kernel for all parameters; torch has it for dense float tensors on these devices.
        parameters = [p for group in groups for p in group["params"]]
        fused = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in parameters)
        adamw = torch.optim.AdamW(parameters, fused=fused)
        settings = {key: value for key, value in adamw.param_groups[0].items() if key != "params"}
        for group in groups:
            for key, value in settings.items():
                group.setdefault(key, value)
        adamw.param_groups = groups
        adamw.state = self.state
        self._adamw = adamw

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's; afterwards AdamW is tied to the new groups."""
        super().load_state_dict(state_dict)
        self._link()

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update of every parameter that has a gradient; learning rates are each group's `lr`."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self._adamw is not None:
            self._adamw.step()
        for group in self.param_groups:
            if group["muon"]:
                self._muon(group)
        return loss

    def _muon(self, group: dict[str, Any]) -> None:
        momentum, lr = group["momentum"], group["lr"]
        by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            state = self.state[parameter]
            if not state:
                state["momentum_buffer"] = torch.zeros_like(parameter)
            state["momentum_buffer"].mul_(momentum).add_(parameter.grad)
            by_shape[parameter.shape].append(parameter)
        for shape, members in by_shape.items():
            scale, sharing = 0.2 * math.sqrt(max(shape)), self._sharing(members[0])
            share = dist.get_world_size(sharing) if sharing is not None else 1
            at_once = matrices_at_once(shape.numel(), members[0].device.type)
            # of sharded ones a process holds only rows before they are gathered; copies are all there
            at_once = share * at_once if isinstance(members[0], DTensor) else max(share, at_once)
            for start in range(0, len(members), at_once):
                chunk = members[start : start + at_once]
                gradients = [p.grad for p in chunk if p.grad is not None]  # all have one, see above
                updates = [
                    grad.add(self.state[p]["momentum_buffer"], alpha=momentum)
                    for p, grad in zip(chunk, gradients, strict=True)
                ]
                if share == 1:
                    pieces: Sequence[Tensor] = orthogonalise(torch.stack([_local(u) for u in updates])).unbind()
                elif isinstance(updates[0], DTensor):
                    pieces = _orthogonal_pieces([_local(u) for u in updates], shape, sharing)
                else:
                    pieces = _orthogonal_copies(updates, sharing)
                for parameter, piece in zip(chunk, pieces, strict=True):
                    here = _local(parameter)
                    here.mul_(1 - lr * group["weight_decay"])
                    here.add_(piece.to(here.dtype), alpha=-lr * scale)

    def _sharing(self, parameter: Tensor) -> dist.ProcessGroup | None:
        """The processes that divide the work on this parameter: those with its pieces, or with copies of it."""
        if isinstance(parameter, DTensor):
            return parameter.device_mesh.get_group(parameter.device_mesh.ndim - 1)
        return self._processes


def _orthogonal_copies(matrices: list[Tensor], processes: dist.ProcessGroup | None) -> Sequence[Tensor]:
    """`orthogonalise` matrices float[m, n] that every process has: each does its share, and all get all results."""
    world, rank = dist.get_world_size(processes), dist.get_rank(processes)
    each = -(-len(matrices) // world)
    mine = matrices[each * rank : each * (rank + 1)]
    own = matrices[0].new_zeros(each, *matrices[0].shape)
    if mine:
        own[: len(mine)] = orthogonalise(torch.stack(mine))
    every = own.new_empty(each * world, *matrices[0].shape)
    # the same under a new name; the old one, all there is before torch 2.13, warns where there are both
    gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
    gather(every, own, group=processes)
    return every[: len(matrices)].unbind()


def _orthogonal_pieces(
    pieces: list[Tensor], shape: torch.Size, processes: dist.ProcessGroup | None
) -> Sequence[Tensor]:
    """`orthogonalise` matrices float[m, n] of which every process has some rows, each matrix on one process alone.

    pieces: this process' rows of each matrix; returns the same rows of the results.
    """
    world, rank = dist.get_world_size(processes), dist.get_rank(processes)
    (m, n), each = shape, -(-len(pieces) // world)
    counts = [min(each, max(len(pieces) - each * process, 0)) for process in range(world)]  # of matrices
    rows = rank_rows(m, world)
    sent = torch.cat([piece.flatten() for piece in pieces])  # by matrix, so by the process that takes it
    whole = sent.new_empty(counts[rank] * m * n)
    to_owners = [count * rows[rank] * n for count in counts]
    from_owners = [counts[rank] * here * n for here in rows]
    dist.all_to_all_single(whole, sent, from_owners, to_owners, group=processes)
    if counts[rank]:
        parts = [part.view(counts[rank], here, n) for part, here in zip(whole.split(from_owners), rows, strict=True)]
        result = orthogonalise(torch.cat(parts, dim=1)).to(sent.dtype)
        whole = torch.cat([part.flatten() for part in result.split(rows, dim=1)])
    received = torch.empty_like(sent)
    dist.all_to_all_single(received, whole, to_owners, from_owners, group=processes)
    return received.view(len(pieces), rows[rank], n).unbind()


def rank_rows(rows: int, processes: int) -> list[int]:
    """How many of so many rows each process has, as `torch.chunk` and `fully_shard` divide them."""
    each = -(-rows // processes)
    return [min(each, max(rows - each * process, 0)) for process in range(processes)]


def orthogonalise(matrices: Tensor) -> Tensor:
    """Newton-Schulz iteration: float[K, m, n] -> float[K, m, n] with singular values near 1.

    In BF16 where the device multiplies it natively, else in FP32.
    """
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x.to(torch.bfloat16 if multiplies_bf16(matrices.device) else torch.float32)
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for a, b, c in NEWTON_SCHULZ:
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def multiplies_bf16(device: torch.device) -> bool:
    """Whether the device has native BF16 products; emulated ones are up to 40 times as slow as FP32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        checks = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile"))
        return any(check() for check in checks if check is not None)
    return False


def matrices_at_once(numbers: int, device_type: str) -> int:
    """Matrices of so many numbers in a batched product: on a CPU one fills the cores; on a GPU many save launches."""
    return 1 if device_type == "cpu" else max(1, 2**26 // numbers)


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def schedule_factor(schedule: ScheduleConfig, step: int, total: int) -> float:
    """Factor on the peak learning rate for step `step` of `total`, the first being 0.

    Rises linearly over the warm-up, stays at 1, and falls linearly so that step `total` would be at 0
    (Hu et al., arXiv 2404.06395; linear decay: Hägele et al., arXiv 2405.18392).
    """
    warmup, decay = warmup_steps(schedule, total), decay_steps(schedule, total)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    left = total - step
    return max(0.0, left / (decay + 1)) if left <= decay else 1.0


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Give every group its own peak learning rate times `factor`."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor


class LearningRates:
    """The learning rate of each part of the model, read from the groups that hold its parameters."""

    def __init__(self, optimizer: torch.optim.Optimizer, trained: Iterable[tuple[str, Tensor]]) -> None:
        group_of = {id(p): number for number, group in enumerate(optimizer.param_groups) for p in group["params"]}
        self._optimizer = optimizer
        self._groups: dict[str, set[int]] = defaultdict(set)
        for part, parameter in trained:
            self._groups[part].add(group_of[id(parameter)])

    def by_part(self) -> dict[str, float]:
        """Where a part has several (Muon and AdamW apart, patterns), the highest."""
        groups = self._optimizer.param_groups
        return {part: max(groups[number]["lr"] for number in numbers) for part, numbers in self._groups.items()}
