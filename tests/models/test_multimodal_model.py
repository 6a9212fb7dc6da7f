"""The model as a whole: both fusions, gradients everywhere, cached decoding, sizes up to 7B."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tests.conftest import build_model

from multimodal_ai.data.packing import Batch
from multimodal_ai.data.tokenizer import Tokenizer
from multimodal_ai.models import ModelConfig, MultimodalModel
from multimodal_ai.models.describe import describe
from multimodal_ai.models.layers import Attention
from multimodal_ai.training.losses import TERMS, TrainingObjective

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "models").glob("*.yaml"))


@pytest.mark.parametrize("fusion", ["projection", "cross_attention"])
def test_every_parameter_gets_a_gradient(fusion: str, small_tokenizer: Tokenizer, micro_batches: Any) -> None:
    model = build_model(small_tokenizer, fusion).train()
    slots = "one" if fusion == "cross_attention" else "patches"
    data = micro_batches(24, 24)
    data.renderer.config = data.renderer.config.model_copy(update={"image_slots": slots})
    batch = data[0]
    sums = TrainingObjective(model)(batch)
    assert set(sums) == set(TERMS)
    sum(sums.values()).backward()  # type: ignore[union-attr]
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not without
    idle = [name for name, parameter in model.named_parameters() if not parameter.grad.abs().sum()]  # type: ignore[union-attr]
    # behind a gate of exactly 0 nothing learns in the first step but the gate itself
    behind_gate = ("fusion.layers", "fusion.latents", "fusion.resample", "fusion.mlp", "vision.norm", "vision.blocks")
    assert all(name.startswith((*behind_gate, "vision.stem")) for name in idle) if slots == "one" else not idle


def test_a_closed_gate_hides_the_image(small_tokenizer: Tokenizer, micro_batches: Any) -> None:
    model = build_model(small_tokenizer, "cross_attention")
    data = micro_batches(8, 8)
    data.renderer.config = data.renderer.config.model_copy(update={"image_slots": "one"})
    batch = data[0]
    before = model(batch).context.states
    batch.patches = 255 - batch.patches
    assert torch.equal(model(batch).context.states, before)
    torch.nn.init.ones_(model.fusion.layers[0].gate)  # type: ignore[union-attr, arg-type, index]
    assert not torch.equal(model(batch).context.states, before)


@torch.inference_mode()
def test_decoding_with_a_cache_equals_teacher_forcing(small_model: MultimodalModel, micro_batches: Any) -> None:
    batch: Batch = micro_batches(8, 8)[0]
    out = small_model(batch)
    memory = small_model.decoder.memory(out.context)
    B, T = batch.target_ids.shape
    cache = small_model.decoder.new_cache(B, T + 4, torch.device("cpu"), torch.float32)
    embedded = small_model.embed_target(batch.target_ids)
    position, pieces = 0, []
    for width in (1, 3, 1, 2, T):  # steps of different widths
        part = embedded[:, position : position + width]
        if not part.shape[1]:
            break
        counts = torch.full((B,), part.shape[1])
        states, _ = small_model.decoder.step(part, counts, memory, cache)
        pieces.append(states)
        position += part.shape[1]
    real = torch.arange(T) < batch.target_lengths[:, None]  # teacher forcing leaves the places behind a row's end empty
    torch.testing.assert_close(torch.cat(pieces, 1)[real], out.decoder_states[real], rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_rows_of_a_cache_may_stand_at_different_lengths(small_model: MultimodalModel, micro_batches: Any) -> None:
    batch: Batch = micro_batches(4, 4)[0]
    out = small_model(batch)
    memory = small_model.decoder.memory(out.context)
    cache = small_model.decoder.new_cache(4, 40, torch.device("cpu"), torch.float32)
    embedded = small_model.embed_target(batch.target_ids[:, :2].repeat(1, 3))
    whole = small_model.decoder(embedded, torch.full((4,), embedded.shape[1]), out.context)[0]
    counts = torch.tensor([1, 2, 3, 1])
    states, _ = small_model.decoder.step(embedded[:, :3], counts, memory, cache)
    rest = torch.stack([embedded[row, count : count + 2] for row, count in enumerate(counts.tolist())])
    states, _ = small_model.decoder.step(rest, torch.full((4,), 2), memory, cache)
    for row, count in enumerate(counts.tolist()):
        torch.testing.assert_close(states[row, 1], whole[row, count + 1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_size_is_described_on_the_meta_device(path: Path) -> None:
    config = ModelConfig.model_validate(yaml.safe_load(path.read_text()))
    rows = {row.name: row for row in describe(config)}
    assert rows["total"].parameters >= sum(row.parameters for name, row in rows.items() if name != "total")
    low, high = {"tiny": (4e6, 12e6), "small": (25e6, 30e6), "base": (2.5e8, 3.2e8), "large": (1.4e9, 1.7e9),
                 "xl": (6.5e9, 7.5e9)}[path.stem]  # fmt: skip
    assert low <= rows["total"].parameters <= high
    assert all(row.flops > 0 for row in rows.values())


def test_described_flops_agree_with_a_count_of_operators(small_tokenizer: Tokenizer) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    model = build_model(small_tokenizer)
    config = model.config
    rows = {row.name: row.flops for row in describe(config)}
    for module in model.modules():
        if isinstance(module, Attention):
            module.backend = "matmul"  # the fused kernel of a CPU is not counted
    with FlopCounterMode(display=False) as counter:
        model.encode_images(torch.zeros(1, 64, 192, dtype=torch.uint8), torch.tensor([[8, 8]]))
    counted = counter.get_total_flops()
    assert 0.9 < counted / (rows["vision"] + rows["fusion"]) < 1.1


def test_a_wrong_folder_and_wrong_weights_are_refused(tmp_path: Path, small_model: MultimodalModel) -> None:
    with pytest.raises(ValueError, match=r"no config\.json"):
        MultimodalModel.from_pretrained(tmp_path)
    small_model.save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"hidden": 48', '"hidden": 56'))
    with pytest.raises(ValueError, match="do not fit"):
        MultimodalModel.from_pretrained(tmp_path)


def test_slots_and_their_description_must_agree(small_model: MultimodalModel, micro_batches: Any) -> None:
    batch: Batch = micro_batches(8, 8)[0]
    batch.slot_image = batch.slot_image[:-1]
    with pytest.raises(ValueError, match="must agree"):
        small_model(batch)
