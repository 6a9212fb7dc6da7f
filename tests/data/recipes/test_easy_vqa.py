"""easy-VQA: the official split, captions from training answers only, image bytes as packed."""

from __future__ import annotations

import io
import random
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from multimodal_ai.data.recipes import RECIPES, RecipeContext
from multimodal_ai.data.recipes.easy_vqa import COLOURS, SHAPES, TILE, captions, cut_out, stated

pytest.importorskip("easy_vqa", reason='needs easy-vqa: pip install "multimodal-ai[quickstart]"')
RECIPE = RECIPES["easy_vqa"]


@pytest.mark.parametrize(
    ("question", "answer", "words"),
    [
        ("what is the blue shape?", "rectangle", {"blue", "rectangle"}),
        ("what color is the circle?", "red", {"red", "circle"}),
        ("is there a teal shape?", "yes", {"teal"}),
        ("is there a teal shape?", "no", set()),
        ("is there not a teal shape?", "yes", set()),
        ("is no circle present?", "yes", set()),
        ("what shape is present?", "triangle", {"triangle"}),
    ],
)
def test_what_a_question_and_its_answer_state(question: str, answer: str, words: set[str]) -> None:
    assert stated(question, answer) == words


def test_captions_need_both_colour_and_shape() -> None:
    questions = ["what color is the shape?", "what shape is present?", "what color is the shape?"]
    assert captions(questions, ["red", "circle", "blue"], [0, 0, 1]) == {0: "a red circle"}


def test_official_split_and_captions() -> None:
    rows = {split: list(RECIPE.build(RecipeContext(limit=3_000), split)) for split in RECIPE.splits}
    tasks = Counter(sample.task for sample in rows["train"])
    assert tasks["vqa"] > 2_000 and tasks["caption"] > 100
    assert {sample.task for sample in rows["test"]} == {"vqa"}
    for sample in rows["train"] + rows["test"]:
        answer = sample.messages[-1].text
        if sample.task == "caption":
            _, colour, shape = answer.split()
            assert colour in COLOURS and shape in SHAPES
        else:
            assert answer in {*COLOURS, *SHAPES, "yes", "no"}
    with Image.open(io.BytesIO(rows["test"][0].images[0])) as image:
        assert image.size == (64, 64)


def test_captions_agree_with_the_images_other_answers() -> None:
    rows = list(RECIPE.raw_rows(RecipeContext(limit=6_000), "train"))
    said = {row["meta"]["image"]: row["messages"][-1]["content"] for row in rows if row["task"] == "caption"}
    checked = 0
    for row in rows:
        caption = said.get(row["meta"]["image"])
        question = row["messages"][0]["content"][-1].get("text", "")
        answer = row["messages"][-1]["content"]
        if caption and question == "What shape is present?":
            assert caption.endswith(answer)
            checked += 1
    assert checked > 5


def test_order_follows_the_seed() -> None:
    def first(seed: int) -> list[str]:
        rows = RECIPE.raw_rows(RecipeContext(seed=seed, limit=20), "test")
        return [row["messages"][0]["content"][1]["text"] for row in rows]

    assert first(0) == first(0) != first(1)


def test_a_tile_holds_the_whole_shape_wherever_it_stands() -> None:
    rng = random.Random(0)
    for _ in range(200):
        height, width = rng.randint(4, TILE), rng.randint(4, TILE)
        top, left = rng.randint(0, 64 - height), rng.randint(0, 64 - width)
        image = np.full((64, 64, 3), 240, dtype=np.uint8)
        image[top : top + height, left : left + width] = (200, 30, 30)
        cut = cut_out(image, rng)
        assert cut is not None and cut.shape == (TILE, TILE, 3)
        assert (cut[..., 1] == 30).sum() == height * width
    image[10 : 11 + TILE, 5:9] = 0
    assert cut_out(image, rng) is None


@pytest.mark.parametrize("split", ["train", "test"])
def test_tiles_say_as_many_shapes_as_they_show(split: str) -> None:
    for sample in RECIPES["shape_tiles"].build(RecipeContext(limit=60), split):
        texts = sample.messages[-1].text.split(", ")
        with Image.open(io.BytesIO(sample.images[0])) as image:
            assert image.size == (TILE * len(texts), TILE)
        for text in texts:
            _, colour, shape = text.split()
            assert colour in COLOURS and shape in SHAPES
