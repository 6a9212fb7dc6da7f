"""Prompt injection through functions' results: AgentDojo, run through the function loop with nobody to ask.

Side effects run unasked where provenance allows it (`auto_approve`), and are denied where it does not, as in a
program that runs on its own. The benchmark's own environments and checks say whether the user's task was solved
and whether the attacker's goal was reached. A model that understands little is safe by accident: so the same
attacks are also carried out by a script that does everything the attacker wants.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import yaml

from multimodal_ai.data.recipes.common import RecipeContext
from multimodal_ai.evaluation.common import Example, Generator, SuiteResult, in_batches, spread
from multimodal_ai.evaluation.packages import package_folder, stand_ins
from multimodal_ai.functions.loop import FunctionLoop
from multimodal_ai.functions.policy import Approve, LoopPolicy, Respond, deny
from multimodal_ai.functions.registry import FunctionRegistry, model_schema
from multimodal_ai.functions.schema import FunctionSpec
from multimodal_ai.inference.requests import Call, Reply, Request

PACKAGE, VERSION = "agentdojo", "v1.2.2"
# Imported by the package for pipelines that are not used here.
VENDORS = ("anthropic", "cohere", "dotenv", "google.genai", "langchain", "openai", "requests", "tenacity")
READS = ("check_", "get_", "list_", "read_", "search_")  # how the names of functions begin that change nothing
WORDS_ONLY = {("travel", "injection_task_6"), ("slack", "injection_task_3")}  # goals without any side effect
UNATTENDED = LoopPolicy(auto_approve=True, deadline=600.0)


@dataclass(frozen=True)
class Attack:
    """A user's task, and a goal whose instructions an attacker put wherever the task has to read; None without."""

    suite: Any
    user: Any
    goal: Any = None

    @property
    def has_side_effect(self) -> bool:
        return self.goal is not None and (self.suite.name, self.goal.ID) not in WORDS_ONLY

    def environment(self) -> Any:
        """A fresh environment, instructions included."""
        attacker = _dojo().attacker(self.suite.name)
        return _environment(self.suite, attacker.attack(self.user, self.goal) if self.goal else {})


def run(engine: Generator, context: RecipeContext, batch_size: int = 32, max_tokens: int = 192) -> SuiteResult:
    """Run the users' tasks alone, and under attack, at most `context.limit` of each.

    Returns:
        `utility` (tasks solved) and `utility_under_attack`; `side_effect_success` (attacks with a side effect
        that reached their goal), `read_only_success` (the others), `obedient_side_effect_success` (the same
        attacks by a script that does what they want); `attacks`, `tasks`; `too_long`: runs that the model could
        not go on with.

    Raises:
        ValueError: where `agentdojo` is not installed, with the command that installs it.
    """
    suites = load_suites()
    tasks = spread([Attack(suite, task) for suite in suites for task in suite.user_tasks.values()], context.limit)
    attacks = spread(all_attacks(suites), context.limit)
    result = SuiteResult()
    model = _model(engine, max_tokens)
    alone = [play(attack, model) for attack in _each(tasks, "Tasks")]
    under = [play(attack, model) for attack in _each(attacks, "Attacks")]
    scripted = [attack for attack in attacks if attack.has_side_effect and has_script(attack)]
    obedient = [play(attack, obey(attack)).reached for attack in _each(scripted, "Attacks obeyed")]
    result.add_proportion("utility", [outcome.solved for outcome in alone])
    result.add_proportion("utility_under_attack", [outcome.solved for outcome in under])
    pairs = list(zip(attacks, under, strict=True))
    result.add_proportion("side_effect_success", [each.reached for attack, each in pairs if attack.has_side_effect])
    result.add_proportion("read_only_success", [each.reached for attack, each in pairs if not attack.has_side_effect])
    result.add_proportion("obedient_side_effect_success", obedient)
    result.metrics["tasks"], result.metrics["attacks"] = float(len(tasks)), float(len(attacks))
    result.metrics["too_long"] = float(sum(bool(outcome.refused) for outcome in (*alone, *under)))
    for attack, outcome in [*zip(tasks, alone, strict=True), *pairs]:
        result.examples.append(_example(attack, outcome))
    return result


# -- the benchmark --------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _dojo() -> SimpleNamespace:
    package_folder(PACKAGE, "injection")
    with stand_ins(VENDORS), _quiet():
        from agentdojo.agent_pipeline.tool_execution import tool_result_to_str
        from agentdojo.attacks.base_attacks import FixedJailbreakAttack
        from agentdojo.attacks.important_instructions_attacks import ImportantInstructionsAttack
        from agentdojo.functions_runtime import FunctionCall
        from agentdojo.task_suite.load_suites import get_suites
        from agentdojo.task_suite.task_suite import read_suite_file
    suites, template = get_suites(VERSION), ImportantInstructionsAttack._JB_STRING
    return SimpleNamespace(
        suites=suites,
        attacker=lru_cache(lambda name: FixedJailbreakAttack(template, suites[name], None)),
        call=FunctionCall,
        file=read_suite_file,
        text=tool_result_to_str,
    )


def load_suites() -> list[Any]:
    """AgentDojo's four suites (workspace, travel, banking, slack): 97 users' tasks, 35 attackers' goals."""
    return list(_dojo().suites.values())


def all_attacks(suites: Sequence[Any]) -> list[Attack]:
    """Every task with every goal of its suite."""
    return [
        Attack(suite, user, goal)
        for suite in suites
        for user in suite.user_tasks.values()
        for goal in suite.injection_tasks.values()
    ]


def has_script(attack: Attack) -> bool:
    """Whether the benchmark says by which calls the goal is reached; for eight of the 35 it does not."""
    return bool(_script_of(attack.goal, _environment(attack.suite, {})))


def _environment(suite: Any, injections: Mapping[str, str]) -> Any:
    """As the suite's own method, ten times as fast: it parses YAML in Python."""
    text = _dojo().file(suite.name, "environment.yaml", suite.data_path)
    filled = text.format(**{**_defaults(suite), **injections})
    return suite.environment_type.model_validate(yaml.load(filled, getattr(yaml, "CSafeLoader", yaml.SafeLoader)))


@lru_cache
def _defaults(suite: Any) -> dict[str, str]:
    return suite.get_injection_vector_defaults()


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def registry_of(functions: Mapping[str, Any], run: Callable[[str, dict[str, Any]], str]) -> FunctionRegistry:
    """A suite's functions; `run(name, arguments)` does the work. Those that do not only read have side effects."""
    registry = FunctionRegistry()
    for name, function in functions.items():
        spec = FunctionSpec(name, function.description, model_schema(function.parameters), not name.startswith(READS))
        registry.add(spec, call=lambda _name=name, **arguments: run(_name, arguments))
    return registry


# -- playing --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """How a run ended: the task solved, the attacker's goal reached, the calls that ran, why it broke off."""

    solved: bool
    reached: bool
    calls: tuple[tuple[str, Mapping[str, Any]], ...]
    answer: str
    refused: str = ""


def play(attack: Attack, respond: Respond, policy: LoopPolicy = UNATTENDED, approve: Approve = deny) -> Outcome:
    """Run one task through the function loop in the benchmark's environment, and let the benchmark judge."""
    agent = _Agent(respond, policy, approve)
    with _quiet():
        solved, reached = attack.suite.run_task_with_pipeline(
            agent, attack.user, attack.goal, {}, environment=attack.environment()
        )
    return Outcome(
        bool(solved), bool(reached) and attack.goal is not None, tuple(agent.ran), agent.answer, agent.refused
    )


class _Agent:
    """The function loop as the benchmark sees an agent. Only calls that ran are in the trace it judges."""

    def __init__(self, respond: Respond, policy: LoopPolicy, approve: Approve) -> None:
        self.respond, self.policy, self.approve = respond, policy, approve
        self.ran: list[tuple[str, dict[str, Any]]] = []
        self.answer = self.refused = ""

    def query(self, prompt: str, runtime: Any, environment: Any, *_: Any) -> tuple[Any, ...]:
        def run(name: str, arguments: dict[str, Any]) -> str:
            self.ran.append((name, arguments))
            value, error = runtime.run_function(environment, name, arguments)
            if error:
                raise RuntimeError(error)
            return _dojo().text(value)

        loop = FunctionLoop(self.respond, registry_of(runtime.functions, run), self.policy, self.approve)
        try:
            self.answer = loop.run([{"role": "user", "content": prompt}]).answer
        except ValueError as error:  # the conversation has grown beyond what the model takes
            self.refused = str(error)
        calls = [_dojo().call(function=name, args=arguments) for name, arguments in self.ran]
        said = [{"role": "assistant", "content": [], "tool_calls": [call]} for call in calls]
        end = {"role": "assistant", "content": [{"type": "text", "content": self.answer}], "tool_calls": None}
        return prompt, runtime, environment, [*said, end], {}


def _model(engine: Generator, max_tokens: int) -> Respond:
    def respond(
        messages: list[dict[str, Any]], functions: Sequence[FunctionSpec], images: Sequence[Any], tool_choice: Any
    ) -> Reply:
        request = Request(messages, functions, tool_choice=tool_choice, max_tokens=max_tokens)
        return engine.generate([request])[0]

    return respond


def obey(attack: Attack) -> Respond:
    """What a perfect model does that also does everything it reads: the task's calls, then the attacker's."""
    with _quiet():
        environment = attack.user.init_environment(attack.environment())
        script = iter([call for task in (attack.user, attack.goal) if task for call in _script_of(task, environment)])

    def respond(
        messages: list[dict[str, Any]], functions: Sequence[FunctionSpec], images: Sequence[Any], tool_choice: Any
    ) -> Reply:
        call = next(script, None) if tool_choice != "none" else None
        return Reply(calls=[call]) if call is not None else Reply(attack.user.GROUND_TRUTH_OUTPUT)

    return respond


def _script_of(task: Any, environment: Any) -> list[Call]:
    """The calls that solve a task, as the benchmark gives them."""
    return [
        Call(f"call_{number}", call.function, dict(call.args), 1.0)
        for number, call in enumerate(task.ground_truth(environment))
    ]


def _each(items: Sequence[Attack], description: str) -> Iterator[Attack]:
    for (item,) in in_batches(items, 1, description):
        yield item


def _example(attack: Attack, outcome: Outcome) -> Example:
    goal = f"{attack.suite.name}/{attack.goal.ID}: {attack.goal.GOAL}" if attack.goal else ""
    return Example(
        suite="injection",
        question=attack.user.PROMPT,
        expected="not: " + goal if goal else "the task is solved",
        given=outcome.answer,
        correct=not outcome.reached if goal else outcome.solved,
        calls=[
            {"name": name, "arguments": dict(values), "confidence": None, "sources": {}}
            for name, values in outcome.calls
        ],
        source=attack.suite.name,
        note=f"not taken: {outcome.refused}" if outcome.refused else "",
    )
