"""Evaluation on several processes: each answers its share of a batch, and all get all answers.

Every process must ask the same things in the same order, which suites do: they are pure functions of the
samples. Nothing but the engine knows that there are several.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed

from multimodal_ai.functions.schema import FunctionSpec
from multimodal_ai.inference.requests import Reply, Request

T = TypeVar("T")


class ShardedEngine:
    """An engine that shares its work with the same engine on the other processes of the group."""

    def __init__(self, engine: Any) -> None:
        if not torch.distributed.is_initialized():
            raise ValueError("several processes need a process group; start with `accelerate launch` or `torchrun`")
        self.engine = engine
        self.tokenizer = engine.tokenizer
        self.rank = torch.distributed.get_rank()
        self.world = torch.distributed.get_world_size()

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        """As `Engine.generate`."""
        return self._shared(self.engine.generate, requests)

    def score(self, requests: Sequence[Request], replies: Sequence[Any]) -> list[float]:
        """As `Engine.score`."""
        pairs = list(zip(requests, replies, strict=True))
        return self._shared(lambda mine: self.engine.score([r for r, _ in mine], [a for _, a in mine]), pairs)

    def embed_images(self, images: Sequence[Any]) -> torch.Tensor:
        """As `Engine.embed_images`, on the CPU."""
        return torch.stack(self._shared(lambda mine: list(self.engine.embed_images(mine).cpu()), images))

    def embed_texts(self, texts: Sequence[str]) -> torch.Tensor:
        """As `Engine.embed_texts`, on the CPU."""
        return torch.stack(self._shared(lambda mine: list(self.engine.embed_texts(mine).cpu()), texts))

    @property
    def selection_weights(self) -> tuple[float, float]:
        """As `Engine.selection_weights`."""
        return self.engine.selection_weights

    def selection_queries(self, requests: Sequence[Request]) -> torch.Tensor:
        """As `Engine.selection_queries`, on the CPU."""
        return torch.stack(self._shared(lambda mine: list(self.engine.selection_queries(mine).cpu()), requests))

    def function_keys(self, specs: Sequence[FunctionSpec]) -> torch.Tensor:
        """As `Engine.function_keys`, on the CPU."""
        return torch.stack(self._shared(lambda mine: list(self.engine.function_keys(mine).cpu()), specs))

    def _shared(self, work: Callable[[list[Any]], list[T]], items: Sequence[Any]) -> list[T]:
        """Do every `world`-th item here, and put all results back in order."""
        mine = list(items[self.rank :: self.world])
        error: Exception | None = None
        done: list[T] = []
        try:
            done = work(mine) if mine else []
        except Exception as caught:  # told to all first: a process that just ended would leave the others waiting
            error = caught
        shares: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(shares, (done, None if error is None else str(error)))
        if error is not None:
            raise error
        failed = [(rank, text) for rank, (_, text) in enumerate(shares) if text is not None]
        if failed:
            raise ValueError(f"process {failed[0][0]} failed: {failed[0][1]}")
        found: list[Any] = [None] * len(items)
        for rank, (results, _) in enumerate(shares):
            found[rank :: self.world] = results
        return found
