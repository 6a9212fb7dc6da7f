"""Blocks are compiled once per kind, however long the batches are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.conftest import build_model
from torch import nn
from torch._dynamo.utils import counters

from multimodal_ai.data.tokenizer import Tokenizer
from multimodal_ai.training.config import TrainerConfig
from multimodal_ai.training.distributed import Distribution, start_accelerator
from multimodal_ai.training.losses import TrainingObjective


@pytest.mark.parametrize("checkpointing", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_blocks_are_not_compiled_for_every_size(
    checkpointing: bool, small_tokenizer: Tokenizer, micro_batches: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiling = nn.Module.compile  # only tracing counts here: the code that torch would generate takes minutes
    monkeypatch.setattr(nn.Module, "compile", lambda module, **options: compiling(module, backend="eager", **options))
    torch._dynamo.reset()
    counters.clear()
    config = {"stage": "pretraining", "output_dir": "unused", "schedule": {"steps": 1}, "compile": True}
    config["activation_checkpointing"] = checkpointing
    objective = TrainingObjective(build_model(small_tokenizer))
    distribution = Distribution(objective, TrainerConfig.model_validate(config), start_accelerator("fp32"))
    data, sizes = micro_batches(4, 4), set()
    for number in range(10):
        batch = data[number]
        sizes.add((batch.source_ids.shape[1], batch.text_ids.shape, batch.patches.shape))
        torch.stack(list(distribution.module(batch).values())).sum().backward()
    assert len(sizes) >= 8 and not counters["graph_break"]
    assert counters["stats"]["unique_graphs"] <= 6  # vision, text with and without cards, decoder; some once more
