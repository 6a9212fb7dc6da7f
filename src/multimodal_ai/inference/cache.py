"""What the engine has computed once and may need again, kept by content hash and bounded in bytes.

An image, a function card and a whole encoded conversation depend on nothing but themselves and the weights.
The least recently used ones go first. What other weights computed is never given out: `use_weights` clears
the cache when they have changed. One thread at a time.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Hashable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor, nn


class ContentCache:
    """Values by (kind, key), at most `max_bytes` of tensors in all; `hits` and `misses` count by kind."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes, self.bytes = max_bytes, 0
        self.hits: Counter[str] = Counter()
        self.misses: Counter[str] = Counter()
        self._entries: OrderedDict[tuple[str, Hashable], tuple[Any, int]] = OrderedDict()
        self._weights: Hashable = None

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, place: tuple[str, Hashable]) -> bool:
        return place in self._entries

    def use_weights(self, version: Hashable) -> None:
        """Forget everything if `version` is another than before; see `weights_version`."""
        if version != self._weights:
            self._entries.clear()
            self.bytes, self._weights = 0, version

    def get(self, kind: str, key: Hashable) -> Any | None:
        """The value, now the most recently used one, or None."""
        found = self._entries.get((kind, key))
        (self.misses if found is None else self.hits)[kind] += 1
        if found is None:
            return None
        self._entries.move_to_end((kind, key))
        return found[0]

    def put(self, kind: str, key: Hashable, value: Any) -> None:
        """Keep a value whose tensors are its own (no views of larger ones). One that alone is too big is not kept."""
        size = tensor_bytes(value)
        if size > self.max_bytes:
            return
        replaced = self._entries.pop((kind, key), None)
        self.bytes += size - (replaced[1] if replaced else 0)
        self._entries[kind, key] = (value, size)
        while self.bytes > self.max_bytes:
            self.bytes -= self._entries.popitem(last=False)[1][1]


def tensor_bytes(value: Any) -> int:
    """Bytes of all tensors in a value: a tensor, or dataclasses, mappings and sequences of them."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if is_dataclass(value):
        return sum(tensor_bytes(getattr(value, part.name)) for part in fields(value))
    if isinstance(value, Mapping):
        return sum(map(tensor_bytes, value.values()))
    return sum(map(tensor_bytes, value)) if isinstance(value, (list, tuple)) else 0


def weights_version(model: nn.Module) -> int:
    """A number that changes when a parameter is replaced or written to in place (but not through `.data`)."""
    return hash(tuple((id(p), 0 if p.is_inference() else p._version) for p in model.parameters()))
