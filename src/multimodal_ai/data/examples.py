"""A sample becomes an example: everything one row of a batch needs, with the labels of every head.

Labels are free: the trigger is the kind of turn, the gold function is the one called, a parameter is
present when its key is in the call, and a copied value is one that stands verbatim in the source.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from multimodal_ai.data.image_processor import ImageProcessor, ProcessedImage
from multimodal_ai.data.messages import DataError, Message, Sample
from multimodal_ai.data.rendering import Card, Renderer, Source, Target
from multimodal_ai.data.text_objectives import TextObjective, text_example
from multimodal_ai.functions.lexical import lexical_scores
from multimodal_ai.functions.schema import FunctionSpec

TRIGGERS = ("answer", "call", "ask_missing", "cannot")  # the order of models.function_head.TRIGGER_CLASSES


@dataclass
class Example:
    """One row of a batch. `trigger` and `presence` are -1 and `selection` is None where nothing is known."""

    source: Source
    target: Target
    cards: tuple[Card, ...] = ()
    lexical: list[float] = field(default_factory=list)
    required: list[list[bool]] = field(default_factory=list)
    images: list[ProcessedImage] = field(default_factory=list)
    trigger: int = -1
    selection: list[float] | None = None  # F + 1 probabilities, the last for "none of them"
    presence: list[list[int]] = field(default_factory=list)  # F lists of P: 1, 0 or -1
    caption: Card | None = None  # what the first image shows, for contrastive alignment
    specs: tuple[FunctionSpec, ...] = ()  # the functions behind `cards`
    hidden: bool = False  # the functions stay out of the context; see `hide_functions`
    asked: str = ""  # the last user turn
    origin: str = ""  # where the sample came from, for error messages
    data_source: int = 0  # the number of its source in the mix


def function_inputs(
    renderer: Renderer, specs: Sequence[FunctionSpec], messages: Sequence[Message]
) -> tuple[tuple[Card, ...], list[float], list[list[bool]]]:
    """Cards, lexical scores against the last user turn, and which parameters are required."""
    cards = tuple(renderer.card(spec) for spec in specs)
    required = [[name in spec.required for name in spec.parameter_names] for spec in specs]
    return cards, lexical_scores(asked_by(messages), specs), required


def asked_by(messages: Sequence[Message]) -> str:
    """The last user turn's text, empty without one: what functions are matched with."""
    return next((message.text for message in reversed(messages) if message.role == "user"), "")


def hide_functions(example: Example) -> Example:
    """Teach to find the called functions among those of many samples, without having read any.

    The cards leave the context and there is no answer to write: what remains is the decision state, to be
    matched with the cards of all hidden examples of a micro-batch (`Batch.retrieval`).
    """
    assert example.selection is not None and not example.selection[-1], "no function here is right"
    return replace(example, target=Target(ids=example.target.ids[:1]), hidden=True, trigger=-1, presence=[])


def build_example(
    sample: Sample,
    renderer: Renderer,
    images: ImageProcessor,
    rng: random.Random | None = None,
    objective: TextObjective = "prefix_lm",
    whole_text: bool = False,
) -> Example:
    """Render a sample's last assistant turn as the target and everything before it as the source.

    With `rng`, images are augmented as configured and texts are split at random; without, nothing is
    random. Raises TooLong, DataError or ImageError; the caller counts them.
    """
    last = sample.messages[-1]
    if last.role != "assistant":
        raise DataError("the last message must be the assistant's: it is what is trained")
    if sample.task == "text":
        source, target = text_example(renderer, last.text, objective, rng or random.Random(0), whole_text)
        return Example(source, target)
    generator = None
    if rng is not None and images.config.augment is not None:
        generator = torch.Generator().manual_seed(rng.getrandbits(62))
    processed = [images(image, generator) for image in sample.images]
    before = sample.messages[:-1]
    source = renderer.source(before, [image.grid for image in processed])
    specs = sample.specs
    target = renderer.target(last, specs, source)
    cards, lexical, required = function_inputs(renderer, specs, before)
    example = Example(source, target, cards, lexical, required, processed, specs=specs, asked=asked_by(before))
    if specs:
        _function_labels(example, sample, last, specs)
    if sample.task == "caption" and processed:
        example.caption = renderer.text_card(last.text, key=f"caption:{last.text}")
    return example


def _function_labels(example: Example, sample: Sample, last: Message, specs: Sequence[FunctionSpec]) -> None:
    called: dict[str, set[str]] = {}
    for call in last.tool_calls:
        called.setdefault(call.name, set()).update(call.arguments)
    meta: dict[str, Any] = sample.meta
    trigger = meta.get("trigger", "call" if called else "answer")
    if trigger not in TRIGGERS:
        raise DataError(f"meta.trigger is {trigger!r}; it must be one of {', '.join(TRIGGERS)}")
    example.trigger = TRIGGERS.index(trigger)
    asked_function, missing = meta.get("asks_for") or (None, None)
    gold: set[Any] = set(called) or {asked_function}
    chosen = [float(spec.name in gold) for spec in specs]
    if sum(chosen):
        example.selection = [value / sum(chosen) for value in chosen] + [0.0]
    elif trigger in ("answer", "cannot"):
        example.selection = [0.0] * len(specs) + [1.0]
    for spec in specs:
        if spec.name in called:
            example.presence.append([int(name in called[spec.name]) for name in spec.parameter_names])
        elif spec.name == asked_function:
            example.presence.append([0 if name == missing else -1 for name in spec.parameter_names])
        else:
            example.presence.append([-1] * len(spec.parameter_names))
