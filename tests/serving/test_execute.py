"""`x_execute` in a stream: text, calls and results as they happen, and an end when the client leaves."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest
from rich.console import Console

from multimodal_ai.functions import FunctionRegistry
from multimodal_ai.terminal import open_functions

from .conftest import Running, wait_until

ASKED: dict[str, Any] = {"max_tokens": 60, "extra_body": {"x_execute": True}}
LOOK = {"type": "function", "function": {"name": "look"}}


class Places:
    """Functions that note what they were called with."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.entered, self.go_on = threading.Event(), threading.Event()
        self.registry = FunctionRegistry()
        self.registry.add(self.look, read_only=True)
        self.registry.add(self.change, side_effect=True)
        self.registry.add(self.wait, read_only=True)

    def look(self, place: str) -> str:
        """Look at a place."""
        self.seen.append(place)
        return "nothing there"

    def change(self, place: str) -> str:
        """Change a place."""
        self.seen.append(place)
        return "changed"

    def wait(self) -> str:
        """Wait."""
        self.entered.set()
        self.go_on.wait(30)
        return "waited"


def steps(chunks: list[Any]) -> list[dict[str, Any]]:
    return [choice.x_step for chunk in chunks for choice in chunk.choices if "x_step" in (choice.model_extra or {})]


def test_a_stream_tells_what_the_whole_tells(start: Callable[..., Running]) -> None:
    places = Places()
    running = start(functions=places.registry)
    for name, status in (("look", "finished"), ("change", "denied")):
        choice = {"type": "function", "function": {"name": name}}
        whole = running.chat("Look", tool_choice=choice, **ASKED)
        chunks = list(
            running.chat("Look", tool_choice=choice, stream=True, stream_options={"include_usage": True}, **ASKED)
        )
        told = steps(chunks)
        kinds = [step["type"] for step in told if step["call"] == 1]
        ran = ["started"] if status == "finished" else []
        assert kinds[0] == "call_start" and kinds[-2 - len(ran) :] == ["call", *ran, "result"]
        assert set(kinds[1 : -2 - len(ran)]) == {"arguments"}
        (call,) = (step for step in told if step["type"] == "call")
        pieces = [step["arguments"] for step in told if step["type"] == "arguments"]
        assert "".join(pieces) == call["arguments"] and 0 <= call["x_confidence"] <= 1
        (result,) = (step for step in told if step["type"] == "result")
        one = {key: value for key, value in {**call, **result}.items() if key not in ("type", "call")}
        assert [one] == whole.x_steps and one["status"] == status
        text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
        assert text == whole.choices[0].message.content
        assert not any(choice.delta.tool_calls for chunk in chunks for choice in chunk.choices)
        last = chunks[-2].choices[0]
        assert (
            last.finish_reason == whole.choices[0].finish_reason and last.x_stopped_because == whole.x_stopped_because
        )
        assert chunks[-1].usage == whole.usage and not chunks[-1].choices


def test_results_that_the_client_sent_are_not_told_again(start: Callable[..., Running]) -> None:
    running = start(functions=Places().registry)
    call = {"id": "call_0", "type": "function", "function": {"name": "look", "arguments": '{"place":"x"}'}}
    messages = [
        {"role": "user", "content": "Look"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_0", "content": "old"},
    ]
    chunks = list(
        running.client.chat.completions.create(model="small", messages=messages, tool_choice=LOOK, stream=True, **ASKED)
    )
    (result,) = (step for step in steps(chunks) if step["type"] == "result")
    assert (result["call"], result["status"], result["result"]) == (1, "finished", "nothing there")


def test_a_client_that_leaves_ends_the_loop(start: Callable[..., Running]) -> None:
    places = Places()
    running = start(functions=places.registry)
    choice = {"type": "function", "function": {"name": "wait"}}
    stream = running.chat("Wait", tool_choice=choice, stream=True, **ASKED)
    for chunk in stream:
        if any(step["type"] == "started" for step in steps([chunk])):
            break
    assert places.entered.wait(30)
    replies = sum(
        running.app.state.metrics.requests.labels(end)._value.get() for end in ("stop", "length", "tool_calls")
    )
    stream.close()
    wait_until(lambda: not any(thread.name == "x_execute" for thread in threading.enumerate()))
    places.go_on.set()
    time.sleep(0.2)
    assert not running.scheduler.running and not running.scheduler.waiting
    after = sum(running.app.state.metrics.requests.labels(end)._value.get() for end in ("stop", "length", "tool_calls"))
    assert after == replies, "no turn was written for a client that is gone"


def test_what_is_wrong_is_a_status_before_the_stream_begins(start: Callable[..., Running]) -> None:
    running = start(functions=Places().registry)
    for wrong in ({"n": 2}, {"tool_choice": {"type": "function", "function": {"name": "nobody"}}}):
        with pytest.raises(openai.BadRequestError):
            running.chat("Look", stream=True, **{**ASKED, **wrong})


def test_tools_of_an_mcp_server_run_here(start: Callable[..., Running]) -> None:
    pytest.importorskip("mcp", reason="the extra `mcp` is not installed")
    script = Path(__file__).parents[1] / "functions" / "mcp_server.py"
    with contextlib.ExitStack() as stack:  # as `serve --mcp COMMAND` opens them
        registry = open_functions(None, [f"{sys.executable} {script}"], stack, Console(stderr=True))
        running = start(functions=registry)
        listed = running.client.models.retrieve("small").x_functions
        assert "last_reading" in {tool["function"]["name"] for tool in listed}
        choice = {"type": "function", "function": {"name": "picture"}}
        whole = running.chat("Show it", tool_choice=choice, **ASKED)
        assert (whole.x_steps[0]["status"], whole.x_steps[0]["result"]) == ("finished", "a meter\n[image left out]")
        told = steps(list(running.chat("Show it", tool_choice=choice, stream=True, **ASKED)))
        assert next(step["result"] for step in told if step["type"] == "result") == whole.x_steps[0]["result"]
        denied = {"type": "function", "function": {"name": "log_reading"}}
        assert (
            running.chat("Log it", tool_choice=denied, **{**ASKED, "max_tokens": 150}).x_steps[0]["status"] == "denied"
        )


def test_turns_count_from_one_day(start: Callable[..., Running]) -> None:
    running = start(functions=Places().registry)
    days = []
    submit = running.scheduler.submit

    def noted(request: Any, *others: Any) -> Any:
        days.append(request.today)
        return submit(request, *others)

    running.scheduler.submit = noted
    running.chat("Look", tool_choice=LOOK, **ASKED)
    assert len(days) >= 2 and None not in days and len(set(days)) == 1
