"""Requests and the one tool that serves them, tools without parameters.

Two to eight tools are shown; in one sample of eight the right one is not, and the request is refused.

Source: `metatool_queries.jsonl.xz`, `metatool_tools.json.xz` (MetaTool, Y. Huang et al. 2024). Licence: MIT.
Split: by tool, by hash, 20% for testing and 12% for calibration: no split shows the tools of another one.
"""

from __future__ import annotations

from collections.abc import Iterator

from multimodal_ai.data.recipes.common import (
    NO_FUNCTION,
    Recipe,
    RecipeContext,
    Row,
    assistant,
    calling,
    function_name,
    in_split,
    offer,
    read_json_xz,
    read_jsonl_xz,
    row,
    stream,
    tool,
    user,
)

NAME = "metatool"
TEST_SHARE, CALIBRATION_SHARE = 0.2, 0.12
QUERIES, TOOLS = "metatool_queries.jsonl.xz", "metatool_tools.json.xz"


def rows(context: RecipeContext, split: str) -> Iterator[Row]:
    """One request a row, in the seed's order."""
    descriptions: dict[str, str] = read_json_xz(context.file(TOOLS))
    cards = {
        name: tool(function_name(name), description, {}, ())
        for name, description in descriptions.items()
        if in_split(f"{NAME} {name}", split, TEST_SHARE, CALIBRATION_SHARE)
    }
    entries = [entry for entry in read_jsonl_xz(context.file(QUERIES)) if entry["tool"] in cards]
    stream(NAME, context.seed, split).shuffle(entries)
    for number, entry in enumerate(entries):
        rng = stream(NAME, context.seed, split, number)
        gold = cards[entry["tool"]]
        others = [card for name, card in cards.items() if name != entry["tool"]]
        ask = user(entry["query"])
        if rng.random() < 1 / 8:
            tools = offer(rng, [], others, rng.randint(2, 8))
            yield row(NAME, "call", [ask, assistant(rng.choice(NO_FUNCTION))], tools, trigger="cannot")
        else:
            tools = offer(rng, [gold], others, rng.randint(1, 7))
            yield row(NAME, "call", [ask, calling((gold["function"]["name"], {}))], tools, trigger="call")


RECIPE = Recipe(
    name=NAME,
    licence="MIT (MetaTool)",
    description="requests and the one of 159 tools that serves them",
    splits=("train", "calibration", "test"),
    rows=rows,
    files=(QUERIES, TOOLS),
)
