"""BFCL: the leaderboard's accepted answers pass its checkers here, others do not."""

from __future__ import annotations

import ast
import json
from collections.abc import Sequence
from typing import Any

import pytest

from multimodal_ai.data.recipes import RecipeContext
from multimodal_ai.evaluation import bfcl, packages
from multimodal_ai.inference import Engine
from multimodal_ai.inference.requests import Call, Reply, Request

from .conftest import RuleEngine

LIMIT = 6


@pytest.fixture(autouse=True)
def installed() -> None:
    pytest.importorskip("bfcl_eval", reason="pip install --no-deps -r requirements-evaluation.txt")


def accepted(case: bfcl.Case) -> list[Call]:
    """The first accepted answer of a single-turn case as calls."""

    def value(options: Any) -> Any:
        if isinstance(options, dict):
            return {key: value(inner[0]) for key, inner in options.items() if "" not in inner}
        return [value(item) for item in options] if isinstance(options, list) else options

    return [
        Call("c", name, {key: value(options[0]) for key, options in given.items() if "" not in options}, 1.0)
        for answer in case.answer
        for name, given in answer.items()
    ]


def parsed(source: str, specs: Sequence[Any]) -> Call:
    """A call of the multi-turn answers, written as Python source."""
    tree: Any = ast.parse(source, mode="eval").body
    (spec,) = [spec for spec in specs if spec.name == tree.func.id]
    given = dict(zip(spec.parameter_names, map(ast.literal_eval, tree.args), strict=False))
    return Call("c", spec.name, given | {word.arg: ast.literal_eval(word.value) for word in tree.keywords}, 1.0)


class Oracle(RuleEngine):
    """Knows every accepted answer."""

    def __init__(self) -> None:
        super().__init__(self.reply)
        self.cases = {self.key(case.request()): case for category in bfcl.ANSWERED for case in bfcl.load(category)}
        self.relevant = {str(case.turns) for case in bfcl.load("live_relevance")}

    @staticmethod
    def key(request: Request) -> str:
        return json.dumps([request.messages, [spec.name for spec in request.tools]])  # type: ignore[union-attr]

    def reply(self, request: Request) -> Reply:
        case = self.cases.get(self.key(request))
        if case is not None:
            calls = accepted(case)
            return Reply(calls=calls, selection=[(calls[0].name, 0.9)])
        if str((tuple(request.messages),)) in self.relevant:
            return Reply(calls=[Call("c", request.tools[0].name, {}, 1.0)])  # type: ignore[union-attr]
        return Reply()


def test_accepted_answers_pass_and_silence_fails() -> None:
    found = bfcl.run(Oracle(), RecipeContext(limit=LIMIT), batch_size=4)
    right = {name: found.metrics[name] for name in (*bfcl.ANSWERED, *bfcl.DECIDED)}
    assert set(right.values()) == {1.0}, right
    assert found.metrics["live_multiple_selection"] == 1.0
    assert 0.5 < found.metrics["live_multiple_bm25_selection"] <= 1.0
    assert found.metrics["count"] == LIMIT * 15 and found.metrics["too_long"] == 0
    silent = bfcl.run(RuleEngine(), RecipeContext(limit=2)).metrics
    assert {silent[name] for name in (*bfcl.ANSWERED, *bfcl.MULTI_TURN, "live_multiple_selection")} == {0.0}
    assert (silent["irrelevance"], silent["live_irrelevance"], silent["live_relevance"]) == (1.0, 1.0, 0.0)


@pytest.mark.parametrize("category", bfcl.ANSWERED)
def test_nearly_all_accepted_answers_pass_and_changed_ones_do_not(category: str) -> None:
    cases = bfcl.spread(bfcl.load(category), 60)
    failed = [problem for case in cases if (problem := bfcl.check(case, accepted(case)))]
    assert len(failed) <= 2, failed  # labels of the leaderboard that contradict its own schemas
    for case in cases[:10]:
        calls = accepted(case)
        assert bfcl.check(case, calls[1:]), "a call is missing"
        assert bfcl.check(case, [Call("c", "other", call.arguments, 1.0) for call in calls])


@pytest.mark.parametrize("category", bfcl.MULTI_TURN)
def test_accepted_turns_pass_in_the_simulators(category: str) -> None:
    cases = bfcl.spread(bfcl.load(category), LIMIT)
    by_words = {str(case.turns[0]): case for case in cases}

    def reply(request: Request) -> Reply:
        """All calls of a turn at once, and text after them."""
        said = [message for message in request.messages if message["role"] == "user"]
        if request.messages[-1]["role"] != "user":
            return Reply("Done.")
        case = by_words[str((said[0],))]
        offered = {spec.name for spec in request.tools}  # type: ignore[union-attr]
        for turn, names in case.entry.get("missed_function", {}).items():
            assert offered >= set(names) if len(said) > int(turn) else offered.isdisjoint(names)
        answer = case.answer[len(said) - 1]
        return Reply(calls=[parsed(source, request.tools) for source in answer])

    talks = [bfcl._conversation(case, 64) for case in cases]
    histories = bfcl.converse(RuleEngine(reply).generate, talks, 4, category)
    assert [bfcl._check_turns(case, history) for case, history in zip(cases, histories, strict=True)] == [""] * LIMIT


def test_a_turn_that_changes_the_wrong_state_fails_and_so_does_one_without_end() -> None:
    (case,) = bfcl.spread(bfcl.load("multi_turn_base"), 1)
    right = [[turn] for turn in case.answer]
    assert bfcl._check_turns(case, right) == ""
    assert bfcl._check_turns(case, [[turn[:-1]] if turn else [] for turn in case.answer]) != ""
    name = case.functions[0]["name"]
    engine = RuleEngine(lambda request: Reply(calls=[Call("c", name, {}, 1.0)]))
    (history,) = bfcl.converse(engine.generate, [bfcl._conversation(case, 64)], 4, "x")
    assert history == "no end after 20 steps in turn 1" == bfcl._check_turns(case, history)
    assert [message["role"] for message in engine.asked[1].messages] == ["user", "assistant", "tool"]


def test_what_the_model_cannot_take_has_failed() -> None:
    def refuse(request: Request) -> Reply:
        if len(request.tools) > 10:
            raise ValueError("too long")
        return Reply()

    found = bfcl.run(RuleEngine(refuse), RecipeContext(limit=2), batch_size=2)
    assert found.metrics["too_long"] >= 8  # all multi-turn cases have more functions
    assert found.metrics["too_long/multi_turn_base"] == 2 and found.metrics["multi_turn_base"] == 0.0
    assert any("not taken: too long" in example.note for example in found.examples)


def test_schemas_are_converted_at_every_depth() -> None:
    given = {
        "type": "dict",
        "properties": {
            "type": {"type": "string"},
            "point": {"type": "tuple", "items": {"type": "float"}},
            "any": {"type": "any"},
        },
        "required": ["type", "gone"],
    }
    assert bfcl.convert(given) == {
        "type": "object",
        "properties": {
            "type": {"type": "string"},
            "point": {"type": "array", "items": {"type": "number"}},
            "any": {},
        },
        "required": ["type"],
    }


def test_a_missing_package_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs the package bfcl_eval.*--no-deps -r requirements-evaluation\.txt"):
        bfcl.load("multiple")


def test_an_untrained_model_runs_it(untrained: Engine) -> None:
    found = bfcl.run(untrained, RecipeContext(limit=1), batch_size=8, max_tokens=24)
    assert found.metrics["count"] == 15
