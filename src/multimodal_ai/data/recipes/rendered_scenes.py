"""Rendered scenes: signs, price tags, displays, dialogs, forms, tables and charts with captions, questions and calls.

Small pictures in colour, up to 250 pixels wide, seen from a little aside. A price tag is taken over by `set_price`,
a device by `log_measurement`, a form by `add_person`; the other scenes are described and asked about.

Source: made here. Licence: Apache-2.0. Split: by what the scene says and by font family, by hash; of the wordings of
each question and request the last is for testing alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random

from multimodal_ai.data.recipes.common import (
    Recipe,
    RecipeContext,
    Row,
    assistant,
    call_or_refuse,
    caption_row,
    in_split,
    row,
    stream,
    user,
)
from multimodal_ai.data.recipes.function_cards import draw_cards
from multimodal_ai.data.recipes.page import develop
from multimodal_ai.data.recipes.printing import encode
from multimodal_ai.data.recipes.scene_sheets import chart, form, table
from multimodal_ai.data.recipes.scenes import Scene, dialog, display, price_tag, sign

NAME = "rendered_scenes"
DRAWERS = (sign, price_tag, display, dialog, form, table, chart)
TEST_SHARE = 0.1  # of what scenes say


def wording(rng: Random, split: str, wordings: Sequence[str]) -> str:
    """One of the wordings; the last is for testing alone."""
    return rng.choice(wordings) if split == "test" else rng.choice(wordings[:-1])


def draw_scene(rng: Random, split: str) -> Scene:
    """A scene of any kind that belongs to the split."""
    drawer = rng.choice(DRAWERS)
    while True:
        scene = drawer(rng, split)
        if in_split(f"{NAME} {scene.key}", split, TEST_SHARE):
            return scene


def _sample(seed: int, split: str, number: int) -> Row:
    """Sample `number` of a split: a scene with its caption, a question, or a call."""
    rng = stream(NAME, seed, split, number)
    scene = draw_scene(rng, split)
    image = encode(develop(scene.page, rng), rng)
    style = rng.random()
    if style < 0.25:
        return caption_row(NAME, image, scene.caption, kind=scene.kind)
    if scene.card is not None and style < 0.7:
        ask = wording(rng, split, scene.requests) + rng.choice((".", ".", ""))
        others = [one.tool for one in draw_cards(rng, split, rng.randint(1, 3))]
        return call_or_refuse(NAME, rng, ask, scene.card, scene.arguments, others, image, kind=scene.kind)
    wordings, answer = rng.choice(scene.questions)
    turns = [user(wording(rng, split, wordings), 1), assistant(answer)]
    return row(NAME, "vqa", turns, images=[image], kind=scene.kind)


def rows(context: RecipeContext, split: str) -> Iterator[Row]:
    """Samples without end; sample `i` depends on (seed, split, i) and the machine's fonts alone."""
    number = 0
    while True:
        yield _sample(context.seed, split, number)
        number += 1


RECIPE = Recipe(
    name=NAME,
    licence="Apache-2.0 (made here)",
    description="signs, price tags, displays, dialogs, forms, tables and charts: captions, questions, calls",
    splits=("train", "test"),
    rows=rows,
    sizes={"train": 20_000, "test": 1_000},
)
