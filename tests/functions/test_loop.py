"""The loop: limits, approval, provenance, errors that go back, traces."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from multimodal_ai.functions import (
    FunctionLoop,
    FunctionRegistry,
    LoopPolicy,
    LoopResult,
    ProposedCall,
    Trace,
    TransientError,
    load_functions,
    replay,
)


@dataclass
class Call:
    name: str
    arguments: Any = field(default_factory=dict)
    id: str = ""
    confidence: float = 1.0
    sources: dict[str, Any] = field(default_factory=dict)


@dataclass
class Reply:
    content: str = ""
    calls: list[Call] = field(default_factory=list)


class Script:
    """A model that says what it was told to say; the last turn repeats. It keeps what it was shown."""

    def __init__(self, *turns: Reply | list[Call] | str) -> None:
        self.turns = list(turns)
        self.seen: list[list[dict[str, Any]]] = []
        self.choices: list[Any] = []

    def __call__(self, messages: Any, functions: Any, images: Any, tool_choice: Any) -> Reply:
        self.seen.append(messages)
        self.choices.append(tool_choice)
        turn = self.turns[min(len(self.seen), len(self.turns)) - 1]
        if tool_choice == "none" and not isinstance(turn, str):
            return Reply("forced")
        if isinstance(turn, str):
            return Reply(turn)
        return Reply("", turn) if isinstance(turn, list) else turn


class Counter:
    """A registry with functions that count how often they ran."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.registry = FunctionRegistry()

        @self.registry.function(read_only=True)
        def look(what: str = "all") -> str:
            """Look something up."""
            self.ran.append(f"look {what}")
            return f"saw {what}"

        @self.registry.function(side_effect=True)
        def pay(payee: str, amount: float, password: str = "") -> str:
            """Pay somebody."""
            self.ran.append(f"pay {payee} {amount}")
            return f"paid {payee}"


@pytest.fixture
def counter() -> Counter:
    return Counter()


def run(
    registry: FunctionRegistry, script: Script, approve: Callable[[ProposedCall], Any] | None = None, **policy: Any
) -> LoopResult:
    loop = FunctionLoop(script, registry, LoopPolicy(**policy), **({"approve": approve} if approve else {}))
    return loop.run([{"role": "user", "content": "please"}])


def results(result: LoopResult) -> list[str]:
    return [message["content"] for message in result.messages if message["role"] == "tool"]


def errors(result: LoopResult) -> list[str]:
    return [json.loads(text)["error"]["type"] for text in results(result) if text.startswith('{"error"')]


def kinds(result: LoopResult) -> list[str]:
    return [event.kind for event in result.events]


def test_a_call_is_run_and_its_result_fed_back(counter) -> None:
    script = Script([Call("look", {"what": "meter"}, id="c7")], "It says 5.")
    result = run(counter.registry, script)
    assert (result.answer, result.stopped_because) == ("It says 5.", "answer")
    assert kinds(result) == ["proposed", "validated", "started", "finished"]
    assert result.messages[1:] == [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "c7", "type": "function", "function": {"name": "look", "arguments": '{"what":"meter"}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "c7", "name": "look", "content": "saw meter"},
        {"role": "assistant", "content": "It says 5."},
    ]
    assert script.seen[1] == result.messages[:3] and script.choices == ["auto", "auto"]


def test_side_effects_do_not_run_unless_somebody_says_so(counter) -> None:
    script = Script([Call("pay", {"payee": "Ada", "amount": 5})], "ok")
    result = run(counter.registry, script)
    assert counter.ran == [] and errors(result) == ["denied"] and kinds(result)[-1] == "denied"
    asked: list[ProposedCall] = []

    def allow(call: ProposedCall) -> str:
        asked.append(call)
        return "allow"

    result = run(counter.registry, Script([Call("pay", {"payee": "Ada", "amount": 5})], "ok"), allow)
    assert counter.ran == ["pay Ada 5.0"] and asked[0].arguments == {"payee": "Ada", "amount": 5}
    assert asked[0].reasons == ("it has side effects",) and "approved" in kinds(result)


def test_approval_may_change_the_arguments_and_the_model_is_told(counter) -> None:
    script = Script([Call("pay", {"payee": "Ada", "amount": 500})], "ok")
    result = run(counter.registry, script, lambda call: {**call.arguments, "amount": 5})
    assert counter.ran == ["pay Ada 5.0"] and "the user changed the arguments" in results(result)[0]
    assert json.loads(result.messages[1]["tool_calls"][0]["function"]["arguments"])["amount"] == 5
    with pytest.raises(ValueError, match="/amount: expected number"):
        run(
            counter.registry,
            script.__class__([Call("pay", {"payee": "A", "amount": 5})]),
            lambda call: {"payee": "A", "amount": "x"},
        )
    with pytest.raises(ValueError, match="'allow', 'deny' or arguments"):
        run(counter.registry, Script([Call("pay", {"payee": "A", "amount": 5})]), lambda call: True)


def test_auto_approval_stops_at_values_from_results(counter) -> None:
    sure = [Call("pay", {"payee": "Ada", "amount": 5})]
    assert errors(run(counter.registry, Script(sure, "ok"), auto_approve=True)) == []
    assert counter.ran == ["pay Ada 5.0"]
    copied = [Call("pay", {"payee": "Eve", "amount": 5}, sources={"payee": {"origin": "function_result"}})]
    asked: list[ProposedCall] = []
    result = run(counter.registry, Script(copied, "ok"), lambda call: asked.append(call) or "deny", auto_approve=True)
    assert errors(result) == ["denied"] and counter.ran == ["pay Ada 5.0"]
    assert asked[0].reasons[1] == "payee comes from a function's result, not from the user"
    result = run(counter.registry, Script(copied, "ok"), auto_approve=True, trust_results=True)
    assert errors(result) == ["denied"], "trusting results does not cover values copied from them"


def test_auto_approval_stops_at_calls_that_follow_a_result_and_at_doubt(counter) -> None:
    turns = ([Call("look")], [Call("pay", {"payee": "Ada", "amount": 5})], "ok")
    assert errors(run(counter.registry, Script(*turns), auto_approve=True)) == ["denied"]
    assert errors(run(counter.registry, Script(*turns), auto_approve=True, trust_results=True)) == []
    unsure = [Call("pay", {"payee": "Ada", "amount": 5}, confidence=0.5)]
    assert errors(run(counter.registry, Script(unsure, "ok"), auto_approve=True)) == ["denied"]


def test_invalid_arguments_go_back_once_then_text_is_forced(counter) -> None:
    script = Script([Call("pay", {"payee": 5})])
    result = run(counter.registry, script, lambda call: "allow")
    details = json.loads(results(result)[0])["error"]["details"]
    assert {"path": "/amount", "expected": "a value (required)", "got": "nothing"} in details
    assert {"path": "/payee", "expected": "string", "got": "5"} in details
    assert (result.answer, result.stopped_because) == ("forced", "invalid_calls")
    assert script.choices == ["auto", "auto", "none"] and counter.ran == []


@pytest.mark.parametrize("arguments", ["{", "[1]", '{"what":"a","what":"b"}', '{"what":NaN}', 3, None])
def test_arguments_that_are_no_object_are_errors(counter, arguments) -> None:
    result = run(counter.registry, Script([Call("look", arguments)], "ok"))
    assert errors(result) == ["invalid_arguments"] and counter.ran == []
    json.loads(result.messages[1]["tool_calls"][0]["function"]["arguments"])


def test_arguments_as_json_text_are_accepted(counter) -> None:
    run(counter.registry, Script([Call("look", '{"what":"020"}')], "ok"))
    assert counter.ran == ["look 020"]


def test_unknown_names_are_answered_by_the_names_there_are(counter) -> None:
    result = run(counter.registry, Script([Call("fly")], "ok"))
    assert errors(result) == ["unknown_function"] and "look, pay" in results(result)[0]


def test_the_same_call_is_warned_then_blocked(counter) -> None:
    script = Script([Call("look", {"what": "a"})])
    result = run(counter.registry, script)
    assert counter.ran == ["look a", "look a"]
    texts = results(result)
    assert texts[0] == "saw a" and texts[1].startswith("saw a\n[this same call") and "repeated_call" in texts[2]
    assert script.choices[-1] == "none" and result.stopped_because == "max_steps" and len(script.choices) == 8
    assert kinds(result).count("blocked") == 5


def test_steps_and_calls_are_limited(counter) -> None:
    many = Script(*([Call("look", {"what": str(step)})] for step in range(20)))
    result = run(counter.registry, many, max_steps=3)
    assert len(counter.ran) == 2 and many.choices == ["auto", "auto", "none"] and result.answer == "forced"
    flood = Script([Call("look", {"what": str(index)}) for index in range(30)])
    result = run(counter.registry, flood, max_calls=5)
    assert len(counter.ran) == 2 + 5 and errors(result) == ["call_limit"] * 25
    assert result.stopped_because == "max_calls" and len(results(result)) == 30


def test_read_only_calls_run_side_by_side_others_one_by_one() -> None:
    registry = FunctionRegistry()
    state = {"now": 0, "most": 0}
    lock = threading.Lock()

    def work(index: int) -> int:
        """Work."""
        with lock:
            state["now"] += 1
            state["most"] = max(state["most"], state["now"])
        time.sleep(0.05)
        with lock:
            state["now"] -= 1
        return index

    registry.add(work, read_only=True)
    registry.add(work, name="change", side_effect=True)
    calls = [Call("work", {"index": index}) for index in range(8)]
    result = run(registry, Script(calls, "ok"))
    assert results(result) == [str(index) for index in range(8)] and state["most"] == 4
    state["most"] = 0
    run(registry, Script([*calls[:3], Call("change", {"index": 1})], "ok"), lambda call: "allow")
    assert state["most"] == 1


def test_results_are_cut_at_a_character_with_a_mark() -> None:
    registry = FunctionRegistry()
    registry.add({"name": "big"}, call=lambda: "é" * 600_000, read_only=True)
    result = run(registry, Script([Call("big")], "ok"), result_bytes=101)
    text = results(result)[0]
    assert text == "é" * 50 + "\n[cut: the first 101 of 1,200,000 bytes]"
    assert "truncated" in kinds(result)


def test_transient_errors_are_tried_once_more_but_never_with_side_effects() -> None:
    tries: list[str] = []

    def flaky() -> str:
        """Fail once."""
        tries.append("x")
        if len(tries) % 2:
            raise TransientError("try again")
        return "fine"

    registry = FunctionRegistry()
    registry.add(flaky, read_only=True)
    registry.add(flaky, name="changing")
    assert results(run(registry, Script([Call("flaky")], "ok"), retry_delay=0)) == ["fine"]
    result = run(registry, Script([Call("changing")], "ok"), lambda call: "allow", retry_delay=0)
    assert errors(result) == ["function_error"] and len(tries) == 3


def test_the_deadline_ends_the_run_with_every_call_answered() -> None:
    registry = load_functions(Path(__file__).with_name("faulty.py"))
    script = Script([Call("hang", {"seconds": 30 + index}) for index in range(3)])
    began = time.monotonic()
    result = run(registry, script, lambda call: "allow", deadline=0.5)
    assert time.monotonic() - began < 10 and result.stopped_because == "deadline"
    assert errors(result) == ["timeout", "deadline", "deadline"] and len(script.seen) == 1


def test_time_to_decide_is_not_the_runs(counter) -> None:
    def slow(call: ProposedCall) -> str:
        time.sleep(0.4)
        return "allow"

    result = run(counter.registry, Script([Call("pay", {"payee": "A", "amount": 1})], "ok"), slow, deadline=0.3)
    assert result.stopped_because == "answer" and counter.ran


def test_cancelling_keeps_what_has_finished() -> None:
    registry = FunctionRegistry()
    registry.add({"name": "quick"}, call=lambda: "here", read_only=True)
    registry.add({"name": "slow"}, call=lambda: time.sleep(20), read_only=True)
    cancel = threading.Event()
    threading.Timer(0.3, cancel.set).start()
    loop = FunctionLoop(Script([Call("quick"), Call("slow")]), registry)
    began = time.monotonic()
    result = loop.run([{"role": "user", "content": "go"}], cancel=cancel)
    assert time.monotonic() - began < 10 and result.stopped_because == "cancelled"
    assert results(result)[0] == "here" and errors(result) == ["cancelled"]


def test_a_dry_run_runs_nothing_and_asks_nobody(counter) -> None:
    script = Script([Call("pay", {"payee": "Ada", "amount": 5}), Call("pay", {"payee": 5})], "ok")
    result = run(counter.registry, script, dry_run=True)
    assert counter.ran == [] and json.loads(results(result)[0]) == {"dry_run": True, "would_call": "pay"}
    assert errors(result) == ["invalid_arguments"]


def test_text_and_calls_in_one_turn_and_first_choice(counter) -> None:
    script = Script(Reply("Let me see.", [Call("look")]), "ok")
    loop = FunctionLoop(script, counter.registry)
    result = loop.run([{"role": "user", "content": "go"}], tool_choice="required")
    assert result.messages[1]["content"] == "Let me see." and script.choices == ["required", "auto"]


def test_without_functions_the_answer_is_text() -> None:
    script = Script("hello")
    assert run(FunctionRegistry(), script).answer == "hello" and script.choices == ["none"]


def test_the_callers_messages_stay_as_they_are(counter) -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "go"}]}]

    class Vandal(Script):
        def __call__(self, messages: Any, functions: Any, images: Any, tool_choice: Any) -> Reply:
            reply = super().__call__(messages, functions, images, tool_choice)
            messages[0]["content"] = "changed"
            return reply

    result = FunctionLoop(Vandal([Call("look")], "ok"), counter.registry).run(messages)
    assert messages[0]["content"] == [{"type": "text", "text": "go"}] == result.messages[0]["content"]


def test_isolation_needs_functions_that_a_process_can_find(counter) -> None:
    with pytest.raises(ValueError, match="isolation='process'"):
        run(counter.registry, Script("x"), isolation="process")


def test_secrets_stay_out_of_traces_and_of_errors(tmp_path) -> None:
    registry = load_functions(Path(__file__).with_name("faulty.py"))
    result = run(registry, Script([Call("leak", {"password": "hunter2"})], "ok"), lambda call: "allow")
    assert "hunter2" not in results(result)[0] and "abcdefghijklmnop" not in results(result)[0]
    assert "Traceback" not in results(result)[0] and "RuntimeError" in results(result)[0]
    path = result.trace.save(tmp_path / "trace.jsonl")
    assert "hunter2" not in path.read_text() and "[redacted]" in path.read_text()
    invalid = run(registry, Script([Call("leak", {"password": ["hunter2"]})], "ok"))
    assert "hunter2" not in invalid.trace.save(tmp_path / "second.jsonl").read_text()


def test_a_saved_trace_replays_without_running_anything(counter, tmp_path) -> None:
    turns = (
        [Call("look", {"what": "a"}), Call("look", {"what": "日本"})],
        [Call("pay", {"payee": "A", "amount": 1})],
        "Done.",
    )
    result = run(counter.registry, Script(*turns), lambda call: "allow")
    ran = list(counter.ran)
    trace = Trace.load(result.trace.save(tmp_path / "runs" / "trace.jsonl"))
    again = replay(trace)
    assert (again.answer, again.messages, again.events, again.stopped_because) == (
        result.answer,
        result.messages,
        result.events,
        result.stopped_because,
    )
    anew = replay(trace, Script(*turns), counter.registry)
    assert (anew.answer, anew.messages, kinds(anew)) == (result.answer, result.messages, kinds(result))
    other = replay(trace, Script([Call("look", {"what": "new"})], "x"), counter.registry)
    assert errors(other) == ["not_recorded"] and counter.ran == ran
    counter.registry.add({"name": "more"}, call=lambda: 1)
    with pytest.raises(ValueError, match="functions more are not those"):
        replay(trace, Script("x"), counter.registry)


def test_a_trace_that_was_changed_or_cut_is_refused(counter, tmp_path) -> None:
    result = run(counter.registry, Script([Call("look")], "Done."))
    path = result.trace.save(tmp_path / "trace.jsonl")
    lines = path.read_text().splitlines(keepends=True)
    for index, (old, new) in enumerate([("look", "cook"), ("look", "cook"), ("Done.", "Nope.")]):
        number = len(lines) - 1 if index == 2 else index
        path.write_text("".join([*lines[:number], lines[number].replace(old, new), *lines[number + 1 :]]))
        with pytest.raises(ValueError, match="was changed"):
            Trace.load(path)
    path.write_text("".join(lines[:-1]))
    with pytest.raises(ValueError, match="cut short"):
        Trace.load(path)
    path.write_text("nonsense\n")
    with pytest.raises(ValueError, match=r"trace\.jsonl, line 1"):
        Trace.load(path)


def test_events_say_when_and_how_long(counter) -> None:
    result = run(counter.registry, Script([Call("look")], "ok"))
    assert [event.id for event in result.events] == [1, 2, 3, 4]
    assert len({event.hash for event in result.events}) == 4 and len({e.call_hash for e in result.events}) == 1
    finished = result.events[-1]
    assert finished.duration > 0 and finished.detail["bytes"] == 7 and abs(finished.time - time.time()) < 60
