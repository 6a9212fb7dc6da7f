"""Weights on disk: one safetensors file in float32, bfloat16 or 8 bits; in memory they are always float32.

In 8 bits every row of a matrix is whole numbers from -127 to 127 and one float32 scale, which stands beside it
under the name with `::scale`; everything else stays float32. Whoever reads a file need not know how it was stored.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

Storage = Literal["float32", "bfloat16", "int8"]
SCALE = "::scale"
SMALLEST = 1024  # numbers of a matrix from which 8 bits save anything worth its error


def save_weights(state: Mapping[str, Tensor], file: Path, storage: Storage = "float32") -> None:
    """Write named tensors aside and rename the file into place.

    Raises:
        ValueError: an unknown `storage`; with 8 bits, weights that are not finite.
    """
    if storage not in get_args(Storage):
        raise ValueError(f"weights cannot be stored as {storage}; there are {', '.join(get_args(Storage))}")
    stored: dict[str, Tensor] = {}
    for name, value in state.items():
        value = value.detach().cpu().contiguous()
        if storage == "int8" and value.ndim == 2 and value.numel() >= SMALLEST:
            if not value.isfinite().all():
                raise ValueError(f"{name} holds NaN or infinite values; nothing was written")
            stored[name], stored[name + SCALE] = quantised(value)
        elif storage == "bfloat16" and value.is_floating_point():
            stored[name] = value.to(torch.bfloat16)
        else:
            stored[name] = value
    aside = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        save_file(stored, aside, metadata={"format": "pt"})
        os.replace(aside, file)
    finally:
        aside.unlink(missing_ok=True)


def load_weights(file: Path, device: torch.device) -> dict[str, Tensor]:
    """What `save_weights` wrote, as float32 on the device."""
    place = "cpu" if device.type == "cpu" else str(device)  # a launched process has cpu:0, which safetensors refuses
    stored = load_file(file, device=place)
    return {
        name: value.float() * stored[name + SCALE] if name + SCALE in stored else _widened(value)
        for name, value in stored.items()
        if not name.endswith(SCALE)
    }


def quantised(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """float[N, M] -> int8[N, M] and float32[N, 1] whose product is the matrix within half a step of each row."""
    scale = matrix.float().abs().amax(dim=1, keepdim=True) / 127
    steps = matrix.float() / scale.clamp(min=torch.finfo(torch.float32).tiny)
    return steps.round().clamp(-127, 127).to(torch.int8), scale


def _widened(value: Tensor) -> Tensor:
    return value.float() if value.is_floating_point() else value
