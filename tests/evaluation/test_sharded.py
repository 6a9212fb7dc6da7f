"""Two processes share the work of an engine and see the same results as one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed

from multimodal_ai.evaluation.sharded import ShardedEngine
from multimodal_ai.inference.requests import Reply, Request


class Counting:
    """Answers with the request's words and counts how much it was asked."""

    tokenizer = SimpleNamespace()

    def __init__(self) -> None:
        self.answered = 0

    def generate(self, requests: list[Request]) -> list[Reply]:
        self.answered += len(requests)
        words = [str(request.messages[0]["content"]) for request in requests]
        if "fail" in words:
            raise ValueError("this request fails")
        return [Reply(word) for word in words]

    def embed_texts(self, texts: list[str]) -> torch.Tensor:
        return torch.tensor([[float(len(text)), 0.0] for text in texts])


def asking(*words: str) -> list[Request]:
    return [Request([{"role": "user", "content": word}]) for word in words]


def work(rank: int, folder: str) -> None:
    """What each of the two processes does."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    engine = Counting()
    shared: Any = ShardedEngine(engine)
    found = shared.generate(asking("a", "b", "c"))
    assert [reply.content for reply in found] == ["a", "b", "c"]
    assert engine.answered == (2 if rank == 0 else 1)
    assert [reply.content for reply in shared.generate(asking("alone"))] == ["alone"]  # one has nothing to do
    assert shared.embed_texts(["x", "yy", "zzz"])[:, 0].tolist() == [1, 2, 3]
    with pytest.raises(ValueError, match="this request fails"):
        shared.generate(asking("fine", "fail"))  # fails on the second process, and none is left waiting
    torch.distributed.destroy_process_group()


def test_two_processes_give_all_results_in_order(tmp_path: Path) -> None:
    started = [
        subprocess.Popen([sys.executable, __file__, str(rank), str(tmp_path)], stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    ended = [(process.communicate(timeout=120)[1], process.returncode) for process in started]
    assert [code for _, code in ended] == [0, 0], "\n".join(text for text, _ in ended)


def test_without_a_group_it_says_how_to_start() -> None:
    with pytest.raises(ValueError, match="accelerate launch"):
        ShardedEngine(Counting())


if __name__ == "__main__":
    work(int(sys.argv[1]), sys.argv[2])
