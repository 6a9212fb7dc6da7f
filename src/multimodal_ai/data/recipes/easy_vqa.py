"""easy-VQA: one coloured shape on an image of 64x64 pixels, and questions with 13 possible answers.

Image bytes are taken as the package has them. The official split stands: 4,000 images with 38,575
questions for training, 1,000 with 9,673 for testing. Captions come from the training answers only, and
only for images of which both colour and shape are stated. What is asked about a training image stands together.

Source: V. Zhou, easy-vqa on PyPI. Licence: MIT. Split: official, by image.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from multimodal_ai.data.recipes.common import Recipe, RecipeContext, Row, assistant, caption_row, row, shuffled, user

NAME = "easy_vqa"
SHAPES = ("circle", "rectangle", "triangle")
COLOURS = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")


def _package() -> Any:
    """The installed package; ValueError says how to install it."""
    try:
        return importlib.import_module("easy_vqa")
    except ModuleNotFoundError:
        raise ValueError(
            'recipe easy_vqa needs the package easy-vqa: pip install "multimodal-ai[quickstart]"'
        ) from None


def stated(question: str, answer: str) -> set[str]:
    """The colour and shape words that a question and its answer say are on the image."""
    found = {answer} & {*SHAPES, *COLOURS}
    words = re.findall(r"[a-z]+", question)
    if words[:1] == ["what"] or (answer == "yes" and "not" not in words and "no" not in words):
        found |= {*SHAPES, *COLOURS} & set(words)
    return found


def captions(questions: list[str], answers: list[str], images: list[int]) -> dict[int, str]:
    """`a blue rectangle` for each image of which the answers state one colour and one shape."""
    words: dict[int, set[str]] = {}
    for question, answer, image in zip(questions, answers, images, strict=True):
        words.setdefault(image, set()).update(stated(question, answer))
    result = {}
    for image, seen in words.items():
        colours, shapes = seen & set(COLOURS), seen & set(SHAPES)
        if len(colours) == 1 and len(shapes) == 1:
            result[image] = f"a {colours.pop()} {shapes.pop()}"
    return result


def rows(context: RecipeContext, split: str) -> Iterator[Row]:
    """Questions of the split, and captions of the training images among them, in the seed's order."""
    package = _package()
    train = split == "train"
    questions, answers, images = package.get_train_questions() if train else package.get_test_questions()
    paths = package.get_train_image_paths() if train else package.get_test_image_paths()
    items = list(zip(images, questions, answers, strict=True))
    if train:
        items += [(image, "", text) for image, text in captions(questions, answers, images).items()]
    cache: dict[int, bytes] = {}
    items = shuffled(items, NAME, context.seed, split)
    if train:  # image by image, so that a batch can share them
        places = {image: place for place, image in enumerate(shuffled(sorted({*images}), NAME, context.seed, "images"))}
        items.sort(key=lambda item: places[item[0]])
    for image, question, answer in items:
        if image not in cache:
            cache[image] = Path(paths[image]).read_bytes()
        if question:
            text = question[0].upper() + question[1:]
            yield row(NAME, "vqa", [user(text, 1), assistant(answer)], images=[cache[image]], image=image)
        else:
            yield caption_row(NAME, cache[image], answer, image=image)


RECIPE = Recipe(
    name=NAME,
    licence="MIT (easy-vqa, Victor Zhou)",
    description="questions about one coloured shape, one-word answers; captions of the training images",
    splits=("train", "test"),
    rows=rows,
)
