"""T5Gemma 2 of `transformers` with random weights and the shapes of one of this project's models.

What `benchmarks/train.py` compares with. Width, layers, heads, hidden size, vocabulary and numbers of tokens are the
same; what differs is how the model is built: T5Gemma 2 has norms behind its sublayers too, one attention over target
and context in the decoder, and a ViT (SigLIP) whose heads are not grouped and whose MLP is not gated (its hidden size
is one and a half times as large, which makes the same number of weights).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import T5Gemma2Config, T5Gemma2ForConditionalGeneration

from multimodal_ai.models import ModelConfig
from multimodal_ai.models.layers import BlockConfig

IGNORED = -100


@dataclass(frozen=True)
class Shape:
    """Sizes of a sample: image of `side` x `side` pixels, source tokens (visual ones among them), target tokens."""

    side: int
    source: int
    target: int
    batch: int


@dataclass(frozen=True)
class SyntheticSample:
    """One sample of random numbers, as both sides get it: uint8[3, side, side] pixels, source ids behind the image's
    place, target ids.
    """

    pixels: Tensor
    source: list[int]
    target: list[int]


def visual_tokens(model: ModelConfig, side: int) -> int:
    """Tokens that an image takes in the source."""
    return (side // model.vision.patch_size // model.fusion.merge) ** 2


def peer_model(model: ModelConfig, shape: Shape, attention: str = "sdpa") -> T5Gemma2ForConditionalGeneration:
    """The peer on the CPU, in FP32. attention: `sdpa`, or `eager`, whose products an operator count sees."""

    def stack(config: BlockConfig) -> dict[str, object]:
        return {
            "vocab_size": model.vocab_size,
            "hidden_size": config.width,
            "intermediate_size": config.hidden,
            "num_hidden_layers": config.layers,
            "num_attention_heads": config.heads,
            "num_key_value_heads": config.kv_heads,
            "head_dim": config.head_width,
            "query_pre_attn_scalar": config.head_width,
            "layer_types": ["full_attention"] * config.layers,
            "max_position_embeddings": 4096,
        }

    vision = model.vision
    config = T5Gemma2Config(
        encoder={
            "text_config": stack(model.text),
            "vision_config": {
                "model_type": "siglip_vision_model",
                "hidden_size": vision.width,
                "intermediate_size": vision.hidden * 3 // 2,
                "num_hidden_layers": vision.layers,
                "num_attention_heads": vision.heads,
                "image_size": shape.side,
                "patch_size": vision.patch_size,
                "vision_use_head": False,
            },
            "mm_tokens_per_image": visual_tokens(model, shape.side),
            "boi_token_index": model.vocab_size - 3,
            "eoi_token_index": model.vocab_size - 2,
            "image_token_index": model.vocab_size - 1,
        },
        decoder=stack(model.decoder),
        image_token_index=model.vocab_size - 1,
        eoi_token_index=model.vocab_size - 2,
        attn_implementation=attention,
    )
    return T5Gemma2ForConditionalGeneration(config).train()


def peer_batch(model: ModelConfig, shape: Shape, samples: list[SyntheticSample]) -> dict[str, Tensor]:
    """Samples padded to the longest, as the peer's own collators do; pixels are already normalised."""
    image = [model.vocab_size - 1] * visual_tokens(model, shape.side)
    sources = [image + sample.source for sample in samples]
    S, T = max(map(len, sources)), max(len(sample.target) for sample in samples)
    ids = torch.tensor([row + [0] * (S - len(row)) for row in sources])
    mask = torch.tensor([[1] * len(row) + [0] * (S - len(row)) for row in sources])
    labels = torch.tensor([sample.target + [IGNORED] * (T - len(sample.target)) for sample in samples])
    pixels = torch.stack([sample.pixels for sample in samples]).float() / 127.5 - 1.0
    return {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels, "labels": labels}


def peer_loss(peer: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """The peer's own loss."""
    loss: Tensor = peer(**batch, use_cache=False).loss
    return loss
