"""Attention written out for looking at it: the weights are those that attending uses, cards and packing included."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from multimodal_ai.data.messages import Sample
from multimodal_ai.evaluation.common import to_request
from multimodal_ai.inference import Engine
from multimodal_ai.models.attention import AttentionLayout, Packing
from multimodal_ai.models.layers import Attention, BlockConfig, rotary_angles


@pytest.mark.parametrize("causal", [True, False])
def test_the_weights_are_those_of_the_values(causal: bool) -> None:
    torch.manual_seed(0)
    attention = Attention(BlockConfig(width=32, layers=1, heads=4, kv_heads=2, hidden=8))
    packing = Packing([5, 2, 7], 7)
    x = torch.randn(packing.count, 32)
    layout = AttentionLayout(None if causal else packing.valid, causal=causal, packing=packing)
    angles = rotary_angles(packing.unpad(torch.arange(7)[None, :, None]), 8, 100.0)
    k, v = attention.keys_values(x, angles)
    weights = attention.weights(x, (k, v), layout, angles)
    values = packing.pad(v).repeat_interleave(2, 2)
    written_out = attention.out(torch.einsum("bths,bshe->bthe", weights, values).flatten(2))
    attended = packing.pad(attention(x, (k, v), layout, angles))
    assert torch.allclose(written_out[packing.valid], attended[packing.valid], atol=1e-5)


def test_a_look_is_a_pass_that_tells_where_it_looked(engine: Engine, samples: dict[str, list[Sample]]) -> None:
    model, heard = engine.model, list[Any]()
    examples = [engine.encoder.example(to_request(sample)[0]) for sample in samples["digits"][:4]]
    examples += [engine.encoder.example(to_request(sample)[0]) for sample in samples["easy_vqa"][:1]]  # no functions
    for number, example in enumerate(examples):
        example.target.ids = example.target.ids * (number + 1)
    batch = engine.encoder.batch(examples)
    last = model.decoder.blocks[-1].cross_attention
    assert isinstance(last, Attention)
    with torch.inference_mode():
        context = engine.encoder.context(examples, batch)
        given = (model.embed_target(batch.target_ids), batch.target_lengths, context)
        states, looked = model.decoder.look(*given)
        hook = last.register_forward_hook(lambda _, asked, out: heard.append((asked, out)))
        assert torch.equal(states, model.decoder(*given)[0])
        hook.remove()
        (x, (k, v), layout), attended = heard[0]
        weights = last.weights(x, (k, v), layout)  # [B, T, H, S]
        values = context.keys.padded(v).repeat_interleave(2, 2)
        written_out = last.out(torch.einsum("bths,bshe->bthe", weights, values).flatten(2))
    real = layout.packing.valid
    assert torch.allclose(written_out[real], layout.packing.pad(attended)[real], atol=1e-5)
    assert len(looked) == len(model.decoder.blocks) and torch.equal(looked[-1], weights.mean(2))
    assert torch.allclose(looked[-1][real].sum(-1), torch.ones(int(real.sum())), atol=1e-5)
    assert not (looked[-1] * ~context.key_valid[:, None])[real].any(), "padding is not looked at"
