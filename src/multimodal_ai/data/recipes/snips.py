"""Spoken requests with seven intents as functions and slots as optional string parameters.

One to seven of the functions are shown; in one sample of seven the right one is not, and the request is
refused. A slot that occurs twice in an utterance keeps its first value.

Source: `snips.jsonl.xz` (Snips NLU benchmark). Licence: CC0. Split: official (`val` is the test split).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any

from multimodal_ai.data.recipes.common import (
    NO_FUNCTION,
    Recipe,
    RecipeContext,
    Row,
    assistant,
    calling,
    offer,
    read_jsonl_xz,
    row,
    stream,
    tool,
    user,
)

NAME = "snips"
FILE = "snips.jsonl.xz"
SPLITS = {"train": "train", "test": "val"}

_INTENTS = {
    "AddToPlaylist": (
        "Add a song, album or artist to a playlist",
        "music_item artist entity_name playlist playlist_owner",
    ),
    "BookRestaurant": (
        "Reserve a table at a restaurant",
        "restaurant_name restaurant_type cuisine served_dish party_size_number party_size_description timeRange city "
        "state country spatial_relation poi facility sort",
    ),
    "GetWeather": (
        "Tell the weather for a place and time",
        "timeRange city state country geographic_poi current_location spatial_relation condition_description "
        "condition_temperature",
    ),
    "PlayMusic": ("Play music", "music_item track album artist playlist genre year sort service"),
    "RateBook": (
        "Give a rating to a book",
        "object_name object_select object_type object_part_of_series_type rating_value best_rating rating_unit",
    ),
    "SearchCreativeWork": ("Find a creative work such as a book, song, film or game", "object_name object_type"),
    "SearchScreeningEvent": (
        "Find screening times of films",
        "movie_name movie_type object_type timeRange object_location_type location_name spatial_relation",
    ),
}
_SLOTS = {
    "timeRange": "Date or time, as said",
    "poi": "Landmark or person's place",
    "playlist_owner": "Whose playlist it is",
    "entity_name": "Name of the thing to add",
    "music_item": "Kind of music item, such as song or album",
    "spatial_relation": "Nearness, as said",
    "geographic_poi": "Park, mountain or other landmark",
    "current_location": "Words for where the user is",
    "party_size_number": "Number of guests",
    "party_size_description": "Who comes along",
    "sort": "Order or quality, such as best or newest",
    "object_select": "Which one: this, the current, the next",
    "object_type": "Kind of work or listing",
    "object_name": "Title of the work",
    "object_location_type": "Kind of venue",
    "best_rating": "Highest possible rating",
    "rating_value": "Rating given",
    "rating_unit": "Unit of the rating, such as stars",
    "object_part_of_series_type": "Whether it is a series, saga or chronicle",
    "state": "State or region",
    "service": "Streaming service",
    "facility": "Equipment of the restaurant",
}


@functools.lru_cache(maxsize=1)
def cards() -> dict[str, dict[str, Any]]:
    """The seven functions by intent; names in snake case."""
    return {
        intent: tool(
            re.sub(r"(?<=[a-z])(?=[A-Z])", "_", intent).lower(),
            description,
            {
                slot: {"type": "string", "description": _SLOTS.get(slot, slot.replace("_", " ").capitalize())}
                for slot in slots.split()
            },
            (),
        )
        for intent, (description, slots) in _INTENTS.items()
    }


def rows(context: RecipeContext, split: str) -> Iterator[Row]:
    """One utterance a row, in the seed's order."""
    entries = [entry for entry in read_jsonl_xz(context.file(FILE)) if entry["split"] == SPLITS[split]]
    stream(NAME, context.seed, split).shuffle(entries)
    for number, entry in enumerate(entries):
        rng = stream(NAME, context.seed, split, number)
        gold = cards()[entry["intent"]]
        others = [card for intent, card in cards().items() if intent != entry["intent"]]
        ask = user(entry["text"])
        if rng.random() < 1 / 7:
            tools = offer(rng, [], others, rng.randint(1, 6))
            yield row(NAME, "call", [ask, assistant(rng.choice(NO_FUNCTION))], tools, trigger="cannot")
            continue
        values: dict[str, str] = {}
        for slot, value in entry["slots"]:
            values.setdefault(slot, value)
        arguments = {key: values[key] for key in gold["function"]["parameters"]["properties"] if key in values}
        tools = offer(rng, [gold], others, rng.randint(0, 6))
        yield row(NAME, "call", [ask, calling((gold["function"]["name"], arguments))], tools, trigger="call")


RECIPE = Recipe(
    name=NAME,
    licence="CC0 (Snips)",
    description="utterances with seven intents as functions and slots as arguments",
    splits=("train", "test"),
    rows=rows,
    files=(FILE,),
)
