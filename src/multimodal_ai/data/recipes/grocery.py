"""Shop photos of 81 products: captions, questions, and calls of `add_to_cart(item, category, quantity)`.

Each photo gives a caption, a question and a request. Distractors are generated cards; in one request of
seven `add_to_cart` is not offered and the request is refused.

Source: `grocery.zip` (Grocery Store Dataset, M. Klasson et al. 2019). Licence: MIT. Split: official.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any

from multimodal_ai.data.recipes.common import (
    NO_FUNCTION,
    ImageArchive,
    Recipe,
    RecipeContext,
    Row,
    assistant,
    calling,
    caption_row,
    row,
    stream,
    tool,
    user,
)
from multimodal_ai.data.recipes.function_cards import draw_cards
from multimodal_ai.data.recipes.function_words import NUMBER_WORDS

NAME = "grocery"
FILE = "grocery.zip"
SPLITS = {"train": "train", "validation": "val", "test": "test"}

_REQUESTS = {
    "train": (
        "Add {} of these to my cart",
        "Put {} of this product in the cart",
        "I need {} of these",
        "Please add this to the shopping cart, quantity {}",
        "{} of these, please",
        "Could you put {} of these in my basket?",
        "Order {} of what you see",
        "I'd like to buy {} of these",
    ),
    "test": (
        "Drop {} of these into my cart",
        "I am taking {} of this product",
        "Place {} of the product on the photo in the cart",
    ),
}
_ASK_ITEM = ("Which product is this?", "What is on the photo?", "What is this called?")
_ASK_CATEGORY = ("What kind of product is this?", "Which category does this belong to?", "What type of food is it?")


def add_to_cart() -> dict[str, Any]:
    """Card of the shop's function."""
    properties = {
        "item": {"type": "string", "description": "Product on the photo"},
        "category": {"type": "string", "description": "Kind of product, such as Apple or Milk"},
        "quantity": {"type": "integer", "minimum": 1, "description": "How many"},
    }
    return tool("add_to_cart", "Put a product into the shopping cart", properties, tuple(properties), True)


def _request(rng: Random, entry: dict[str, Any], image: bytes, split: str) -> Row:
    words = "train" if split == "train" else "test"
    quantity = rng.randint(1, 12)
    said = NUMBER_WORDS.get(quantity, str(quantity)) if rng.random() < 0.3 else str(quantity)
    ask = rng.choice(_REQUESTS[words]).format(said)
    others = [one.tool for one in draw_cards(rng, words, rng.randint(1, 3))]
    if rng.random() < 1 / 7:
        reply = assistant(rng.choice(NO_FUNCTION))
        return row(NAME, "call", [user(ask, 1), reply], others, [image], trigger="cannot")
    tools = [add_to_cart(), *others[: rng.randint(0, 3)]]
    rng.shuffle(tools)
    arguments = {"item": entry["fine"], "category": entry["coarse"], "quantity": quantity}
    return row(NAME, "call", [user(ask, 1), calling(("add_to_cart", arguments))], tools, [image], trigger="call")


def rows(context: RecipeContext, split: str) -> Iterator[Row]:
    """Three rows a photo, photos in the seed's order."""
    archive = ImageArchive(context.file(FILE))
    entries = [entry for entry in archive.entries if entry["split"] == SPLITS[split]]
    stream(NAME, context.seed, split).shuffle(entries)
    for entry in entries:
        rng = stream(NAME, context.seed, entry["image"])
        image = archive.image(entry)
        fine, coarse = entry["fine"], entry["coarse"]
        yield caption_row(NAME, image, fine if fine == coarse else f"{fine} ({coarse})")
        if rng.random() < 0.6:
            question, answer = rng.choice(_ASK_ITEM), fine
        else:
            question, answer = rng.choice(_ASK_CATEGORY), coarse
        yield row(NAME, "vqa", [user(question, 1), assistant(answer)], images=[image])
        yield _request(rng, entry, image, split)


RECIPE = Recipe(
    name=NAME,
    licence="MIT (Grocery Store Dataset, M. Klasson et al.)",
    description="shop photos: captions, questions, add_to_cart calls",
    splits=("train", "validation", "test"),
    rows=rows,
    files=(FILE,),
)
