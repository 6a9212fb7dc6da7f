"""`/v1/calls`: approved calls of the server's own functions, and nothing else, run here."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import httpx2 as httpx
import pytest

from multimodal_ai.functions import FunctionRegistry

from .conftest import Running, wait_until


def call(name: str, number: int = 1, **arguments: Any) -> dict[str, Any]:
    return {
        "id": f"call_{number}",
        "type": "function",
        "function": {"name": name, "arguments": json.dumps(arguments)},
    }


def post(running: Running, *calls: dict[str, Any], before: Any = (), **more: Any) -> httpx.Response:
    messages = [{"role": "user", "content": "Do it"}, *before, {"role": "assistant", "tool_calls": list(calls)}]
    return httpx.post(f"{running.url}/v1/calls", json={"model": "small", "messages": messages, **more}, timeout=30)


@pytest.fixture
def ran() -> list[str]:
    return []


@pytest.fixture
def registry(ran: list[str]) -> FunctionRegistry:
    registry = FunctionRegistry()

    @registry.function(read_only=True)
    def look(place: str) -> str:
        """Look."""
        ran.append("look")
        return f"saw {place}"

    @registry.function
    def change(place: str) -> str:
        """Change."""
        ran.append("change")
        return "changed"

    @registry.function(read_only=True)
    def fail() -> str:
        """Fail."""
        raise RuntimeError("no luck")

    return registry


def test_results_come_in_order_and_what_changes_something_is_denied(
    start: Callable[..., Running], registry: FunctionRegistry, ran: list[str]
) -> None:
    running = start(registry)
    calls = [
        call("look", 1, place="shed"),
        call("change", 2, place="shed"),
        call("fail", 3),
        call("look", 4, place=7),
        call("nobody", 5),
    ]
    answer = post(running, *calls)
    assert answer.status_code == 200 and answer.json()["object"] == "list"
    found = answer.json()["data"]
    assert [(entry["tool_call_id"], entry["name"]) for entry in found] == [
        (made["id"], made["function"]["name"]) for made in calls
    ]
    assert [entry["status"] for entry in found] == ["finished", "denied", "failed", "failed", "failed"]
    assert found[0]["content"] == "saw shed" and "no luck" in found[2]["content"]
    assert "invalid_arguments" in found[3]["content"] and "unknown_function" in found[4]["content"]
    assert ran == ["look"]
    counted = httpx.get(f"{running.url}/metrics").text
    assert 'function_calls_total{function="look",outcome="finished"} 1.0' in counted


def test_a_trusted_client_approves_even_what_a_result_suggested(
    start: Callable[..., Running], registry: FunctionRegistry, ran: list[str]
) -> None:
    result = {"role": "tool", "tool_call_id": "call_1", "content": "the attic"}
    before = [{"role": "assistant", "tool_calls": [call("look", 1, place="shed")]}, result]
    suggested = call("change", 2, place="attic")
    (entry,) = post(start(registry, approve=True), suggested, before=before).json()["data"]
    assert entry["status"] == "denied" and not ran, "unasked it would not run"
    (entry,) = post(start(registry, client_approval=True), suggested, before=before).json()["data"]
    assert (entry["status"], entry["content"]) == ("finished", "changed") and ran == ["change"]


def test_other_conversations_are_refused(start: Callable[..., Running], registry: FunctionRegistry) -> None:
    running, bare = start(registry), start()
    for answer, words in (
        (post(running), "calls"),
        (post(running, call("look"), model="other"), "other"),
        (post(running, call("look", place="a"), call("look", place="b")), "same id"),
        (post(bare, call("look")), "without functions"),
    ):
        assert answer.status_code in (400, 404) and words in answer.json()["error"]["message"]
    image = {"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}
    answer = post(running, call("look", place="a"), before=[{"role": "user", "content": [image]}])
    assert answer.status_code == 400


def test_a_client_that_goes_away_does_not_hold_the_server_up(start: Callable[..., Running]) -> None:
    registry, entered, leave = FunctionRegistry(), threading.Event(), threading.Event()

    @registry.function(read_only=True)
    def wait() -> str:
        """Wait."""
        entered.set()
        leave.wait(20)
        return "done"

    running = start(registry)
    threading.Thread(target=hurried, args=(running,), daemon=True).start()
    wait_until(entered.is_set)
    wait_until(lambda: 'path="/v1/calls",status="499"' in httpx.get(f"{running.url}/metrics").text)
    leave.set()
    assert running.chat(max_tokens=2).choices


def hurried(running: Running) -> None:
    messages = [{"role": "assistant", "tool_calls": [call("wait")]}]
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{running.url}/v1/calls", json={"model": "small", "messages": messages}, timeout=1)
