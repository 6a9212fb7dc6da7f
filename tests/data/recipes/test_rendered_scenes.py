"""Rendered scenes: what is asked or called for is printed inside the picture, and wordings are held out."""

from __future__ import annotations

import ast
import io
import re
from collections import Counter
from itertools import islice
from random import Random

import numpy as np
import pytest
from PIL import Image

from multimodal_ai.data.messages import Sample
from multimodal_ai.data.recipes import RECIPES, RecipeContext, rendered_scenes
from multimodal_ai.data.recipes.common import in_split
from multimodal_ai.data.recipes.page import Anchor, Page
from multimodal_ai.data.recipes.printing import Colour, Type
from multimodal_ai.data.recipes.rendered_scenes import DRAWERS, wording
from multimodal_ai.data.recipes.scenes import COLOURS, Scene

RECIPE = RECIPES["rendered_scenes"]
PRINT = Page.text


@pytest.fixture(scope="module")
def samples() -> dict[str, list[Sample]]:
    return {split: list(islice(RECIPE.build(RecipeContext(), split), 120)) for split in RECIPE.splits}


@pytest.fixture(scope="module")
def scenes() -> list[tuple[Scene, str]]:
    """Scenes of every kind with all that is printed on each, in order; a text that leaves its page is an error."""
    drawn: list[tuple[Scene, str]] = []
    printed: list[str] = []

    def text(page: Page, said: str, x: float, y: float, style: Type, anchor: Anchor = "l", ink: Colour = 255) -> float:
        wide = PRINT(page, said, x, y, style, anchor, ink)
        left = x - wide * {"l": 0.0, "c": 0.5, "r": 1.0}[anchor]
        assert left >= -1 and left + wide <= page.width + 1, f"{said!r} leaves the page"
        assert y - style.cap + 2 >= 0 and y <= page.height, f"{said!r} leaves the page"
        printed.append(said)
        return wide

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Page, "text", text)
        for drawer in DRAWERS:
            for seed in range(40):
                printed.clear()
                scene = drawer(Random(seed), "train")
                drawn.append((scene, " ".join(printed)))
    return drawn


def test_answers_are_printed(scenes: list[tuple[Scene, str]]) -> None:
    for scene, printed in scenes:
        for questions, answer in scene.questions:
            seen_not_read = answer in {*COLOURS, "left", "right"} or re.match(
                "How many rows|What can I|Which b", questions[0]
            )
            if not seen_not_read:
                assert answer.lower() in printed.lower(), (scene.kind, questions[0])


def test_arguments_are_printed(scenes: list[tuple[Scene, str]]) -> None:
    called = Counter(scene.kind for scene, _ in scenes if scene.card is not None)
    assert called == {"price_tag": 40, "display": 40, "form": 40}
    for scene, printed in scenes:
        for name, value in scene.arguments.items():
            if name == "currency":
                assert {"MYR": "RM", "USD": "$", "EUR": "€", "GBP": "£"}[value] in printed
            elif isinstance(value, str):
                assert value in printed
            else:
                assert value in [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", printed)]


def test_the_highest_and_the_lowest_are_right(scenes: list[tuple[Scene, str]]) -> None:
    checked = Counter[str]()
    for scene, _ in scenes:
        if scene.kind not in ("chart", "table"):
            continue
        names, numbers = map(ast.literal_eval, re.fullmatch(r"(\[.*?\]) (.*)", scene.key).groups())  # type: ignore[union-attr]
        for questions, answer in scene.questions:
            asked = re.match(r"Which \w+ has the (highest|lowest) (?:value|number under (\w+))", questions[0])
            if asked:
                values = next(numbers[name] for name in numbers if name.lower() == asked[2]) if asked[2] else numbers
                best = (max if asked[1] == "highest" else min)(values)
                assert dict(zip(names, values, strict=True))[answer] == best
                checked[scene.kind] += 1
            elif questions[0].startswith(("What is the value for", "What does the table give under")):
                name = questions[0].rstrip("?").split(" for ")[1]
                columns = list(numbers.values()) if scene.kind == "table" else [numbers]
                assert int(answer) in [column[names.index(name)] for column in columns]
    assert checked == {"chart": 80, "table": 80}


def test_rows(samples: dict[str, list[Sample]]) -> None:
    for listed in samples.values():
        assert {sample.task for sample in listed} == {"caption", "vqa", "call"}
        assert {sample.meta["kind"] for sample in listed} == {drawer.__name__ for drawer in DRAWERS}
        for sample in listed:
            with Image.open(io.BytesIO(sample.images[0])) as image:
                assert image.mode == "RGB" and image.width <= 280 and image.height <= 220
                assert np.asarray(image, float).std() > 8
            if sample.task == "call":
                calls = sample.messages[-1].tool_calls
                assert (sample.meta["trigger"] == "call") == bool(calls)


def test_a_row_depends_on_its_number_alone(samples: dict[str, list[Sample]]) -> None:
    again = Sample.from_row(rendered_scenes._sample(0, "test", 7), "row")
    assert again.to_row() == samples["test"][7].to_row()


def test_what_a_scene_says_is_in_one_split() -> None:
    for split in ("train", "test"):
        for seed in range(30):
            assert in_split(f"rendered_scenes {rendered_scenes.draw_scene(Random(seed), split).key}", split, 0.1)


def test_the_last_wording_is_for_testing_alone() -> None:
    words = ("a", "b", "c")
    assert {wording(Random(seed), "train", words) for seed in range(50)} == {"a", "b"}
    assert {wording(Random(seed), "test", words) for seed in range(50)} == {"a", "b", "c"}
