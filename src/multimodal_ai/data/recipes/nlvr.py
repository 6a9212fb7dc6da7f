"""Statements that are true or false of a drawn scene of three boxes.

The scenes are drawn from their description with Pillow, 208x64 pixels. A statement holds for the boxes in
any order, so training has all six orders of each scene.

Source: `nlvr_dev.jsonl.xz` (Cornell NLVR, A. Suhr et al. 2017). Licence: CC BY 4.0. Split: by the first part
of the identifier, which the statements about one set of scenes share; by hash, 20% for testing.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from itertools import permutations
from typing import Any

from PIL import Image, ImageDraw

from multimodal_ai.data.recipes.common import (
    Recipe,
    RecipeContext,
    Row,
    assistant,
    in_split,
    read_jsonl_xz,
    row,
    shuffled,
    stream,
    user,
)

NAME = "nlvr"
FILE = "nlvr_dev.jsonl.xz"
BOX, GAP, WORLD = 64, 8, 100
_COLOURS = {"#0099ff": (0, 153, 255), "Black": (0, 0, 0), "Yellow": (255, 220, 0)}
_QUESTIONS = ("True or false: {}", "Is this true of the picture? {}", "{} True or false?")

Scene = Sequence[Sequence[dict[str, Any]]]


def draw_scene(boxes: Scene) -> bytes:
    """A scene as PNG bytes: grey boxes side by side, objects at (x_loc, y_loc) of a 100x100 world."""
    fine = 4  # drawn larger and reduced, so that edges are smooth
    width = len(boxes) * BOX + (len(boxes) - 1) * GAP
    image = Image.new("RGB", (width * fine, BOX * fine), (255, 255, 255))
    draw = ImageDraw.Draw(image)
    scale = BOX * fine / WORLD
    for number, objects in enumerate(boxes):
        left = number * (BOX + GAP) * fine
        draw.rectangle((left, 0, left + BOX * fine - 1, BOX * fine - 1), fill=(211, 211, 211))
        for one in objects:
            x, y = left + one["x_loc"] * scale, one["y_loc"] * scale
            right, bottom = x + one["size"] * scale - 1, y + one["size"] * scale - 1
            colour = _COLOURS[one["color"]]
            if one["type"] == "circle":
                draw.ellipse((x, y, right, bottom), fill=colour)
            elif one["type"] == "square":
                draw.rectangle((x, y, right, bottom), fill=colour)
            else:
                draw.polygon([(x, bottom), (right, bottom), ((x + right) / 2, y)], fill=colour)
    file = io.BytesIO()
    image.resize((width, BOX), Image.Resampling.BOX).save(file, "PNG", compress_level=1)
    return file.getvalue()


def rows(context: RecipeContext, split: str) -> Iterator[Row]:
    """A statement and one order of the boxes a row; six orders in training, the given one in testing."""
    entries = [
        entry
        for entry in read_jsonl_xz(context.file(FILE))
        if in_split(f"{NAME} {entry['identifier'].split('-')[0]}", split)
    ]
    orders = list(permutations(range(3))) if split == "train" else [(0, 1, 2)]
    items = [(entry, order) for entry in entries for order in orders]
    for entry, order in shuffled(items, NAME, context.seed, split):
        rng = stream(NAME, context.seed, entry["identifier"], order)
        sentence = entry["sentence"].strip()
        sentence = sentence if sentence.endswith(".") else sentence + "."
        question = rng.choice(_QUESTIONS).format(sentence)
        image = draw_scene([entry["structured_rep"][index] for index in order])
        yield row(
            NAME, "vqa", [user(question, 1), assistant(entry["label"])], images=[image], identifier=entry["identifier"]
        )


RECIPE = Recipe(
    name=NAME,
    licence="CC BY 4.0 (Cornell NLVR)",
    description="statements true or false of drawn scenes",
    splits=("train", "test"),
    rows=rows,
    files=(FILE,),
)
