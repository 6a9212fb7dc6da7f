from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st

from multimodal_ai.training.state import own_share, snapshot


@given(sizes=st.lists(st.integers(0, 1000), max_size=30), world=st.integers(1, 8))
def test_each_tensor_is_one_process_to_write_and_all_write_alike(sizes: list[int], world: int):
    tensors = {f"model/{number}": torch.empty(size) for number, size in enumerate(sizes)}
    shares: list[dict[str, Any]] = []
    for rank in range(world):
        shares.append(own_share(tensors, SimpleNamespace(rank=rank, world_size=world)))  # type: ignore[arg-type]
    names = [name for share in shares for name in share]
    assert sorted(names) == sorted(tensors)
    loads = [sum(tensor.nbytes for tensor in share.values()) for share in shares]
    assert max(loads) - min(loads) <= 4 * max(sizes, default=0)


def test_a_snapshot_stands_still():
    weight = torch.nn.Parameter(torch.ones(3))
    step = torch.tensor(1.0)
    copies = snapshot({"weight": weight, "step": step})
    with torch.no_grad():
        weight.add_(1)
        step.add_(1)
    assert copies["weight"].tolist() == [1, 1, 1] and copies["step"].item() == 1
    assert not copies["weight"].requires_grad
