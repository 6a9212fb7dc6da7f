"""The Berkeley Function-Calling Leaderboard's Python cases, judged by its own checkers. Evaluation only.

Cases and checkers are those of the package `bfcl-eval`; nothing of it is ever trained on. Single-turn cases
are asked as a user would ask, choice left to the model. Multi-turn cases run against the leaderboard's
simulators: the model calls, reads the result, and goes on until it answers in text. Java and JavaScript
cases (arguments as source text), web search and memory are left out, so there is no overall score.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from types import ModuleType, SimpleNamespace
from typing import Any

from multimodal_ai.data.recipes.common import RecipeContext
from multimodal_ai.evaluation import common
from multimodal_ai.evaluation.common import Example, SuiteResult, ask_each, spread, take_each
from multimodal_ai.evaluation.packages import package_folder, stand_ins, variable
from multimodal_ai.functions.lexical import lexical_scores
from multimodal_ai.functions.schema import FunctionSpec, canonical_json
from multimodal_ai.inference.requests import Call, Reply, Request
from multimodal_ai.utils.logger import progress

PACKAGE = "bfcl_eval"
ANSWERED = (
    "simple_python",
    "multiple",
    "parallel",
    "parallel_multiple",
    "live_simple",
    "live_multiple",
    "live_parallel",
    "live_parallel_multiple",
)
DECIDED = {"irrelevance": False, "live_irrelevance": False, "live_relevance": True}  # whether to call
MULTI_TURN = ("multi_turn_base", "multi_turn_miss_func", "multi_turn_miss_param", "multi_turn_long_context")
STEPS = 20  # of the model in one turn; a case that needs more has failed, as on the leaderboard
_MODEL = "evaluated"
_TYPES = {"dict": "object", "float": "number", "tuple": "array"}


@dataclass(frozen=True)
class Case:
    """One case: the conversation by turns, the functions, the leaderboard's entry and its accepted answers."""

    category: str
    turns: tuple[tuple[Mapping[str, Any], ...], ...]
    functions: tuple[Mapping[str, Any], ...]
    entry: Mapping[str, Any]
    answer: Any

    def request(self, max_tokens: int = 256) -> Request:
        """The request of a single-turn case."""
        return Request(list(self.turns[0]), specs_of(self.functions), max_tokens=max_tokens)


def run(engine: common.Generator, context: RecipeContext, batch_size: int = 32, max_tokens: int = 256) -> SuiteResult:
    """Ask the cases of every category, at most `context.limit` of each.

    Returns:
        The share of right cases by category; `live_multiple_selection`: the head's best function is the right
        one (`live_multiple_bm25_selection` by word overlap alone); `too_long`: cases that the model cannot
        take, which count as failed (`too_long/<category>` where there are any); `count`.

    Raises:
        ValueError: where `bfcl-eval` is not installed, with the command that installs it.
    """
    result = SuiteResult()
    for category in (*ANSWERED, *DECIDED):
        cases = spread(load(category), context.limit)
        requests = [case.request(max_tokens) for case in cases]
        replies = ask_each(engine.generate, requests, batch_size, f"BFCL {category}")
        judged = [_judge(case, reply) for case, reply in zip(cases, replies, strict=True)]
        _add(result, category, cases, replies, judged)
        if category == "live_multiple":
            _add_selection(result, cases, replies)
    for category in MULTI_TURN:
        cases = spread(load(category), context.limit)
        histories = converse(
            engine.generate, [_conversation(case, max_tokens) for case in cases], batch_size, f"BFCL {category}"
        )
        judged = [_check_turns(case, history) for case, history in zip(cases, histories, strict=True)]
        _add(result, category, cases, [""] * len(cases), judged)
    too_long = Counter(example.source for example in result.examples if example.note.startswith("not taken"))
    result.metrics |= {f"too_long/{category}": float(count) for category, count in too_long.items()}
    result.metrics["too_long"] = float(too_long.total())
    result.metrics["count"] = float(len(result.examples))
    return result


# -- cases ----------------------------------------------------------------------------------------------------


def load(category: str) -> list[Case]:
    """All cases of a category; ValueError where the package is missing."""
    folder = package_folder(PACKAGE, "bfcl") / "data"
    entries = _lines(folder / f"BFCL_v4_{category}.json")
    answers = {}
    if category not in DECIDED:
        rows = _lines(folder / "possible_answer" / f"BFCL_v4_{category}.json")
        answers = {row["id"]: row["ground_truth"] for row in rows}
    cases = []
    for entry in entries:
        functions = (
            entry["function"]
            if "function" in entry
            else [
                document
                for name in entry["involved_classes"]
                for document in _lines(folder / "multi_turn_func_doc" / _documents()[name])
                if document["name"] not in entry.get("excluded_function", ())
            ]
        )
        turns = tuple(tuple(turn) for turn in entry["question"])
        cases.append(Case(category, turns, tuple(functions), entry, answers.get(entry["id"])))
    return cases


@lru_cache(maxsize=64)
def _lines(path: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def specs_of(functions: Sequence[Mapping[str, Any]]) -> list[FunctionSpec]:
    """The leaderboard's function documents as functions with JSON Schema types."""
    return [FunctionSpec(one["name"], one["description"], convert(one["parameters"])) for one in functions]


def convert(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A schema with `dict`, `float`, `tuple` and `any` as JSON Schema has them; `required` names what is there."""
    kept = {key: value for key, value in schema.items() if key not in ("type", "properties", "items", "required")}
    kind = schema.get("type", "any")
    if kind != "any":
        kept["type"] = _TYPES.get(kind, kind)
    if isinstance(schema.get("items"), Mapping):
        kept["items"] = convert(schema["items"])
    if isinstance(schema.get("properties"), Mapping):
        kept["properties"] = {name: convert(inner) for name, inner in schema["properties"].items()}
        kept["required"] = [name for name in schema.get("required", ()) if name in kept["properties"]]
    return kept


# -- the leaderboard's own code -------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def checkers() -> SimpleNamespace:
    """The leaderboard's checkers: `ast`, `multi_turn`, `execute`, and the `prompt` that offers more functions."""
    package_folder(PACKAGE, "bfcl")
    models: Any = ModuleType("bfcl_eval.constants.model_config")  # the real one imports every vendor's client
    models.MODEL_CONFIG_MAPPING = {_MODEL: SimpleNamespace(underscore_to_dot=False)}
    with variable("BFCL_PROJECT_ROOT"), stand_ins((), {models.__name__: models}):
        from bfcl_eval.constants.default_prompts import DEFAULT_USER_PROMPT_FOR_ADDITIONAL_FUNCTION_FC
        from bfcl_eval.constants.enums import Language
        from bfcl_eval.eval_checker.ast_eval.ast_checker import ast_checker
        from bfcl_eval.eval_checker.multi_turn_eval.multi_turn_checker import multi_turn_checker
        from bfcl_eval.eval_checker.multi_turn_eval.multi_turn_utils import execute_multi_turn_func_call
    return SimpleNamespace(
        ast=lambda functions, calls, answer, category: ast_checker(
            functions, calls, answer, Language.PYTHON, category, _MODEL
        ),
        multi_turn=multi_turn_checker,
        execute=execute_multi_turn_func_call,
        prompt=DEFAULT_USER_PROMPT_FOR_ADDITIONAL_FUNCTION_FC,
    )


@lru_cache(maxsize=1)
def _documents() -> Mapping[str, str]:
    package_folder(PACKAGE, "bfcl")
    from bfcl_eval.constants.executable_backend_config import MULTI_TURN_FUNC_DOC_FILE_MAPPING

    return MULTI_TURN_FUNC_DOC_FILE_MAPPING


def check(case: Case, calls: Sequence[Call]) -> str:
    """Why the leaderboard's checker refuses the calls of a single-turn case; empty where it accepts them."""
    given = [{call.name: dict(call.arguments)} for call in calls]
    try:
        found = checkers().ast(list(case.functions), given, case.answer, case.category)
    except (AttributeError, IndexError, KeyError, TypeError) as error:  # calls in a form that it does not foresee
        return f"the checker failed: {error!r}"
    return "" if found["valid"] else str(found["error"])


# -- several turns --------------------------------------------------------------------------------------------

Conversation = Generator[Request, Reply, Any]


def converse(
    answer: Callable[[Sequence[Request]], Sequence[Reply]],
    conversations: Sequence[Conversation],
    batch_size: int,
    description: str,
) -> list[Any]:
    """Run conversations side by side, their requests answered in batches; returns what each returns.

    A conversation whose request the model cannot take is thrown a ValueError.
    """
    results: list[Any] = [None] * len(conversations)
    waiting: dict[int, Request] = {}

    def advance(number: int, step: Callable[[], Request]) -> None:
        try:
            waiting[number] = step()
        except StopIteration as end:
            results[number] = end.value
            waiting.pop(number, None)

    for number, conversation in enumerate(conversations):
        advance(number, conversation.__next__)
    with progress() as bar:
        task = bar.add_task(description, total=len(conversations))
        while waiting:
            numbers = list(waiting)[:batch_size]
            replies = take_each(answer, [waiting[number] for number in numbers])
            for number, reply in zip(numbers, replies, strict=True):
                talk = conversations[number]
                if isinstance(reply, str):
                    advance(number, partial(talk.throw, ValueError(reply)))
                else:
                    advance(number, partial(talk.send, reply))
            bar.update(task, completed=len(conversations) - len(waiting))
    return results


_RUNS = itertools.count()


def _conversation(case: Case, max_tokens: int) -> Conversation:
    """Play a multi-turn case: returns the calls by turn and step as source text, or why it ended early."""
    missed = {int(turn): set(names) for turn, names in case.entry.get("missed_function", {}).items()}
    hidden = {name for names in missed.values() for name in names}
    run = f"{_MODEL}{next(_RUNS)}"  # the simulators keep their state under this name
    messages: list[dict[str, Any]] = []
    history: list[list[list[str]]] = []
    for turn, said in enumerate(case.turns):
        hidden -= missed.get(turn, set())
        messages += map(dict, said or [{"role": "user", "content": checkers().prompt}])
        specs = specs_of([one for one in case.functions if one["name"] not in hidden])
        steps: list[list[str]] = []
        history.append(steps)
        while True:
            try:
                reply = yield Request(list(messages), specs, max_tokens=max_tokens)
            except ValueError as error:
                return f"not taken: {error}"
            if not reply.calls:
                messages.append({"role": "assistant", "content": reply.content})
                break
            if len(steps) == STEPS:
                return f"no end after {STEPS} steps in turn {turn + 1}"
            steps.append([source_text(call) for call in reply.calls])
            messages += _results(reply, _execute(case, steps[-1], run))
    return history


def source_text(call: Call) -> str:
    """A call as the simulators read it: Python source with every argument by name."""
    return f"{call.name}({', '.join(f'{name}={value!r}' for name, value in call.arguments.items())})"


def _execute(case: Case, calls: list[str], run: str) -> list[str]:
    entry = case.entry
    results, _ = checkers().execute(
        calls, entry["initial_config"], entry["involved_classes"], run, entry["id"], "long_context" in case.category
    )
    return results


def _results(reply: Reply, results: Sequence[str]) -> list[dict[str, Any]]:
    """A turn of calls with their results, as messages."""
    ids = [f"call_{number}" for number in range(1, len(reply.calls) + 1)]
    calls = [
        {"id": id, "type": "function", "function": {"name": call.name, "arguments": canonical_json(call.arguments)}}
        for id, call in zip(ids, reply.calls, strict=True)
    ]
    said: list[dict[str, Any]] = [{"role": "assistant", "content": reply.content or None, "tool_calls": calls}]
    for id, call, result in zip(ids, reply.calls, results, strict=True):
        said.append({"role": "tool", "tool_call_id": id, "name": call.name, "content": result})
    return said


def _check_turns(case: Case, history: list[list[list[str]]] | str) -> str:
    """Why the leaderboard's state and response checks refuse a conversation; empty where they accept it."""
    if isinstance(history, str):
        return history
    found = checkers().multi_turn(history, case.answer, dict(case.entry), case.category, f"{_MODEL}{next(_RUNS)}")
    return "" if found["valid"] else str(found["error_message"])


# -- judging --------------------------------------------------------------------------------------------------


def _judge(case: Case, reply: Reply | str) -> str:
    """Why a single-turn case failed; empty where it is right."""
    if isinstance(reply, str):
        return f"not taken: {reply}"
    if case.category in DECIDED:
        wanted = DECIDED[case.category]
        return "" if bool(reply.calls) == wanted else "no call" if wanted else "a call, though no function fits"
    return check(case, reply.calls) if reply.calls else "no call"


def _add(
    result: SuiteResult, category: str, cases: Sequence[Case], replies: Sequence[Reply | str], problems: Sequence[str]
) -> None:
    result.add_proportion(category, [not problem for problem in problems])
    for case, reply, problem in zip(cases, replies, problems, strict=True):
        calls = [] if isinstance(reply, str) else reply.calls
        result.examples.append(
            Example(
                suite="bfcl",
                question=str(case.turns[0][-1]["content"]) if case.turns[0] else "",
                expected=json.dumps(case.answer, ensure_ascii=False) if case.answer else "",
                given="" if isinstance(reply, str) else reply.content,
                correct=not problem,
                calls=[
                    {"name": call.name, "arguments": call.arguments, "confidence": call.confidence, "sources": {}}
                    for call in calls
                ],
                source=category,
                note=problem,
            )
        )


def _add_selection(result: SuiteResult, cases: Sequence[Case], replies: Sequence[Reply | str]) -> None:
    """Whether the right function is the best one, whatever was decided about calling."""
    learned, lexical = [], []
    for case, reply in zip(cases, replies, strict=True):
        wanted = {name for call in case.answer for name in call}
        learned.append(not isinstance(reply, str) and bool(reply.selection) and reply.selection[0][0] in wanted)
        specs = specs_of(case.functions)
        scores = lexical_scores(common.last_user_text(case.turns[0]), specs)
        best = [spec.name for spec, score in zip(specs, scores, strict=True) if score == max(scores)]
        lexical.append(set(best) <= wanted)
    result.add_proportion("live_multiple_selection", learned)
    result.add_proportion("live_multiple_bm25_selection", lexical)
