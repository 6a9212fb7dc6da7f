"""Generated function cards, and requests that name what is wanted in other words than the card does.

Every pair (action, object) is one function with a few surfaces: names, parameter names and descriptions
differ. A sample shows one to five cards and a request that must be called, answered, asked about or
refused. Pairs are divided between train, calibration and test by hash, so a test function was never seen;
wordings of requests are partly held out too, from calibration as well.

Source: generated here. Licence: Apache-2.0, as the project. Split: by (action, object).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from multimodal_ai.data.recipes import small_talk
from multimodal_ai.data.recipes.common import (
    NO_FUNCTION,
    Recipe,
    RecipeContext,
    Row,
    assistant,
    calling,
    in_split,
    result,
    row,
    stream,
    tool,
    user,
)
from multimodal_ai.data.recipes.function_words import ACTIONS, FIELDS, NUMBER_WORDS, OBJECTS, Action, Field, draw_value

SURFACES = 4
TRIGGER_SHARES = {"call": 0.5, "answer": 0.2, "ask_missing": 0.15, "cannot": 0.15}
PARALLEL_SHARE = 0.08
CALIBRATION_SHARE = 0.05
MASKED_SHARE = 0.15
FOLLOW_UP_SHARE = 0.3
OPTIONAL_SHARE = 0.3

_WRAPPERS = (
    "{}.",
    "{}.",
    "Please {}.",
    "Can you {}?",
    "Could you {}, please?",
    "I want to {}.",
    "I'd like to {}.",
    "I need to {}.",
    "Hi, {}.",
    "{}, please.",
    "Hey, can you {}?",
    "Would you {} for me?",
    "Time to {}.",
)
_HELD_OUT_WRAPPERS = ("Help me {}.", "Be so kind and {}.", "My next task is to {}.", "Go ahead and {}, thanks.")
_ASKS = ("What is the {label}?", "Which {label} should I use?", "Please tell me the {label}.")
_QUESTION_WORDS = ("how ", "what ", "where ", "which ")


@dataclass(frozen=True)
class Function:
    """One generated function: an action on an object."""

    kind: str
    action: Action
    noun: str
    spoken: str

    @property
    def key(self) -> str:
        """The pair that decides the split, such as `delete note`."""
        return f"{self.action.key} {self.noun}"


@dataclass(frozen=True)
class Card:
    """A surface of a function: the tool as shown, and the parameter name of each field."""

    function: Function
    tool: dict[str, Any]
    parameters: dict[str, str]

    @property
    def name(self) -> str:
        """The function's name on this card."""
        return str(self.tool["function"]["name"])


@dataclass(frozen=True)
class Wish:
    """A request for one function: the clause that says it, and the arguments it states."""

    text: str
    values: dict[str, Any]
    missing: str | None = None


@functools.lru_cache(maxsize=4)
def functions(split: str) -> tuple[Function, ...]:
    """All generated functions of a split, in a fixed order."""
    return tuple(
        function
        for kind, pairs in OBJECTS.items()
        for noun, spoken in pairs
        for action in ACTIONS[kind]
        if in_split((function := Function(kind, action, noun, spoken)).key, split, calibration_share=CALIBRATION_SHARE)
    )


@functools.cache
def _neighbours(split: str) -> dict[str, tuple[Function, ...]]:
    """For each function, those of the split that share its object or its action: the hard distractors."""
    pool = functions(split)
    return {
        one.key: tuple(
            other
            for other in pool
            if other is not one and (other.noun == one.noun or other.action.key == one.action.key)
        )
        for one in pool
    }


def plural(noun: str) -> str:
    """Plural of a noun of the word lists; in `list of wishes` the first word changes."""
    for joint in (" of ", " to "):
        if joint in noun:
            head, tail = noun.split(joint, 1)
            return plural(head) + joint + tail
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + ("es" if noun.endswith(("s", "x", "ch", "sh")) else "s")


def with_article(noun: str) -> str:
    """`a note`, `an order`."""
    return ("an " if noun[0].lower() in "aeio" or noun.startswith("um") else "a ") + noun


def _schema(field: Field, description: str) -> dict[str, Any]:
    """JSON Schema of a field."""
    if field.kind == "enum":
        return {"type": "string", "enum": list(field.options), "description": description}
    kind = field.kind if field.kind in ("integer", "number", "boolean") else "string"
    bounds = {"minimum": 1, "maximum": 5} if field.label == "number of stars" else {}
    return {"type": kind, "description": description, **bounds}


@functools.cache
def card(function: Function, surface: int = 0) -> Card:
    """Surface number `surface` (0 to SURFACES-1) of a function, always the same one."""
    rng = stream("card", function.key, surface)
    action, noun = function.action, function.noun
    verb, word = rng.choice(action.names), noun.replace(" ", "_").replace("-", "_")
    style = rng.randrange(4)
    if style == 0:
        name = "".join(part.capitalize() for part in f"{verb}_{word}".split("_"))
        name = name[0].lower() + name[1:]
    elif style == 1:
        name = f"{word}_{verb.removesuffix('_of').removesuffix('_to').removesuffix('_for')}"
    else:
        name = f"{verb}_{word}"
    describe = rng.choice(action.descriptions).format(a=with_article(noun), obj=noun, plural=plural(noun))
    fields = list(action.required) + rng.sample(action.optional, len(action.optional))
    parameters: dict[str, str] = {}
    properties: dict[str, Any] = {}
    for key in fields:
        field = FIELDS[key]
        free = [name for name in field.names if name not in properties]
        parameters[key] = rng.choice(free)
        properties[parameters[key]] = _schema(field, rng.choice(field.descriptions))
    required = [parameters[key] for key in action.required]
    return Card(function, tool(name, describe, properties, required, action.side_effect), parameters)


def _mask(one: Card, rng: Random) -> Card:
    """The same card under a name that says nothing."""
    name = "fn_" + "".join(rng.choice("abcdefghjkmnpqrstuvwxyz23456789") for _ in range(3))
    return Card(one.function, {"type": "function", "function": {**one.tool["function"], "name": name}}, one.parameters)


def draw_cards(
    rng: Random, split: str, count: int, near: Sequence[Function] = (), without: Sequence[Function] = ()
) -> list[Card]:
    """`count` distractor cards of different functions; half of them resemble those in `near`.

    None of them is a function in `near` or `without`, and no two share a name.
    """
    pool = functions(split)
    taken = {one.key for one in (*near, *without)}
    cards: list[Card] = []
    names: set[str] = set()
    while len(cards) < count:
        choices: Sequence[Function] = pool
        if near and rng.random() < 0.5:
            choices = _neighbours(split)[rng.choice(near).key] or pool
        function = rng.choice(choices)
        drawn = card(function, rng.randrange(SURFACES))
        if function.key not in taken and drawn.name not in names:
            taken.add(function.key)
            names.add(drawn.name)
            cards.append(drawn)
    return cards


def spoken_value(value: Any, rng: Random) -> str:
    """How a person states a value: verbatim, small numbers now and then as a word."""
    if isinstance(value, int) and value in NUMBER_WORDS and rng.random() < 0.08:
        return NUMBER_WORDS[value]
    return str(value)


def make_wish(function: Function, rng: Random, split: str, missing: bool = False) -> Wish:
    """A request clause for a function with drawn values; `missing` leaves one required value out."""
    held_out = split == "test" and rng.random() < 0.5
    action = function.action
    noun = rng.choice((function.noun, function.spoken, function.spoken))
    core = rng.choice(action.held_out if held_out else action.requests)
    dropped = rng.choice(action.required) if missing else None
    values: dict[str, Any] = {}
    clauses: dict[str, str] = {}
    for key in action.required + action.optional:
        if key == dropped or (key in action.optional and rng.random() >= OPTIONAL_SHARE):
            continue
        field = FIELDS[key]
        values[key] = value = draw_value(field, rng)
        if field.kind == "boolean":
            wordings = field.when_true if value else field.when_false
        else:
            wordings = field.held_out if held_out and rng.random() < 0.5 and field.held_out else field.clauses
        clauses[key] = rng.choice(wordings).replace("{v}", spoken_value(value, rng))
    first = clauses.pop(action.required[0], "")  # stands right behind the noun: the note called X
    determiner = rng.choice(("the", "the", "my", "our", "that"))
    text = core.format(a=with_article(noun) + first, the=f"{determiner} {noun}{first}", plural=plural(noun) + first)
    text += "".join(clauses.values())
    return Wish(text, values, dropped)


def phrase(clause: str, rng: Random, split: str) -> str:
    """A whole sentence around a clause: an order, a polite question, a wish."""
    if clause.startswith(_QUESTION_WORDS):
        return clause[0].upper() + clause[1:] + "?"
    wrapper = rng.choice(_HELD_OUT_WRAPPERS if split == "test" and rng.random() < 0.4 else _WRAPPERS)
    text = wrapper.format(clause)
    return (text[0].upper() + text[1:]) if rng.random() < 0.85 else text[0].lower() + text[1:].rstrip(".")


def arguments(one: Card, wish: Wish) -> dict[str, Any]:
    """The wish's values under the card's parameter names, in the card's order."""
    return {name: wish.values[key] for key, name in one.parameters.items() if key in wish.values}


def ask_for(wish: Wish, rng: Random) -> str:
    """The question that a wish with a missing value must be met with."""
    assert wish.missing is not None
    return rng.choice(_ASKS).format(label=FIELDS[wish.missing].label)


def _outcome(function: Function, rng: Random) -> tuple[Any, str]:
    """What a function may return, and the sentence that passes it on."""
    if rng.random() < 0.12:
        error = rng.choice(("not found", "no permission", "the service is down", "already done"))
        return {"error": error}, f"That did not work: {error}."
    if function.action.outcome == "list":
        field = FIELDS["place" if function.kind == "place" else "full_name" if function.kind == "person" else "title"]
        found = list(dict.fromkeys(str(draw_value(field, rng)) for _ in range(rng.randint(0, 3))))
        said = (
            "I found nothing."
            if not found
            else f"I found {', '.join(found[:-1])}{' and ' * (len(found) > 1)}{found[-1]}."
        )
        return {"results": found}, said
    if function.action.outcome == "state":
        states = {
            "order": ("shipped", "delayed", "paid", "in progress", "delivered"),
            "device": ("on", "off", "broken", "waiting"),
            "place": ("open until 8 pm", "closed today", "12 minutes away", "open all day"),
        }[function.kind]
        state = rng.choice(states)
        return {"state": state}, f"It is {state}."
    if rng.random() < 0.5:
        code = f"{rng.choice('ABCDEFGH')}{rng.randint(10, 999)}"
        return {"status": "ok", "id": code}, f"Done, the id is {code}."
    return {"status": "ok"}, "Done."


def _sample(rng: Random, split: str) -> Row:
    """One sample of the mix of triggers."""
    trigger = rng.choices(list(TRIGGER_SHARES), list(TRIGGER_SHARES.values()))[0]
    pool = functions(split)
    gold = rng.choice(pool)
    masked = split == "train" and rng.random() < MASKED_SHARE
    extra = min(rng.randint(0, 4), rng.randint(0, 4)) if rng.random() < 0.5 else rng.randint(0, 4)
    golds = [gold]
    if trigger == "call" and rng.random() < PARALLEL_SHARE * 0.6:
        golds.append(rng.choice([other for other in _neighbours(split)[gold.key]] or pool))
    others = draw_cards(rng, split, max(extra - len(golds) + 1, 1 if trigger == "cannot" else 0), golds)
    cards = [card(one, rng.randrange(SURFACES)) for one in golds]
    shown = (others if trigger == "cannot" else cards + others)[:5]
    if len({one.name for one in shown}) < len(shown):
        shown, others = cards, []
        if len({one.name for one in cards}) < len(cards):
            golds, cards, shown = golds[:1], cards[:1], cards[:1]
    if masked:
        renamed = {one.name: _mask(one, rng) for one in shown}
        if len({one.name for one in renamed.values()}) == len(shown):
            shown = [renamed[one.name] for one in shown]
            cards = [renamed.get(one.name, one) for one in cards]
    rng.shuffle(shown)
    wish = make_wish(gold, rng, split, missing=trigger == "ask_missing")
    tools = [one.tool for one in shown]
    meta: dict[str, Any] = {"trigger": trigger, "function": gold.key}

    if trigger == "call":
        calls = [(cards[0].name, arguments(cards[0], wish))]
        clause = wish.text
        if len(golds) == 2 or rng.random() < PARALLEL_SHARE * 0.4:
            second = make_wish(golds[-1], rng, split)
            if not second.text.startswith(_QUESTION_WORDS) and not clause.startswith(_QUESTION_WORDS):
                clause += rng.choice((" and ", " and also ", ", then ")) + second.text
                calls.append((cards[-1].name, arguments(cards[-1], second)))
        return row(NAME, "call", [user(phrase(clause, rng, split)), calling(*calls)], tools, **meta)
    request = user(phrase(wish.text, rng, split))
    if trigger == "ask_missing":
        assert wish.missing is not None
        meta["asks_for"] = [cards[0].name, cards[0].parameters[wish.missing]]
        return row(NAME, "call", [request, assistant(ask_for(wish, rng))], tools, **meta)
    if trigger == "cannot":
        return row(NAME, "call", [request, assistant(rng.choice(NO_FUNCTION))], tools, **meta)
    if rng.random() < FOLLOW_UP_SHARE:
        value, said = _outcome(gold, rng)
        called = calling((cards[0].name, arguments(cards[0], wish)), train=False)
        messages = [request, called, result(cards[0].name, value), assistant(said)]
        return row(NAME, "call", messages, tools, **meta)
    if rng.random() < 0.1 and not wish.text.startswith(_QUESTION_WORDS):
        text, said = small_talk.withdrawn(wish.text, rng, split)
    else:
        text, said = small_talk.exchange(rng, split)
    return row(NAME, "call", [user(text), assistant(said)], tools, trigger=trigger)


def rows(context: RecipeContext, split: str) -> Iterator[Row]:
    """Samples without end; sample `i` depends on (seed, split, i) alone."""
    number = 0
    while True:
        yield _sample(stream(NAME, context.seed, split, number), split)
        number += 1


NAME = "function_cards"

RECIPE = Recipe(
    name=NAME,
    licence="Apache-2.0 (generated)",
    description="requests over generated function cards: call, answer, ask for a missing value, refuse",
    splits=("train", "calibration", "test"),
    rows=rows,
    sizes={"train": 30_000, "calibration": 2_000, "test": 2_000},
)
