"""What a checkpoint holds of a run: its tensors by flat name, who writes which, and a copy that stands still.

A tensor that several processes have is one process' to write, and only that one copies it. Nothing here touches a
file, and a copy must never share memory with what goes on being trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from multimodal_ai.training.distributed import Distribution, local


def state_tensors(objective: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """All tensors of a run by flat name: `model/<name>` and `optimizer/<name>/<state>`."""
    tensors = {f"model/{name}": tensor for name, tensor in objective.state_dict().items()}
    for name, parameter in objective.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer/{name}/{key}"] = value
    return tensors


def empty_states(
    objective: nn.Module, optimizer: torch.optim.Optimizer, stored: Mapping[str, Any]
) -> dict[str, Tensor]:
    """Room for the optimizer state that a checkpoint has, for parameters that are trained now.

    stored: torch's description of each tensor of the checkpoint (`Metadata.state_dict_metadata`).
    """
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    parameters = dict(objective.named_parameters())
    states = {}
    for key, entry in stored.items():
        kind, _, rest = key.partition("/")
        name, _, _ = rest.rpartition("/")
        parameter = parameters.get(name)
        if kind != "optimizer" or parameter is None or id(parameter) not in trained:
            continue
        if entry.size == parameter.shape and parameter.ndim:
            states[key] = torch.zeros_like(parameter, requires_grad=False)
        else:
            states[key] = torch.zeros(entry.size, dtype=entry.properties.dtype, device=local(parameter).device)
    return states


def own_share(tensors: Mapping[str, Tensor], distribution: Distribution) -> dict[str, Tensor]:
    """The tensors that this process writes: of pieces that several processes have, each has about as many bytes."""
    own: dict[str, Tensor] = {}
    given: dict[tuple[int, bool], list[int]] = {}  # bytes that each holder of the same pieces writes
    for name, tensor in sorted(tensors.items(), key=lambda item: (-item[1].numel(), item[0])):
        copies, number = _holders(tensor, distribution)
        bytes_of = given.setdefault((copies, isinstance(tensor, DTensor)), [0] * copies)
        writer = bytes_of.index(min(bytes_of))
        bytes_of[writer] += tensor.numel() * tensor.element_size()
        if writer == number:
            own[name] = tensor
    return own


def _holders(tensor: Tensor, distribution: Distribution) -> tuple[int, int]:
    """How many processes have the same piece of a tensor as this one, and which of them this one is."""
    if not isinstance(tensor, DTensor):
        return distribution.world_size, distribution.rank
    mesh = tensor.device_mesh
    return (mesh.size(0), mesh.get_local_rank(0)) if mesh.ndim == 2 else (1, 0)  # HSDP: (copies, pieces)


def snapshot(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A copy of each tensor in main memory, as it is now; sharded ones stay sharded. From a GPU into pinned memory."""
    copies = {name: tensor.detach().to("cpu", non_blocking=True, copy=True) for name, tensor in tensors.items()}
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return copies
