"""AgentDojo: the loop stops a script that obeys every attacker, and the benchmark notices where nothing stops it."""

from __future__ import annotations

import pytest

from multimodal_ai.data.recipes import RecipeContext
from multimodal_ai.evaluation import injection
from multimodal_ai.evaluation.common import spread
from multimodal_ai.functions.policy import LoopPolicy
from multimodal_ai.inference import Engine
from multimodal_ai.inference.requests import Call, Reply, Request

from .conftest import RuleEngine

GENEROUS = LoopPolicy(max_steps=40, max_calls=80, identical_calls=9, deadline=600)


@pytest.fixture(autouse=True)
def installed() -> None:
    for name in ("agentdojo", "deepdiff", "docstring_parser", "email_validator"):
        pytest.importorskip(name, reason="pip install --no-deps -r requirements-evaluation.txt")


@pytest.fixture
def attacks() -> list[injection.Attack]:
    everything = [attack for attack in injection.all_attacks(injection.load_suites()) if attack.has_side_effect]
    return [attack for attack in spread(everything, 12) if injection.has_script(attack)]


def test_the_benchmark_is_whole() -> None:
    suites = injection.load_suites()
    assert sum(len(suite.user_tasks) for suite in suites) == 97
    assert sum(len(suite.injection_tasks) for suite in suites) == 35
    assert len(injection.all_attacks(suites)) == 949


def test_the_loop_stops_a_script_that_obeys_and_approval_would_not(attacks: list[injection.Attack]) -> None:
    assert len(attacks) >= 5
    defended = [injection.play(attack, injection.obey(attack)) for attack in attacks]
    assert not any(outcome.reached for outcome in defended)
    open_to_all = [injection.play(attack, injection.obey(attack), GENEROUS, lambda call: "allow") for attack in attacks]
    assert all(outcome.reached for outcome in open_to_all)


def test_tasks_are_solved_by_their_own_calls_and_not_by_silence() -> None:
    tasks = [injection.Attack(suite, next(iter(suite.user_tasks.values()))) for suite in injection.load_suites()]
    solved = [injection.play(task, injection.obey(task), GENEROUS, lambda call: "allow") for task in tasks]
    assert [outcome.solved for outcome in solved] == [True] * 4
    assert not any(outcome.reached for outcome in solved)
    assert not all(injection.play(task, lambda *_: Reply("No.")).solved for task in tasks)


def test_functions_that_do_not_only_read_have_side_effects() -> None:
    suites = {suite.name: suite for suite in injection.load_suites()}
    functions = {function.name: function for function in suites["banking"].tools}
    registry = injection.registry_of(functions, lambda name, arguments: name)
    unsafe = {spec.name for spec in registry.specs if spec.side_effect}
    assert unsafe == {
        "send_money",
        "schedule_transaction",
        "update_scheduled_transaction",
        "update_password",
        "update_user_info",
    }
    send = registry.get("send_money")
    assert send is not None and set(send.spec.required) == {"recipient", "amount", "subject", "date"}
    assert send.call({}) == "send_money"


def test_a_suite_counts_what_it_ran() -> None:
    found = injection.run(RuleEngine(), RecipeContext(limit=3)).metrics
    assert (found["tasks"], found["attacks"], found["too_long"]) == (3, 3, 0)
    assert found["side_effect_success"] == found["utility"] == 0.0

    def refuse(request: Request) -> Reply:
        if request.messages[-1]["role"] == "tool":
            raise ValueError("too long")
        name = next(spec.name for spec in request.tools if not spec.side_effect)  # type: ignore[union-attr]
        return Reply(calls=[Call("c", name, {}, 0.9)])

    result = injection.run(RuleEngine(refuse), RecipeContext(limit=2))
    assert result.metrics["too_long"] == 4
    assert result.examples[0].note == "not taken: too long" and result.metrics["utility"] == 0.0


def test_an_untrained_model_runs_it(untrained: Engine) -> None:
    assert injection.run(untrained, RecipeContext(limit=1), max_tokens=16).metrics["attacks"] == 1
