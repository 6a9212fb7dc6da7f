"""What a config builds: parts, shapes, parameters, and the FLOPs of one sample. Runs on the meta device,
so a 7B config is described in seconds without its memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from multimodal_ai.models.layers import BlockConfig
from multimodal_ai.models.multimodal_model import ModelConfig, MultimodalModel
from multimodal_ai.models.vision_encoder import Stem


@dataclass(frozen=True)
class PartDescription:
    """One part: what it is made of, its parameters, and the FLOPs of a forward pass for one sample."""

    name: str
    shape: str
    parameters: int
    flops: float


@dataclass(frozen=True)
class SampleShape:
    """Sizes of the sample that FLOPs and memory are counted for, in tokens (patches for the image)."""

    patches: int = 64  # of its one image; 0: no image
    source: int = 128  # conversation without visual tokens
    cards: int = 160  # function cards of the sample, together; 0: no functions
    target: int = 64
    values: int = 16  # target tokens inside argument values, where the pointer is computed
    functions: int = 2


def _stack(config: BlockConfig, cross: bool = False) -> str:
    text = f"{config.layers} layers × {config.width} wide, {config.heads} heads ({config.kv_heads} kv), "
    return text + f"hidden {config.hidden}" + (", cross-attention" if cross else "")


def multiply_adds(module: nn.Module) -> int:
    """Multiply-adds of a part's linears for one token or patch; a convolution counts once for each of its outputs."""
    total = sum(child.weight.numel() for child in module.modules() if isinstance(child, nn.Linear))
    for stem in (child for child in module.modules() if isinstance(child, Stem)):
        kernels = (cast(nn.Linear, linear).weight.numel() for linear in stem.convolutions)
        total += sum(size * (outputs - 1) for size, outputs in zip(kernels, stem.outputs, strict=True))
    return total


def _attention_flops(config: BlockConfig, queries: int, keys: int) -> float:
    """Both products of one stack's attention: 2 * 2 * queries * keys * width a layer."""
    return 4.0 * config.layers * queries * keys * config.width


def describe(config: ModelConfig, sample: SampleShape | None = None) -> list[PartDescription]:
    """Describe every part of the model of `config`, and the whole as the last entry.

    FLOPs count a multiply-add as two: linears over the tokens that pass through them, and both products
    of attention; norms and activations are left out. Training costs three times as much.
    """
    sample = sample or SampleShape()
    with torch.device("meta"):
        model = MultimodalModel(config)
    parts = model.parts()
    visual = sample.patches // config.fusion.merge**2
    if config.fusion.kind == "cross_attention":
        visual = 1
    conversation = sample.source + visual
    context = conversation + sample.cards
    linear = {name: multiply_adds(part) for name, part in parts.items()}
    cross_kv = 2 * config.decoder.layers * config.text.width * config.decoder.kv_heads * config.decoder.head_width
    flops = {
        "vision": 2.0 * linear["vision"] * sample.patches
        + _attention_flops(config.vision, sample.patches, sample.patches),
        "fusion": 2.0 * linear["fusion"] * max(visual, config.fusion.latents if visual == 1 else visual),
        "text": 2.0 * linear["text"] * context
        + _attention_flops(config.text, conversation, context)
        + _attention_flops(config.text, sample.cards, sample.cards),
        "decoder": 2.0 * (linear["decoder"] - cross_kv) * sample.target
        + 2.0 * cross_kv * context
        + _attention_flops(config.decoder, sample.target, sample.target)
        + _attention_flops(config.decoder, sample.target, context),
        "head": 2.0 * linear["head"],
        "embedding": 2.0 * config.vocab_size * config.text.width * sample.target,
    }
    shapes = {
        "vision": f"patch {config.vision.patch_size}, " + _stack(config.vision),
        "fusion": f"{config.fusion.kind}, "
        + (
            f"{config.fusion.latents} latents"
            if config.fusion.kind == "cross_attention"
            else f"{config.fusion.merge}×{config.fusion.merge} patches a token"
        ),
        "text": _stack(config.text),
        "decoder": _stack(config.decoder, cross=True),
        "head": f"trigger, selection, presence, pointer; {config.head.width} wide",
        "embedding": f"{config.vocab_size} × {config.text.width}, shared by encoder, decoder and output",
    }
    rows = [
        PartDescription(name, shapes[name], sum(p.numel() for p in part.parameters()), flops[name])
        for name, part in parts.items()
    ]
    total = sum(p.numel() for p in model.parameters())
    whole = f"{sample.patches} patches, {conversation} source, {sample.cards} card and {sample.target} target tokens"
    return [*rows, PartDescription("total", whole, total, sum(flops.values()))]
