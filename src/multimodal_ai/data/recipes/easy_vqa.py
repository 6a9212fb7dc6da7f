"""easy-VQA: one coloured shape on an image of 64x64 pixels, and questions with 13 possible answers.

Image bytes are taken as the package has them. The official split stands: 4,000 images for training, 1,000 with
9,673 questions for testing. Of the 38,575 training questions three quarters are answered by yes or no, and their
wording alone gives 83% of these answers away: only a third of them is kept. Captions come from the training
answers only, and only for images of which both colour and shape are stated. What is asked about a training image
stands together.
`shape_tiles` shows one to three such shapes cut out of a split's images, side by side: seeing a whole image
begins with seeing its shape.

Source: V. Zhou, easy-vqa on PyPI. Licence: MIT. Split: official, by image.
"""

from __future__ import annotations

import importlib
import io
import re
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from multimodal_ai.data.recipes.common import (
    Recipe,
    RecipeContext,
    Row,
    assistant,
    caption_row,
    row,
    shuffled,
    stream,
    user,
)

NAME = "easy_vqa"
TILES = "shape_tiles"
TILE = 32  # pixels
YES_OR_NO = 1 / 3  # of the training questions that yes or no answers
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
        rng = stream(NAME, context.seed, split, 0)
        items = [item for item in items if item[2] not in ("yes", "no") or rng.random() < YES_OR_NO]
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


def cut_out(image: np.ndarray, rng: Random) -> np.ndarray | None:
    """A window around the shape, at a random place: uint8[64, 64, 3] -> uint8[TILE, TILE, 3]; None if it is larger."""
    ground = np.median(
        image[[0, 0, -1, -1], [0, -1, 0, -1]], axis=0
    )  # one light colour; a shape hides one corner at most
    shape = np.abs(image - ground).sum(-1) > 40
    corner = []
    for axis in (0, 1):
        inside = np.flatnonzero(shape.any(1 - axis))
        low, high = max(int(inside[-1]) + 1 - TILE, 0), min(int(inside[0]), image.shape[axis] - TILE)
        if low > high:
            return None
        corner.append(rng.randint(low, high))
    return image[corner[0] : corner[0] + TILE, corner[1] : corner[1] + TILE]


def tiles(context: RecipeContext, split: str) -> Iterator[Row]:
    """One to three shapes of the split's images side by side with what they are, without end."""
    package, train = _package(), split == "train"
    said = sorted(captions(*(package.get_train_questions() if train else package.get_test_questions())).items())
    paths = package.get_train_image_paths() if train else package.get_test_image_paths()
    number = 0
    while True:
        rng = stream(TILES, context.seed, split, number)
        number += 1
        chosen = rng.sample(said, rng.randint(1, 3))
        pictures = [np.asarray(Image.open(paths[image]).convert("RGB")) for image, _ in chosen]
        cuts = [(cut_out(picture, rng), text) for picture, (_, text) in zip(pictures, chosen, strict=True)]
        shown = [(cut, text) for cut, text in cuts if cut is not None]
        if shown:
            data = io.BytesIO()
            Image.fromarray(np.concatenate([cut for cut, _ in shown], axis=1)).save(data, "PNG")
            yield caption_row(TILES, data.getvalue(), ", ".join(text for _, text in shown))


RECIPE = Recipe(
    name=NAME,
    licence="MIT (easy-vqa, Victor Zhou)",
    description="questions about one coloured shape, one-word answers; captions of the training images",
    splits=("train", "test"),
    rows=rows,
)

TILE_RECIPE = Recipe(
    name=TILES,
    licence=RECIPE.licence,
    description="one to three coloured shapes, cut out of easy-VQA's images, with what they are",
    splits=("train", "test"),
    rows=tiles,
    sizes={"train": 6_000, "test": 500},
)
