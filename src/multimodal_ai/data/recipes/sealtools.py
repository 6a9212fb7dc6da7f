"""4,076 function cards from many fields, with requests that need one or several calls.

Types become JSON Schema types. Requests whose calls need the result of another one are left out, for the
results are not known, and so are calls that break their own schema. Half of the distractors come from the
same field. One request of seven is shown without its functions and refused. Functions that are called in
the test split alone are not shown in training.

Source: `sealtools_tools.jsonl.xz`, `sealtools_calls.jsonl.xz` (Seal-Tools, M. Wu et al. 2024). Licence:
Apache-2.0. Split: official (`val` is the test split).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from multimodal_ai.data.recipes.common import (
    NO_FUNCTION,
    Recipe,
    RecipeContext,
    Row,
    assistant,
    calling,
    function_name,
    offer,
    read_jsonl_xz,
    row,
    stream,
    tool,
    user,
)
from multimodal_ai.functions.schema import FunctionSpec, validate_arguments

NAME = "sealtools"
TOOLS, CALLS = "sealtools_tools.jsonl.xz", "sealtools_calls.jsonl.xz"
SPLITS = {"train": "train", "test": "val"}
TYPES = {"str": "string", "int": "integer", "float": "number", "bool": "boolean", "list": "array", "dict": "object"}


def convert(entry: dict[str, Any]) -> dict[str, Any]:
    """A card of the source as a tool with JSON Schema types; an unknown type is left open."""
    properties = {
        name: {**({"type": TYPES[one["type"]]} if one["type"] in TYPES else {}), "description": one["description"]}
        for name, one in entry["parameters"].items()
    }
    required = [name for name in entry["required"] if name in properties]
    return tool(function_name(entry["api_name"]), entry["api_description"], properties, required)


def coerce(value: Any, schema: dict[str, Any]) -> Any:
    """A value as its schema wants it where no meaning changes: `3` of a number stays, of a string is `"3"`."""
    if schema.get("type") == "string" and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return value


def called(requests: Iterable[dict[str, Any]], split: str) -> set[str]:
    """Names of the functions that the requests of a split call."""
    return {call["api"] for one in requests if one["split"] == SPLITS[split] for call in one["calling"]}


def rows(context: RecipeContext, split: str) -> Iterator[Row]:
    """One request a row, in the seed's order."""
    everything = list(read_jsonl_xz(context.file(CALLS)))
    entries = list(read_jsonl_xz(context.file(TOOLS)))
    if split == "train":
        unseen = called(everything, "test") - called(everything, "train")
        entries = [entry for entry in entries if entry["api_name"] not in unseen]
    tools = {entry["api_name"]: convert(entry) for entry in entries}
    fields: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for entry in entries:
        fields[entry["field"]].append(tools[entry["api_name"]])
    field_of = {entry["api_name"]: entry["field"] for entry in entries}
    requests = [one for one in everything if one["split"] == SPLITS[split]]
    stream(NAME, context.seed, split).shuffle(requests)
    for request in requests:
        rng = stream(NAME, context.seed, request["id"])
        calls = []
        for call in request["calling"]:
            schema = tools[call["api"]]["function"]["parameters"]["properties"]
            values = {key: coerce(value, schema.get(key, {})) for key, value in call["parameters"].items()}
            calls.append((call["api"], values))
        if any(str(value).startswith("API_call") for _, values in calls for value in values.values()):
            continue
        gold = [tools[name] for name in dict.fromkeys(name for name, _ in calls)]
        if any(validate_arguments(FunctionSpec.from_tool(tools[name]), values) for name, values in calls):
            continue
        near = [card for name in dict.fromkeys(name for name, _ in calls) for card in fields[field_of[name]]]
        far = rng.sample(list(tools.values()), 12)
        golden = {one["function"]["name"] for one in gold}
        others = [one for one in rng.sample(near, min(6, len(near))) + far if one["function"]["name"] not in golden]
        ask = user(request["query"])
        if rng.random() < 1 / 7:
            turns = [ask, assistant(rng.choice(NO_FUNCTION))]
            yield row(NAME, "call", turns, offer(rng, [], others, rng.randint(1, 6)), trigger="cannot")
        else:
            listed = offer(rng, gold, others, rng.randint(0, 6))
            yield row(
                NAME,
                "call",
                [ask, calling(*((function_name(name), values) for name, values in calls))],
                listed,
                trigger="call",
                id=request["id"],
            )


RECIPE = Recipe(
    name=NAME,
    licence="Apache-2.0 (Seal-Tools)",
    description="requests over 4,076 function cards, one or several calls each",
    splits=("train", "test"),
    rows=rows,
    files=(TOOLS, CALLS),
)
