"""The FLOPs behind the MFU are those of the operators that run, where nothing is padded."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from multimodal_ai.data.examples import Example
from multimodal_ai.data.image_processor import ProcessedImage
from multimodal_ai.data.packing import Batch, collate
from multimodal_ai.data.rendering import IMAGE, USER, Card, Source, Target
from multimodal_ai.models import ModelConfig, MultimodalModel
from multimodal_ai.models.layers import Attention
from multimodal_ai.training.flops import TrainingFlops
from multimodal_ai.training.losses import TrainingObjective

S, T, C = 64, 48, 32  # source (16 of it visual), target and card tokens of every sample


def whole_batch(size: int = 4) -> Batch:
    """Samples that fill their batch: every length is the longest."""
    examples = []
    for number in range(size):
        patches = torch.full((64, 192), number, dtype=torch.uint8)
        source = Source([0] * 16 + [30] * (S - 16), [False] * S, [IMAGE] * 16 + [USER] * (S - 16),
                        [(place, 0, place) for place in range(16)])  # fmt: skip
        target = Target([30] * T, [31] * T, [1.0] * T, [None] * T, [-1] * T)
        card = Card((32,) * C, (False,) * C, (0,) * C, key=str(number))
        examples.append(Example(source, target, (card,), [0.0], [[True]], [ProcessedImage(patches, (8, 8))],
                                trigger=1, selection=[1.0, 0.0], presence=[[1]]))  # fmt: skip
    return collate(examples, 192, space=29)


@pytest.fixture
def model() -> MultimodalModel:
    stack = {"width": 128, "layers": 4, "heads": 4, "kv_heads": 2, "hidden": 344}
    config = {"vocab_size": 500, "vision": {**stack, "patch_size": 8}, "text": stack, "decoder": stack}
    model = MultimodalModel(ModelConfig.model_validate({**config, "head": {"width": 32}}))
    for module in model.modules():
        if isinstance(module, Attention):
            module.backend = "matmul"  # the fused kernel of a CPU is not counted
    return model


def test_every_part_costs_what_its_operators_cost(model: MultimodalModel) -> None:
    batch = whole_batch()
    objective, flops = TrainingObjective(model), TrainingFlops(model)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        objective(batch)
    counted = {name.removeprefix("TrainingObjective.model."): sum(operators.values())
               for name, operators in counter.get_flop_counts().items()}  # fmt: skip
    parts = {part: counted[part] for part in ("vision", "decoder")}
    parts["fusion"] = counted["fusion.project"]
    # cards are encoded by a method of the text encoder, which the counter does not take for a part of it
    parts["text"] = counted["TrainingObjective.model"] - sum(parts.values()) - counted["head"]
    expected = flops.forward(batch)
    decoder = model.config.decoder
    # causal attention looks at half of what a product without a kernel of its own computes
    expected["decoder"] += 2 * len(batch.labels) * decoder.layers * T * T * decoder.width
    for part, operators in parts.items():
        assert 0.97 < expected[part] / operators < 1.03, part
    assert 0.98 < sum(expected.values()) / counted["Global"] < 1.02


def test_training_costs_three_times_the_forward_pass(model: MultimodalModel) -> None:
    batch = whole_batch()
    objective, flops = TrainingObjective(model), TrainingFlops(model)
    with FlopCounterMode(display=False) as counter:
        torch.stack(list(objective(batch).values())).sum().backward()
    assert 0.97 < flops(batch) / counter.get_total_flops() < 1.02


def test_padding_is_not_counted(model: MultimodalModel) -> None:
    flops, batch = TrainingFlops(model), whole_batch()
    before = flops(batch)
    batch.source_ids = torch.cat((batch.source_ids, torch.zeros(4, 64, dtype=torch.long)), 1)  # lengths stay
    batch.source_space = torch.cat((batch.source_space, torch.zeros(4, 64, dtype=torch.bool)), 1)
    assert flops(batch) == before
    batch.source_lengths = batch.source_lengths - 8
    assert flops(batch) < before
