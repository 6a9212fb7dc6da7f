"""Utterances with 150 intents as functions without parameters, and some that fit none of them.

Three to ten functions are shown. Utterances out of scope are refused, and so is one in ten of the others,
whose function is then not shown.

Source: `clinc150.jsonl.xz` (S. Larson et al. 2019). Licence: CC BY 3.0. Split: official (`val` is the test
split).
"""

from __future__ import annotations

import functools
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

NAME = "clinc150"
FILE = "clinc150.jsonl.xz"
SPLITS = {"train": "train", "test": "val"}

_WORDING = {
    "apr": "Tell the annual percentage rate of a card",
    "w2": "Tell where the tax form W-2 is",
    "mpg": "Tell the fuel use of the car",
    "pto_balance": "Tell how many days off are left",
    "pto_request": "Ask for days off",
    "pto_used": "Tell how many days off were taken",
    "pto_request_status": "Tell whether days off were granted",
    "rollover_401k": "Move a 401k retirement plan",
    "gas": "Tell how much fuel is left",
    "oil_change_how": "Explain how to change the oil",
    "oil_change_when": "Tell when to change the oil",
    "order": "Order something to buy",
    "who_made_you": "Tell who made the assistant",
    "who_do_you_work_for": "Tell whom the assistant works for",
    "are_you_a_bot": "Tell whether the assistant is a machine",
    "how_old_are_you": "Tell the age of the assistant",
    "what_is_your_name": "Tell the assistant's name",
    "what_are_your_hobbies": "Tell the assistant's hobbies",
    "where_are_you_from": "Tell where the assistant comes from",
    "do_you_have_pets": "Tell whether the assistant has pets",
    "what_can_i_ask_you": "Tell what the assistant can do",
    "what_song": "Tell which song is playing",
    "yes": "Take note of a yes",
    "no": "Take note of a no",
    "maybe": "Take note of a maybe",
    "greeting": "Greet the user",
    "goodbye": "Say goodbye to the user",
    "thank_you": "Reply to thanks",
    "repeat": "Say the last thing again",
    "time": "Tell the time",
    "date": "Tell the date",
    "text": "Send a text message",
    "uber": "Call a ride",
    "routing": "Tell the bank's routing number",
    "min_payment": "Tell the least payment of a bill",
    "plug_type": "Tell which plug a country uses",
    "food_last": "Tell how long food keeps",
    "how_busy": "Tell how busy a place is",
    "international_visa": "Tell whether a visa is needed",
    "carry_on": "Tell the rules for hand luggage",
    "meaning_of_life": "Talk about the meaning of life",
    "user_name": "Tell the user's name",
    "pin_change": "Change the PIN",
    "card_declined": "Explain why a card was declined",
}


@functools.lru_cache(maxsize=8)
def cards(intents: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """A function without parameters for each intent."""
    return {
        intent: tool(intent, _WORDING.get(intent, f"Help with: {intent.replace('_', ' ')}"), {}, ())
        for intent in intents
    }


def rows(context: RecipeContext, split: str) -> Iterator[Row]:
    """One utterance a row, in the seed's order."""
    everything = list(read_jsonl_xz(context.file(FILE)))
    functions = cards(tuple(sorted({entry["intent"] for entry in everything if entry["intent"]})))
    entries = [entry for entry in everything if entry["split"] == SPLITS[split]]
    stream(NAME, context.seed, split).shuffle(entries)
    for number, entry in enumerate(entries):
        rng = stream(NAME, context.seed, split, number)
        intent = entry["intent"]
        others = [card for name, card in functions.items() if name != intent]
        ask = user(entry["text"])
        if intent is None or rng.random() < 0.1:
            tools = offer(rng, [], others, rng.randint(3, 10))
            turns = [ask, assistant(rng.choice(NO_FUNCTION))]
            yield row(NAME, "call", turns, tools, trigger="cannot", out_of_scope=intent is None)
        else:
            tools = offer(rng, [functions[intent]], others, rng.randint(2, 9))
            yield row(NAME, "call", [ask, calling((intent, {}))], tools, trigger="call")


RECIPE = Recipe(
    name=NAME,
    licence="CC BY 3.0 (CLINC150)",
    description="utterances with 150 intents as functions, and some out of scope",
    splits=("train", "test"),
    rows=rows,
    files=(FILE,),
)
