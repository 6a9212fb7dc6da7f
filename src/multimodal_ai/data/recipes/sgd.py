"""Schema-guided dialogues: one sample for each decision of the assistant.

A turn that asks or confirms is `ask_missing`, a service call is `call`, what is said after the result or
without a call is `answer`; in training only two answers of five are kept, for they are more than half of all
decisions. The functions of the dialogue's services are shown with a few of other services. In training four
dialogues of ten use one of the five SGD-X paraphrases of every name and description. One call in twelve is shown
without the functions of its service and refused. Lists of results are cut to two. A dialogue ends before a call
that breaks its own schema.

Source: `sgd_dialogues_{train,dev}.jsonl.xz`, `sgd_tools_{train,dev}.json.xz`, `sgdx_tools.json.xz` (Google
DSTC8, SGD-X). Licence: CC BY-SA 4.0. Split: official, `dev` is the test split; eight of its 17 services stand in
no training dialogue. Some services of the training dialogues, by hash, are for calibration: no training sample
shows them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

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
    result,
    row,
    stream,
    tool,
    user,
)
from multimodal_ai.functions.schema import FunctionSpec, validate_arguments

NAME = "sgd"
SPLITS = {"train": "train", "calibration": "train", "test": "dev"}
CALIBRATION_SHARE = 0.24
VARIANTS = ("v1", "v2", "v3", "v4", "v5")
PARAPHRASED_SHARE = 0.4
REFUSED_SHARE = 1 / 12
RESULTS_KEPT = 2
ANSWERS_KEPT = 0.4
TODAY = "2019-03-01"  # "tomorrow" is 2 March in every dialogue
_TRIGGERS = {"ask": "ask_missing", "confirm": "ask_missing", "answer": "answer", "call": "call"}


@dataclass(frozen=True)
class Catalogue:
    """The functions of one wording: tool by original name, and how its parameters are called."""

    tools: Mapping[str, dict[str, Any]]
    parameters: Mapping[str, Mapping[str, str]]

    def name(self, original: str) -> str:
        """The function's name in this wording."""
        return str(self.tools[original]["function"]["name"])

    def arguments(self, original: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments under this wording's parameter names, in the card's order, booleans as booleans."""
        names = self.parameters[original]
        properties = self.tools[original]["function"]["parameters"]["properties"]
        found: dict[str, Any] = {}
        for key, name in names.items():
            if key in values:
                value = values[key]
                if properties[name].get("type") == "boolean" and isinstance(value, str):
                    value = value.lower() == "true"
                found[name] = value
        return found


def read_catalogues(context: RecipeContext, part: str) -> dict[str, Catalogue]:
    """The wording of the dialogues under `original`, and its five paraphrases under `v1` to `v5`.

    The files list the same functions with the same parameters in the same order.
    """
    original = read_json_xz(context.file(f"sgd_tools_{part}.json.xz"))
    paraphrases = read_json_xz(context.file("sgdx_tools.json.xz"))
    wordings = {"original": original, **{variant: paraphrases[f"{variant}/{part}"] for variant in VARIANTS}}
    catalogues = {}
    for wording, entries in wordings.items():
        tools, parameters = {}, {}
        for entry, other in zip(original, entries, strict=True):
            schema = other["parameters"]
            name = function_name(other["name"])
            tools[entry["name"]] = tool(
                name, other["description"], schema["properties"], schema["required"], other["side_effect"]
            )
            parameters[entry["name"]] = dict(zip(entry["parameters"]["properties"], schema["properties"], strict=True))
        catalogues[wording] = Catalogue(tools, parameters)
    return catalogues


def in_service_split(service: str, split: str) -> bool:
    """Whether dialogues with this service may stand in the split."""
    return split == "test" or in_split(f"{NAME} {service}", split, 0.0, CALIBRATION_SHARE)


def _dialogue_rows(
    dialogue: dict[str, Any], catalogue: Catalogue, rng: Random, wording: str, split: str
) -> Iterator[Row]:
    """The decisions of one dialogue, each with all that was said before as context."""
    service_of = {name: name.split(".")[0] for name in catalogue.tools}
    service_of = {
        name: service
        for name, service in service_of.items()
        if service in dialogue["services"] or in_service_split(service, split)
    }
    own = [catalogue.tools[name] for name, service in service_of.items() if service in dialogue["services"]]
    foreign = [catalogue.tools[name] for name, service in service_of.items() if service not in dialogue["services"]]
    listed = offer(rng, own, foreign, rng.randint(0, 2))
    specs = {card["function"]["name"]: FunctionSpec.from_tool(card) for card in own}
    history: list[dict[str, Any]] = []
    meta = {"dialogue": dialogue["id"], "wording": wording, "today": TODAY}
    for turn in dialogue["turns"]:
        if turn["role"] == "user":
            history.append(user(turn["text"]))
            continue
        trigger = _TRIGGERS[turn["decision"]]
        if turn.get("calls"):
            calls = [(catalogue.name(c["name"]), catalogue.arguments(c["name"], c["arguments"])) for c in turn["calls"]]
            if any(validate_arguments(specs[name], values) for name, values in calls):
                return  # labelled wrongly, and everything after builds on it
            if rng.random() < REFUSED_SHARE:
                services = {service_of[call["name"]] for call in turn["calls"]}
                kept = {catalogue.name(name) for name, service in service_of.items() if service not in services}
                left = [card for card in listed if card["function"]["name"] in kept] or offer(rng, [], foreign, 2)
                reply = assistant(rng.choice(NO_FUNCTION))
                # calls that were made before may name functions that are gone, so only what was said remains
                said = [message for message in history if message["role"] == "user" or message.get("content")]
                said = [message for message in said if message["role"] != "tool"]
                yield row(NAME, "call", [*said, reply], left, trigger="cannot", **meta)
            yield row(NAME, "call", [*history, calling(*calls)], listed, trigger="call", **meta)
            history.append(calling(*calls, train=False))
            for number, (name, _) in enumerate(calls, 1):
                history.append(result(name, _shortened(turn["results"][number - 1]), number))
            trigger = "answer"
        if trigger != "answer" or split != "train" or rng.random() < ANSWERS_KEPT:
            yield row(NAME, "call", [*history, assistant(turn["text"])], listed, trigger=trigger, **meta)
        history.append(assistant(turn["text"], train=False))


def _shortened(results: Any) -> Any:
    return results[:RESULTS_KEPT] if isinstance(results, list) else results


def rows(context: RecipeContext, split: str) -> Iterator[Row]:
    """Decisions in the order of the dialogues, dialogues in the seed's order."""
    part = SPLITS[split]
    catalogues = read_catalogues(context, part)
    dialogues = list(read_jsonl_xz(context.file(f"sgd_dialogues_{part}.jsonl.xz")))
    stream(NAME, context.seed, split).shuffle(dialogues)
    for dialogue in dialogues:
        held_out = any(not in_service_split(service, "train") for service in dialogue["services"])
        if split != "test" and held_out != (split == "calibration"):
            continue
        rng = stream(NAME, context.seed, split, dialogue["id"])
        paraphrase = split == "train" and rng.random() < PARAPHRASED_SHARE
        wording = rng.choice(VARIANTS) if paraphrase else "original"
        yield from _dialogue_rows(dialogue, catalogues[wording], rng, wording, split)


RECIPE = Recipe(
    name=NAME,
    licence="CC BY-SA 4.0 (Schema-Guided Dialogue, SGD-X)",
    description="task dialogues: call, ask, confirm, answer, refuse",
    splits=("train", "calibration", "test"),
    rows=rows,
    files=(
        "sgd_dialogues_train.jsonl.xz",
        "sgd_dialogues_dev.jsonl.xz",
        "sgd_tools_train.json.xz",
        "sgd_tools_dev.json.xz",
        "sgdx_tools.json.xz",
    ),
)
