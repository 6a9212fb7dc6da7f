"""What runs the decoder for a running batch: one interface, PyTorch behind it or OpenVINO.

A `DecodingRows` holds keys and values of the rows of one batch, in the batch's order, and runs one step for all of
them; a `DecodingBackend` makes such rows. They see tokens and tensors, never requests. `TorchBackend` is the
reference and runs on any device; `openvino_decoder` holds the other one.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from multimodal_ai.models.attention import AttentionLayout, lengths_to_valid
from multimodal_ai.models.decoder import KVCache, Memory
from multimodal_ai.models.multimodal_model import MultimodalModel

KeysValues = list[tuple[Tensor, Tensor]]
WIDTH_STEP = 64  # positions by which rows grow


class DecodingRows(Protocol):
    """The decoder's side of the rows of one batch."""

    def add(self, opening: int, memory: KeysValues, written: KeysValues) -> None:
        """One more row, at the end. opening: its first token, which has been run; memory, written: per layer the keys
        and values of the context, float[M, K, E], and of that token, float[1, K, E].
        """

    def remove(self, number: int) -> None:
        """A row leaves, and the last one takes its place."""

    def step(self, tokens: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Run the tokens that each row has written, at least one a row.

        Returns the states behind the last ones, float[n, D], and their logits, float32[n, V]; both are the caller's.
        """


class DecodingBackend(Protocol):
    """Makes rows for any number of batches of one model. name: `torch` or `openvino`; weights: their precision."""

    name: str
    weights: str

    def rows(self) -> DecodingRows:
        """No rows yet."""


def openvino_installed() -> bool:
    return importlib.util.find_spec("openvino") is not None


def decoding_backend(model: MultimodalModel, name: str = "auto", weights: str | None = None) -> DecodingBackend:
    """The back end of that name. `auto`: OpenVINO for a model on a CPU where it is installed, else PyTorch.

    weights: of the decoder, None for those of the model. Anything else than fp32 needs OpenVINO. Raises ValueError
    for what is not there.
    """
    if weights not in (None, "fp32", "bf16", "int8"):
        raise ValueError(f"weights is {weights!r}; it must be fp32, bf16 or int8")
    if name not in ("auto", "torch", "openvino"):
        raise ValueError(f"backend is {name!r}; it must be auto, torch or openvino")
    on_cpu = model.device.type == "cpu"
    if name == "auto":
        name = "openvino" if on_cpu and openvino_installed() else "torch"
    if name == "torch":
        if weights is not None:
            raise ValueError(f"weights {weights} needs the OpenVINO back end: a CPU, and pip install '.[openvino]'")
        return TorchBackend(model)
    if not on_cpu:
        raise ValueError(f"the OpenVINO back end runs on a CPU, the model is on {model.device}; use backend torch")
    if not openvino_installed():
        raise ValueError("the OpenVINO back end is not installed; run pip install '.[openvino]'")
    from multimodal_ai.inference.openvino_decoder import OpenVINOBackend

    return OpenVINOBackend(model, weights or "fp32")


class PaddedRows:
    """A tensor [n, longest, ...] of rows of different lengths, which grows as needed; what is not used is zero."""

    def __init__(self) -> None:
        self._data: Tensor | None = None

    def put(self, row: int, values: Tensor) -> None:
        """values: [L, ...] become row `row`."""
        data = self.reserve(row + 1, len(values), values)
        data[row, : len(values)] = values
        data[row, len(values) :] = 0

    def reserve(self, rows: int, width: int, like: Tensor | None = None) -> Tensor:
        """Room for so many rows and positions; what is there stays."""
        old, like = self._data, self._data if like is None else like
        assert like is not None
        if old is None or rows > old.shape[0] or width > old.shape[1]:
            held = old.shape[:2] if old is not None else (0, 0)
            room = rows if rows <= held[0] else max(rows, 2 * held[0])
            size = (max(room, held[0]), max(-(-width // WIDTH_STEP) * WIDTH_STEP, held[1]))
            self._data = like.new_zeros(*size, *(like.shape[1:] if old is None else old.shape[2:]))
            if old is not None:
                self._data[: held[0], : held[1]] = old
        assert self._data is not None
        return self._data

    def move(self, source: int, target: int) -> None:
        """Row `source` replaces row `target`."""
        assert self._data is not None
        self._data[target] = self._data[source]

    def view(self, rows: int, width: int) -> Tensor:
        """[rows, width, ...], no copy: writing to it writes here."""
        assert self._data is not None
        return self._data[:rows, :width]


@dataclass
class TorchBackend:
    """PyTorch, in whatever precision and on whatever device the model is."""

    model: MultimodalModel
    name = "torch"
    weights: str = "fp32"

    def rows(self) -> TorchRows:
        return TorchRows(self.model)


class TorchRows:
    """See `DecodingRows`."""

    def __init__(self, model: MultimodalModel) -> None:
        self.model = model
        layers = model.config.decoder.layers
        self._memory = [(PaddedRows(), PaddedRows()) for _ in range(layers)]
        self._written = [(PaddedRows(), PaddedRows()) for _ in range(layers)]
        self._sizes: list[int] = []  # positions of each row's context
        self._lengths: list[int] = []  # positions that the decoder has run through
        self._layout: AttentionLayout | None = None

    def add(self, opening: int, memory: KeysValues, written: KeysValues) -> None:
        pairs = (*zip(self._memory, memory, strict=True), *zip(self._written, written, strict=True))
        for tables, values in pairs:
            for table, value in zip(tables, values, strict=True):
                table.put(len(self._sizes), value)
        self._sizes.append(len(memory[0][0]))
        self._lengths.append(1)
        self._layout = None

    def remove(self, number: int) -> None:
        last = len(self._sizes) - 1
        if number != last:
            for pair in (*self._memory, *self._written):
                for table in pair:
                    table.move(last, number)
        for values in (self._sizes, self._lengths):
            values[number] = values[last]
            values.pop()
        self._layout = None

    def step(self, tokens: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        n, device = len(tokens), self.model.device
        counts = [len(written) for written in tokens]
        width = max(counts)
        ids = torch.tensor([[*written, *[0] * (width - len(written))] for written in tokens])
        longest = max(self._lengths) + width
        for k, v in self._written:
            k.reserve(n, longest)
            v.reserve(n, longest)
        cache = KVCache(
            [k.view(n, longest) for k, _ in self._written],
            [v.view(n, longest) for _, v in self._written],
            torch.tensor(self._lengths, device=device),
        )
        where = torch.tensor(counts, device=device)
        states, _ = self.model.decoder.step(self.model.embed_target(ids.to(device)), where, self._context(), cache)
        self._lengths = [length + count for length, count in zip(self._lengths, counts, strict=True)]
        last = states[torch.arange(n, device=device), where - 1]
        return last, self.model.logits(last)

    def _context(self) -> Memory:
        n, longest = len(self._sizes), max(self._sizes)
        if self._layout is None:
            sizes = torch.tensor(self._sizes, device=self.model.device)
            self._layout = AttentionLayout(key_valid=lengths_to_valid(sizes, longest))
        return Memory([(k.view(n, longest), v.view(n, longest)) for k, v in self._memory], self._layout)
