"""Running one call: in a thread, in a process, against the clock."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pydantic
import pytest

from multimodal_ai.functions import FunctionRegistry, TransientError, load_functions
from multimodal_ai.functions.execution import execute, result_text, run_here
from multimodal_ai.functions.redaction import is_secret_name, redact_text, redact_value, secret_values


@pytest.fixture(scope="module")
def faulty() -> FunctionRegistry:
    return load_functions(Path(__file__).with_name("faulty.py"))


@pytest.mark.parametrize("isolation", ["thread", "process"])
def test_results_come_back(faulty, isolation) -> None:
    outcome = execute(faulty.get("add"), {"a": 2}, 20, isolation)
    assert (outcome.ok, outcome.text, outcome.error) == (True, "3", None)


@pytest.mark.parametrize("isolation", ["thread", "process"])
def test_a_hanging_function_is_left_or_killed_in_time(faulty, isolation) -> None:
    began = time.monotonic()
    outcome = execute(faulty.get("hang"), {}, 0.8, isolation)
    assert outcome.error == "timeout" and "0.8" in outcome.text
    assert time.monotonic() - began < 15


@pytest.mark.parametrize("isolation", ["thread", "process"])
def test_cancelling_ends_the_wait(faulty, isolation) -> None:
    cancel = threading.Event()
    threading.Timer(0.2, cancel.set).start()
    began = time.monotonic()
    assert execute(faulty.get("hang"), {}, 30, isolation, cancel).error == "cancelled"
    assert time.monotonic() - began < 15


@pytest.mark.parametrize("isolation", ["thread", "process"])
def test_leaving_is_only_an_error(faulty, isolation) -> None:
    outcome = execute(faulty.get("leave"), {}, 20, isolation)
    assert not outcome.ok and outcome.text == "SystemExit: left"


def test_a_process_may_die(faulty) -> None:
    outcome = execute(faulty.get("crash"), {}, 20, "process")
    assert not outcome.ok and "ended without a result" in outcome.text


def test_a_process_gets_no_secrets_and_little_memory(faulty, monkeypatch) -> None:
    monkeypatch.setenv("BANK_PASSWORD", "hunter2")
    monkeypatch.setenv("PLAIN", "yes")
    text = execute(faulty.get("environment"), {}, 20, "process", environment=["PLAIN"]).text
    assert "hunter2" not in text and '"PLAIN":"yes"' in text
    outcome = execute(faulty.get("hog"), {}, 20, "process", memory_limit=2 << 30)
    assert not outcome.ok and "MemoryError" in outcome.text


def test_a_process_that_floods_is_cut_at_the_source(faulty) -> None:
    outcome = execute(faulty.get("flood"), {"size": 3_000_000}, 30, "process", result_limit=1000)
    assert outcome.ok and len(outcome.text) == 1001 and outcome.size == 6_000_000


def test_children_of_a_killed_process_die_with_it(faulty) -> None:
    import psutil

    def sleepers() -> set[int]:
        return {
            p.pid for p in psutil.process_iter(["cmdline"]) if "time.sleep(60)" in " ".join(p.info["cmdline"] or [])
        }

    before = sleepers()
    assert execute(faulty.get("child"), {}, 3, "process").error == "timeout"
    end = time.monotonic() + 5
    while sleepers() - before and time.monotonic() < end:
        time.sleep(0.05)
    assert not sleepers() - before


def test_what_no_process_can_find_is_refused() -> None:
    registered = FunctionRegistry().add({"name": "f"}, call=lambda: 1)
    with pytest.raises(ValueError, match="top of a file"):
        execute(registered, {}, 1, "process")


def test_raised_errors_become_one_line() -> None:
    def fail(error: BaseException) -> None:
        raise error

    for error, transient in (
        (TransientError("later"), True),
        (ConnectionError("no\nline"), True),
        (KeyError("k"), False),
    ):
        outcome = run_here(lambda _, e=error: fail(e), {})
        assert not outcome.ok and outcome.transient is transient
        assert outcome.text.startswith(type(error).__name__) and "\n" not in outcome.text

    class Unspeakable(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert run_here(lambda _: fail(Unspeakable()), {}).text == "Unspeakable"


def test_results_of_many_kinds_become_text() -> None:
    class Colour(enum.Enum):
        RED = "red"

    class Model(pydantic.BaseModel):
        day: datetime.date

    @dataclasses.dataclass
    class Pair:
        a: int
        b: Colour

    assert result_text("as it is\n") == "as it is\n" and result_text(None) == "done"
    assert result_text(Pair(1, Colour.RED)) == '{"a":1,"b":"red"}'
    mixed = [Model(day=datetime.date(2024, 1, 2)), {1}, (2,), b"x"]
    assert result_text(mixed) == '[{"day":"2024-01-02"},[1],[2],"eA=="]'
    assert result_text(iter([1, 2])) == "[1,2]" and not run_here(lambda _: itertools.count(), {}).ok
    assert result_text({"a": float("nan"), "é": "日本"}) == '{"a":"NaN","é":"日本"}'
    assert result_text(object()).startswith('"<object')
    assert result_text("half \ud800") == "half ?"
    own: list[object] = []
    own.append(own)
    assert not run_here(lambda _: own, {}).ok


def test_an_endless_generator_is_stopped_by_the_clock() -> None:
    def endless() -> Iterator[int]:
        while True:
            time.sleep(0.01)
            yield 1

    registered = FunctionRegistry().add({"name": "f"}, call=endless)
    assert execute(registered, {}, 0.3).error == "timeout"


@pytest.mark.parametrize(
    "name", ["password", "api_key", "apiKey", "X-Auth-Token", "clientSecret", "PIN", "user_password2"]
)
def test_names_of_secrets(name: str) -> None:
    assert is_secret_name(name) and redact_value({name: "x", "a": [{name: 5}]}) == {
        name: "[redacted]",
        "a": [{name: "[redacted]"}],
    }


@pytest.mark.parametrize("name", ["max_tokens", "shipping", "key", "meter", "passenger", "pinned", "author"])
def test_names_of_no_secrets(name: str) -> None:
    assert not is_secret_name(name)


def test_secrets_are_found_in_texts() -> None:
    for text in (
        "Authorization: Bearer abcdefghijklmnop",
        "password=hunter2 rest",
        "https://user:hunter2@example.org",
        '{"a":{"api_key":"hunter2"}}',
    ):
        assert (
            "hunter2" not in redact_text(text)
            and "abcdefgh" not in redact_text(text)
            and "[redacted]" in redact_text(text)
        )
    assert redact_text("a basic understanding of tokens") == "a basic understanding of tokens"
    assert secret_values({"login": {"password": "hunter2", "user": "me"}, "pin": 1234}) == ["hunter2", "1234"]
    assert redact_text("saw hunter2", ["hunter2"]) == "saw [redacted]"


@pytest.mark.parametrize("text", ["-x", "password", "authorization ", "://a:", "bearer ", "x", "sk-", "a:b"])
def test_looking_for_secrets_is_linear(text: str) -> None:
    began = time.thread_time()
    redact_text(text * (200_000 // len(text)))
    assert time.thread_time() - began < 2
