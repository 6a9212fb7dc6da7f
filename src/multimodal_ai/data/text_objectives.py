"""Two ways to learn from plain text: prefix language modelling and span corruption.

Both turn one text into a source for the encoder and a target for the decoder. Randomness comes from the
generator given, so a sample's position in the run decides it. A text may be cut: nothing else may.
"""

from __future__ import annotations

import random
from typing import Literal

from multimodal_ai.data.rendering import USER, Renderer, Source, Target

TextObjective = Literal["prefix_lm", "span_corruption"]
CORRUPTED = 0.15  # share of tokens that span corruption takes away (Raffel et al., arXiv 1910.10683)
MEAN_SPAN = 4


def text_example(
    renderer: Renderer, text: str, objective: TextObjective, rng: random.Random, whole: bool = False
) -> tuple[Source, Target]:
    """Source and target of one text under one objective.

    prefix_lm: the encoder reads the text up to a random place, the decoder writes the rest; with `whole`
    the prefix is empty, which is how bits per byte are measured.
    span_corruption: random spans are replaced by mask tokens, the decoder writes each mask and its span.
    """
    special, space = renderer.tokenizer.special, renderer.tokenizer.space
    found = renderer.tokenizer.encode_array(text)
    limit = renderer.config.max_target - 2
    source = Source()
    source.special(special.doc, USER)
    target = Target(ids=renderer.start())
    if objective == "span_corruption" and not whole:
        ids = found[: renderer.config.max_source - 1].tolist()
        spans = min(len(special.masks), max(1, round(len(ids) * CORRUPTED / MEAN_SPAN)))
        taken = _spans(len(ids), spans, rng)
        position = 0
        for mask, (start, end) in zip(special.masks, taken, strict=False):
            source.content(ids[position:start], USER, space)
            source.special(mask, USER)
            for token in (mask, *ids[start:end]):
                renderer._push(target, token, 1.0)
            position = end
        source.content(ids[position:], USER, space)
    else:
        if len(found) > limit and not whole:
            begin = rng.randrange(len(found) - limit + 1)
            found = found[begin : begin + limit]
        ids = found.tolist()
        split = 0 if whole else rng.randrange(len(ids) * 3 // 4 + 1)
        split = min(split, renderer.config.max_source - 1)
        source.content(ids[:split], USER, space)
        for token in ids[split:]:
            renderer._push(target, token, 1.0)
    return source, renderer.finish(target)


def _spans(length: int, count: int, rng: random.Random) -> list[tuple[int, int]]:
    """`count` disjoint spans of 1 to 2 * MEAN_SPAN - 1 tokens inside `length`, in order."""
    spans: list[tuple[int, int]] = []
    stride = length / count
    for number in range(count):
        low, high = int(number * stride), int((number + 1) * stride)
        size = min(rng.randrange(1, 2 * MEAN_SPAN), max(high - low - 1, 1))
        start = low + rng.randrange(max(high - low - size, 0) + 1)
        if high > low:
            spans.append((start, min(start + size, high)))
    return spans
