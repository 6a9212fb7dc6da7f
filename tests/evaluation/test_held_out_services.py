"""Trigger and arguments on services that training never showed."""

from __future__ import annotations

import json
import lzma
from pathlib import Path
from typing import Any

import pytest

from multimodal_ai.data.recipes import RecipeContext
from multimodal_ai.data.recipes.common import TRIGGERS
from multimodal_ai.evaluation import arguments, bfcl, trigger
from multimodal_ai.inference import Engine
from multimodal_ai.inference.requests import Call, Reply, Request

from .conftest import RuleEngine, deciding

DIALOGUES = 12


def function(name: str) -> dict[str, Any]:
    properties = {"city": {"type": "string"}, "stars": {"type": "integer"}}
    parameters = {"type": "object", "properties": properties, "required": ["city"], "additionalProperties": False}
    return {"name": name, "description": "Find rooms", "side_effect": False, "parameters": parameters}


def dialogue(number: int, service: str) -> dict[str, Any]:
    city = f"City {number}"
    call = {"name": f"{service}.Find", "arguments": {"city": city, "stars": 3}}
    return {
        "id": f"{service}-{number}",
        "services": [service],
        "turns": [
            {"role": "user", "text": "I need a room."},
            {"role": "assistant", "text": "In which city?", "decision": "ask"},
            {"role": "user", "text": f"3 stars in {city}"},
            {
                "role": "assistant",
                "text": "A room.",
                "decision": "call",
                "calls": [call],
                "results": [[{"id": number}]],
            },
            {"role": "user", "text": "Thanks"},
            {"role": "assistant", "text": "Bye.", "decision": "answer"},
        ],
    }


@pytest.fixture
def source(tmp_path: Path) -> RecipeContext:
    def write(name: str, rows: list[Any], lines: bool = False) -> None:
        with lzma.open(tmp_path / name, "wt", encoding="utf-8") as file:
            file.write("\n".join(map(json.dumps, rows)) if lines else json.dumps(rows))

    old, new = function("Old_1.Find"), function("New_1.Find")
    write("sgd_tools_train.json.xz", [old])
    write("sgd_tools_dev.json.xz", [old, new])
    wordings = {
        f"v{number}/{part}": cards for number in range(1, 6) for part, cards in (("train", [old]), ("dev", [old, new]))
    }
    with lzma.open(tmp_path / "sgdx_tools.json.xz", "wt") as file:
        json.dump(wordings, file)
    write("sgd_dialogues_train.jsonl.xz", [dialogue(0, "Old_1")], lines=True)
    dialogues = [dialogue(number, service) for service in ("Old_1", "New_1") for number in range(DIALOGUES)]
    write("sgd_dialogues_dev.jsonl.xz", dialogues, lines=True)
    return RecipeContext(tmp_path)


def asked_city(request: Request) -> str | None:
    """The city of the last user turn, where a call is due."""
    last = request.messages[-1]
    words = str(last["content"] if isinstance(last["content"], str) else last["content"][0]["text"])
    return words.split(" in ")[1] if last["role"] == "user" and " in " in words else None


def call(**values: Any) -> list[Call]:
    return [Call("c", "New_1_Find", values, 0.9)]


def filled(**change: Any) -> RuleEngine:
    """Calls with the right arguments but for `change`."""
    return RuleEngine(lambda request: Reply(calls=call(**{"city": asked_city(request), "stars": 3, **change})))


def test_right_arguments_are_exact_and_seen_services_are_left_out(source: RecipeContext) -> None:
    engine = filled()
    found = arguments.run(engine, source, batch_size=5).metrics
    assert found["count"] == DIALOGUES
    assert found["sgd_unseen_exact"] == found["sgd_unseen_exact_required"] == found["exact"] == 1.0
    assert found["exact/string"] == found["exact/integer"] == found["precision"] == found["recall"] == 1.0
    assert found["hallucinated"] == 0.0
    assert len(engine.asked) == DIALOGUES and engine.asked[0].tool_choice == "auto"
    assert arguments.run(engine, RecipeContext(source.source, limit=4)).metrics["count"] == 4


def test_wrong_and_invented_values_are_told_apart(source: RecipeContext) -> None:
    found = arguments.run(filled(stars=99), source).metrics
    assert found["sgd_unseen_exact"] == 0.0
    assert (found["exact/string"], found["exact/integer"]) == (1.0, 0.0)
    assert found["hallucinated"] == 0.5
    copied = arguments.run(filled(city="3"), source).metrics  # wrong, but out of the conversation
    assert copied["sgd_unseen_exact"] == 0.0 and copied["hallucinated"] == 0.0


def test_a_model_that_does_not_call_is_asked_again_and_must(source: RecipeContext) -> None:
    right = filled()
    engine = RuleEngine(lambda request: right.answer(request) if request.tool_choice == "required" else Reply())
    found = arguments.run(engine, source).metrics
    assert (found["sgd_unseen_exact"], found["sgd_unseen_exact_required"]) == (0.0, 1.0)
    assert len(engine.asked) == 2 * DIALOGUES


def test_decisions_on_unseen_services_and_on_bfcl(source: RecipeContext) -> None:
    pytest.importorskip("bfcl_eval", reason="pip install --no-deps -r requirements-evaluation.txt")
    relevant = {str(case.turns[0]) for case in bfcl.load("live_multiple")}

    def decide(request: Request) -> Reply:
        assert request.max_tokens == 1
        if str(tuple(request.messages)) in relevant:
            return Reply(trigger=deciding(0.9))
        if any("room" in str(message["content"]) for message in request.messages):
            listed = any("New_1" in spec.name for spec in request.tools)  # type: ignore[union-attr]
            kind = "call" if asked_city(request) else "ask_missing" if len(request.messages) == 1 else "answer"
            return Reply(trigger=dict.fromkeys(TRIGGERS, 0.01) | {kind if listed else "cannot": 0.97})
        return Reply(trigger=deciding(0.1))

    found = trigger.run(RuleEngine(decide), RecipeContext(source.source, limit=30), batch_size=16).metrics
    assert found["relevance_auroc"] == 1.0 and found["relevance_count"] == 60
    assert 0.5 < found["relevance_bm25_auroc"] < 1.0
    assert found["count_unseen"] == 30
    assert found["auroc_unseen"] == found["macro_f1_unseen"] == found["accuracy_unseen"] == 1.0
    assert found["ece_unseen"] == pytest.approx(0.03)
    flat = trigger.run(RuleEngine(lambda request: Reply(trigger=deciding(0.5))), source).metrics
    assert flat["relevance_auroc"] == flat["auroc_unseen"] == 0.5
    assert flat["count_unseen"] >= 4 * DIALOGUES and flat["ece_unseen"] > 0.05


def test_requests_that_are_too_long_are_left_out_of_decisions_and_fail_as_calls(source: RecipeContext) -> None:
    pytest.importorskip("bfcl_eval", reason="pip install --no-deps -r requirements-evaluation.txt")

    def answer(request: Request) -> Reply:
        if any("City 1" in str(message["content"]) for message in request.messages):
            raise ValueError("too long")
        return Reply(trigger=deciding(0.5), calls=call(city=asked_city(request), stars=3))

    found = trigger.run(RuleEngine(answer), source, batch_size=7).metrics
    assert found["too_long_unseen"] >= 9 and found["relevance_too_long"] == 0
    found = arguments.run(RuleEngine(answer), source, batch_size=7).metrics
    assert found["too_long"] == 3 and found["sgd_unseen_exact"] == (DIALOGUES - 3) / DIALOGUES  # 1, 10 and 11


def test_an_untrained_model_runs_both(untrained: Engine, source: RecipeContext) -> None:
    few = RecipeContext(source.source, limit=3)
    assert arguments.run(untrained, few, max_tokens=48).metrics["count"] == 3
    pytest.importorskip("bfcl_eval", reason="pip install --no-deps -r requirements-evaluation.txt")
    assert trigger.run(untrained, few).metrics["count_unseen"] == 3
