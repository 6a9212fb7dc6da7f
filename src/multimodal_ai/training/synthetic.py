"""Micro-batches made of sizes alone: samples are alike, and the ids mean nothing.

Every second sample is a token shorter, because a batch without any padding takes other paths. For what
depends on shapes only: memory, and FLOPs. They go through the same `collate` as real samples, so that
whatever the model and the losses read is there. Never train on them.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from multimodal_ai.data.examples import Example
from multimodal_ai.data.image_processor import ProcessedImage
from multimodal_ai.data.packing import Batch, collate
from multimodal_ai.data.rendering import IMAGE, USER, Card, Source, Target
from multimodal_ai.data.tokenizer import SPECIAL_TOKENS
from multimodal_ai.models.describe import SampleShape
from multimodal_ai.models.multimodal_model import ModelConfig

PARAMETERS = 3  # of each function
MULTIPLE = 16  # as in training: data.dataset pads to it


def synthetic_batch(config: ModelConfig, sample: SampleShape, size: int) -> Batch:
    """A micro-batch of `size` samples of these sizes for the model of `config`.

    Raises:
        ValueError: no image of the model has so many patches, or the vocabulary has special tokens only.
    """
    if config.vocab_size <= len(SPECIAL_TOKENS):
        raise ValueError(f"vocab_size {config.vocab_size}: the special tokens alone are {len(SPECIAL_TOKENS)}")
    examples = [_example(config, sample, number) for number in range(size)]
    return collate(examples, 3 * config.vision.patch_size**2, space=len(SPECIAL_TOKENS), multiple=MULTIPLE)


def image_grid(patches: int, merge: int) -> tuple[int, int]:
    """Rows and columns of an image of so many patches, as square as can be.

    Raises:
        ValueError: both cannot be multiples of `merge`; the message names a number of patches that works.
    """
    cells, rest = divmod(patches, merge**2)
    if rest or not cells:
        raise ValueError(
            f"patches {patches}: must be a multiple of {merge**2} (fusion.merge {merge}), or 0 for no image"
        )
    rows = next(side for side in range(math.isqrt(cells), 0, -1) if cells % side == 0)
    return rows * merge, cells // rows * merge


def _example(config: ModelConfig, sample: SampleShape, number: int) -> Example:
    shorter = number % 2
    sample = replace(
        sample,
        source=sample.source - shorter,
        target=sample.target - shorter,
        cards=max(sample.cards - shorter, 0),
    )
    images, slots = [], 0
    if sample.patches:
        grid = image_grid(sample.patches, config.fusion.merge)
        pixels = torch.zeros(sample.patches, 3 * config.vision.patch_size**2, dtype=torch.uint8)
        pixels[0, :4] = torch.tensor([number >> shift & 255 for shift in (0, 8, 16, 24)])  # no two are equal
        images = [ProcessedImage(pixels, grid)]
        slots = sample.patches // config.fusion.merge**2 if config.fusion.kind == "projection" else 1
    source = Source(
        [0] * slots + _ids(config, sample.source),
        [False] * (slots + sample.source),
        [IMAGE] * slots + [USER] * sample.source,
        [(place, 0, place) for place in range(slots)] if config.fusion.kind == "projection" else [],
    )
    example = Example(source, _target(config, sample), images=images)
    if sample.cards:
        per_card = -(-sample.cards // sample.functions)
        sizes = [max(min(per_card, sample.cards - per_card * card), 1) for card in range(sample.functions)]
        example.cards = tuple(_card(config, size, f"{number}:{card}") for card, size in enumerate(sizes))
        example.lexical = [0.0] * sample.functions
        example.required = [[True] * PARAMETERS] * sample.functions
        example.presence = [[1] * PARAMETERS] * sample.functions
        example.selection, example.trigger = [1.0, *[0.0] * sample.functions], 1
    return example


def _ids(config: ModelConfig, count: int) -> list[int]:
    plain = config.vocab_size - len(SPECIAL_TOKENS)
    return [len(SPECIAL_TOKENS) + place % plain for place in range(count)]


def _card(config: ModelConfig, size: int, key: str) -> Card:
    parameter = tuple(place % (PARAMETERS + 1) - 1 for place in range(size))
    return Card(tuple(_ids(config, size)), (False,) * size, parameter, key)


def _target(config: ModelConfig, sample: SampleShape) -> Target:
    size = sample.target
    inside = min(sample.values, size) if sample.cards else 0
    parameter: list[tuple[int, int] | None] = [(0, 0)] * inside + [None] * (size - inside)
    return Target(_ids(config, size), _ids(config, size), [1.0] * size, parameter, [-1] * size)
