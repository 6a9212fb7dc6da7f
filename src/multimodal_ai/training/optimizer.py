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
of the iteration as a collective when parameters are sharded (measured 4 times as slow), and gathers none.
"""

from __future__ import annotations

import fnmatch
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, overload

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate

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


def build_optimizer(model: nn.Module, plan: Mapping[str, ParameterPlan], config: OptimizerConfig) -> MuonAdamW:
    """The optimizer over the trainable parameters of `model`, grouped by kind, decay and learning rate.

    Call it after the model stands on its device and is sharded.
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
    return MuonAdamW(groups, config.betas, config.eps, config.momentum)


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
    ) -> None:
        defaults = {"lr": 1e-3, "weight_decay": 0.0, "muon": False, "betas": betas, "eps": eps, "momentum": momentum}
        super().__init__(list(groups), defaults)
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
        by_shape: dict[torch.Size, list[tuple[Tensor, Tensor]]] = defaultdict(list)
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            state = self.state[parameter]
            if not state:
                state["momentum_buffer"] = torch.zeros_like(parameter)
            buffer = state["momentum_buffer"]
            buffer.mul_(momentum).add_(parameter.grad)
            by_shape[parameter.shape].append((parameter, parameter.grad.add(buffer, alpha=momentum)))
        for shape, members in by_shape.items():
            scale = 0.2 * math.sqrt(max(shape))
            for start in range(0, len(members), _batch_size(members[0][0])):
                chunk = members[start : start + _batch_size(members[0][0])]
                whole = [_gather(update) for _, update in chunk]
                orthogonal = orthogonalise(torch.stack(whole))
                for (parameter, _), update in zip(chunk, orthogonal, strict=True):
                    parameter.mul_(1 - lr * group["weight_decay"])
                    parameter.add_(_shard_like(update.to(parameter.dtype), parameter), alpha=-lr * scale)


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


def _batch_size(parameter: Tensor) -> int:
    """Matrices per batched product: on a CPU one fills the cores; on a GPU many save launches."""
    return 1 if parameter.device.type == "cpu" else max(1, 2**26 // parameter.numel())


def _gather(update: Tensor) -> Tensor:
    return update.full_tensor() if isinstance(update, DTensor) else update


def _shard_like(update: Tensor, parameter: Tensor) -> Tensor:
    """This process' piece of an update that every process holds whole; needs no communication."""
    if not isinstance(parameter, DTensor):
        return update
    mesh = parameter.device_mesh
    whole = DTensor.from_local(update, mesh, [Replicate()] * mesh.ndim, run_check=False)
    return whole.redistribute(mesh, parameter.placements)


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
