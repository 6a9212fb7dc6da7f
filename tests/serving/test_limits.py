"""Keys, limits, deadlines, clients that leave, metrics, logs, the server's own functions."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import httpx2 as httpx
import openai
import pytest

from multimodal_ai.functions import FunctionRegistry
from multimodal_ai.serving.config import key_hash, read_keys

from .conftest import LOG_READING, Running, data_url, wait_until

MISSPELLED: dict[str, Any] = {  # in a parameter that may be left out
    "type": "function",
    "function": {"name": "a", "parameters": {"type": "object", "properties": {"b": {"type": "objekt"}}}},
}
ENDLESS: dict[str, Any] = {"temperature": 1.5, "seed": 2, "max_tokens": 1000, "logprobs": True}


def metric(running: Running, name: str) -> float:
    """The sum of all lines of one metric, whatever their labels."""
    text = httpx.get(f"{running.url}/metrics").text
    lines = [line for line in text.splitlines() if line.startswith(name) and line[len(name)] in " {"]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


def test_keys_are_read_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# who may\nalice 0123456789abcdef\n\nbob fedcba9876543210  # comment\n")
    assert read_keys(file) == {"alice": key_hash("0123456789abcdef"), "bob": key_hash("fedcba9876543210")}
    for text, problem in (("alice short\n", "16"), ("alice\n", "line 1"), ("# none\n", "no keys")):
        file.write_text(text)
        with pytest.raises(ValueError, match=problem):
            read_keys(file)


def test_only_keys_that_are_known_get_in(start: Callable[..., Running]) -> None:
    running = start(key_hashes={"alice": key_hash("0123456789abcdef")})
    with pytest.raises(openai.AuthenticationError) as caught:
        running.chat(max_tokens=2)
    assert caught.value.code == "invalid_api_key" and "0123456789abcdef" not in str(caught.value)
    alice = running.with_key("0123456789abcdef")
    assert [model.id for model in alice.models.list()] == ["small"]
    for path, status in (
        ("/health", 200),
        ("/ready", 200),
        ("/metrics", 401),
        ("/v1/models", 401),
        ("/openapi.json", 401),
    ):
        assert httpx.get(running.url + path).status_code == status, path


def test_a_key_has_so_many_requests_at_once(start: Callable[..., Running]) -> None:
    keys = {"alice": key_hash("alice's own key 1"), "bob": key_hash("bob's own key 222")}
    running = start(key_hashes=keys, max_concurrent_per_key=1)
    alice, bob = running.with_key("alice's own key 1"), running.with_key("bob's own key 222")
    asked: dict[str, Any] = {"model": "small", "messages": [{"role": "user", "content": "hi"}]}
    stream = alice.chat.completions.create(**asked, **ENDLESS, stream=True)
    next(iter(stream))
    with pytest.raises(openai.RateLimitError) as caught:
        alice.chat.completions.create(**asked, max_tokens=2)
    assert caught.value.response.headers["retry-after"]
    assert bob.chat.completions.create(**asked, max_tokens=2).choices
    stream.close()
    wait_until(lambda: not running.app.state.gate._active["alice"])
    assert alice.chat.completions.create(**asked, max_tokens=2).choices


def test_a_full_queue_says_when_to_come_back(start: Callable[..., Running]) -> None:
    running = start(max_running=1, max_waiting=1)
    streams = [running.chat(stream=True, **ENDLESS)]
    next(iter(streams[0]))
    waiting = threading.Thread(target=lambda: streams.append(running.chat(stream=True, **ENDLESS)), daemon=True)
    waiting.start()
    wait_until(lambda: running.scheduler.waiting == 1)
    with pytest.raises(openai.RateLimitError) as caught:
        running.chat(max_tokens=2)
    assert caught.value.response.headers["retry-after"] == "1" and metric(running, "multimodal_ai_queue_length") == 1
    for stream in streams:
        stream.close()
    waiting.join(30)
    for stream in streams:
        stream.close()
    wait_until(lambda: not running.scheduler.waiting and not running.scheduler.running)
    assert running.chat(max_tokens=2).choices


def test_a_client_that_leaves_frees_its_place(start: Callable[..., Running]) -> None:
    running = start()
    stream = running.chat(stream=True, **ENDLESS)
    next(iter(stream))
    assert running.scheduler.running == 1
    stream.close()
    wait_until(lambda: not running.scheduler.running)
    with pytest.raises(openai.APITimeoutError):
        running.client.with_options(timeout=0.3).chat.completions.create(
            model="small", messages=[{"role": "user", "content": "hi"}], n=4, **ENDLESS
        )
    wait_until(lambda: not running.scheduler.running)
    wait_until(lambda: metric(running, 'multimodal_ai_replies_total{outcome="cancelled"}'.partition("{")[0]) >= 5)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_while_it_waits_is_never_answered(start: Callable[..., Running], stream: bool) -> None:
    running = start()
    busy = threading.Event()
    running.scheduler.call(lambda: busy.wait(60))
    client = running.client.with_options(timeout=0.5)
    with pytest.raises(openai.APITimeoutError):
        client.chat.completions.create(model="small", messages=[{"role": "user", "content": "hi"}], stream=stream)
    wait_until(lambda: metric(running, "multimodal_ai_replies_total") == 1)
    busy.set()
    wait_until(lambda: not running.scheduler.waiting)
    assert not running.engine.cache.misses["conversation"]


def test_a_reply_that_takes_too_long_ends(start: Callable[..., Running]) -> None:
    running = start(request_seconds=0.5, max_output_tokens=100_000)
    endless = {**ENDLESS, "max_tokens": 100_000, "stop": None}
    busy = threading.Event()
    running.scheduler.call(lambda: busy.wait(2.0))  # the engine is held up by something else
    with pytest.raises(openai.InternalServerError) as caught:
        running.chat(**endless)
    assert caught.value.status_code == 504
    busy.set()
    wait_until(lambda: not running.scheduler.running)
    assert running.chat(max_tokens=2).choices


def test_metrics_count_what_happened(start: Callable[..., Running]) -> None:
    running = start()
    before = metric(running, "multimodal_ai_tokens_total")
    for _ in range(2):
        running.chat(tools=[LOG_READING], tool_choice="required", max_tokens=150)
    assert metric(running, "multimodal_ai_function_calls_total") >= 2
    assert metric(running, "multimodal_ai_tokens_total") > before
    assert metric(running, "multimodal_ai_time_to_first_token_seconds_count") == 2
    assert metric(running, "multimodal_ai_cache_hits_total") >= 1
    for number in range(100):
        running.app.state.metrics.call(f"name_{number}", "proposed")
    names = httpx.get(f"{running.url}/metrics").text.count("multimodal_ai_function_calls_total{")
    assert names <= 70, "functions that clients name cannot grow the metrics without end"


@pytest.mark.parametrize("contents", [False, True])
def test_logs_say_what_happened_and_nothing_of_what_was_said(
    start: Callable[..., Running], caplog: pytest.LogCaptureFixture, contents: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = start(log_contents=contents)
    access = logging.getLogger("multimodal_ai.serving.access")
    monkeypatch.setattr(access, "propagate", True)
    monkeypatch.setattr(logging.getLogger("multimodal_ai"), "propagate", True)
    with caplog.at_level(logging.INFO, access.name):
        reply = running.chat("a secret word", max_tokens=5)
        wait_until(lambda: caplog.records)
    line = json.loads(caplog.records[-1].getMessage())
    assert line["path"] == "/v1/chat/completions" and line["status"] == 200 and line["id"]
    assert line["completion_tokens"] == reply.usage.completion_tokens and line["seconds"] > 0
    assert ("a secret word" in caplog.text) == contents


def test_its_own_functions_run_only_where_that_is_asked_for(start: Callable[..., Running]) -> None:
    ran: list[str] = []
    registry = FunctionRegistry()

    def look(place: Literal["garden"]) -> str:
        """Look at a place."""
        ran.append("look")
        return "a garden"

    def change(place: Literal["garden"]) -> str:
        """Change a place."""
        ran.append("change")
        return "changed"

    registry.add(look, read_only=True)
    registry.add(change, side_effect=True)
    running = start(functions=registry)
    running.chat(tools=[LOG_READING], tool_choice="required", max_tokens=100)
    assert not ran
    for name, status in (("look", "finished"), ("change", "denied")):
        choice = {"type": "function", "function": {"name": name}}
        made = running.chat("Look", tool_choice=choice, max_tokens=40, extra_body={"x_execute": True})
        assert made.choices[0].finish_reason in ("stop", "length") and not made.choices[0].message.tool_calls
        assert made.x_steps[0]["name"] == name and made.x_steps[0]["status"] == status
        assert set(made.x_steps[0]["x_sources"]) == {"place"}
    assert "change" not in ran and "look" in ran
    for wrong in ({"tools": [LOG_READING]}, {"n": 2}):
        with pytest.raises(openai.BadRequestError, match="x_execute"):
            running.chat(extra_body={"x_execute": True}, **wrong)


def test_without_functions_nothing_is_executed(running: Running) -> None:
    with pytest.raises(openai.BadRequestError, match="without functions"):
        running.chat(extra_body={"x_execute": True})


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"max_tokens": 5000}, "max_tokens"),
        ({"n": 9}, "n"),
        ({"temperature": 3}, "temperature"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"stop": [""]}, "stop"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"extra_body": {"temprature": 1}}, "temprature"),
        ({"messages": []}, "messages"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, None),
        ({"tools": [MISSPELLED]}, "tools"),
        ({"tools": [MISSPELLED], "tool_choice": "none"}, "tools"),
        ({"tool_choice": {"type": "function", "function": {"name": "nobody"}}, "tools": [LOG_READING]}, None),
        ({"tool_choice": "required"}, None),
        ({"tools": [LOG_READING, LOG_READING]}, None),
        ({"messages": [{"role": "user", "content": "word " * 3000}]}, "messages"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": data_url()}}] * 9}]},
            "images",
        ),
        ({"model": "other"}, "model"),
    ],
)
def test_a_mistake_is_told_with_its_place(running: Running, options: dict[str, Any], param: str | None) -> None:
    began = time.monotonic()
    with pytest.raises(openai.APIStatusError) as caught:
        running.chat(**{"max_tokens": 4, **options})
    error: Any = caught.value.body
    assert caught.value.status_code == (404 if param == "model" else 400)
    assert error["message"] and error["type"] in ("invalid_request_error", "not_found_error")
    assert param is None or param in str(error["param"])
    assert time.monotonic() - began < 20
