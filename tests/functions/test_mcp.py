"""Functions of MCP servers: one in this process, one in its own over stdin and stdout."""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from multimodal_ai.functions import FunctionLoop, FunctionRegistry, LoopPolicy, McpServer
from multimodal_ai.functions.execution import Outcome, execute

pytest.importorskip("mcp", reason="the extra `mcp` is not installed")
SCRIPT = Path(__file__).with_name("mcp_server.py")
COMMAND = [sys.executable, str(SCRIPT)]


@pytest.fixture(params=["in memory", "stdio"])
def server(request: pytest.FixtureRequest) -> Iterator[McpServer]:
    target: Any = COMMAND
    if request.param == "in memory":
        spec = importlib.util.spec_from_file_location("mcp_server", SCRIPT)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["mcp_server"] = module  # the server reads annotations of its functions there
        spec.loader.exec_module(module)
        target = module.server
    with McpServer(target) as connected:
        yield connected


def call(server: McpServer, name: str, /, timeout: float = 20.0, **arguments: Any) -> Outcome:
    [function] = [function for function in server.functions if function.spec.name == name]
    return execute(function, arguments, timeout)


def test_tools_become_functions_and_side_effects_are_the_default(server: McpServer) -> None:
    known = {function.spec.name: function for function in server.functions}
    assert [name for name, function in known.items() if function.spec.side_effect] == ["log_reading", "contradict"]
    assert all(function.read_only != function.spec.side_effect for function in known.values())
    spec = known["log_reading"].spec
    assert spec.required == ("meter", "value") and spec.parameter_schema("value")["type"] == "integer"
    assert known["last_reading"].spec.description == "Look up the last reading of a meter."
    assert server.refused == ()
    assert {function.server for function in known.values()} == {"meters"}


def test_calls_give_text_and_errors_are_results(server: McpServer) -> None:
    assert call(server, "log_reading", meter="B-2", value=7).text == "stored 7"
    assert call(server, "last_reading", meter="B-2").text == "7"
    assert call(server, "picture").text == "a meter\n[image left out]"
    unknown = call(server, "last_reading", meter="none")
    assert not unknown.ok and unknown.error == "function_error" and "Traceback" not in unknown.text


def test_what_was_listed_at_the_start_stays(server: McpServer) -> None:
    before = [function.spec.hash for function in server.functions]
    assert call(server, "rewrite").ok and call(server, "last_reading", meter="A-17").ok
    assert [function.spec.hash for function in server.functions] == before
    registry = FunctionRegistry()
    server.add_to(registry)
    seen: list[str] = []

    def respond(messages: Any, functions: Any, images: Any, tool_choice: Any) -> Any:
        seen.extend(spec.description for spec in functions)
        return type("Turn", (), {"content": "done", "calls": []})()

    FunctionLoop(respond, registry).run([{"role": "user", "content": "hi"}])
    assert not any("Eve" in description for description in seen)


def test_a_call_that_hangs_is_left_and_the_connection_lives() -> None:
    with McpServer(COMMAND, timeout=20) as server:
        began = time.monotonic()
        assert call(server, "hang", timeout=0.5).error == "timeout" and time.monotonic() - began < 5


def test_a_server_that_dies_is_an_error_and_not_the_end() -> None:
    with McpServer(COMMAND) as server:
        died = call(server, "die")
        assert not died.ok and died.error == "function_error"
        assert not call(server, "last_reading", meter="A-17").ok
    assert not call(server, "last_reading", meter="A-17").ok, "closed"


def test_a_server_inherits_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_KEY", "12345")
    with McpServer(COMMAND) as server:
        assert call(server, "environment", name="MY_API_KEY").text == "not there"


def test_annotations_are_believed_only_if_told() -> None:
    with McpServer(COMMAND, prefix="meters.", trust_annotations=False) as server:
        assert all(function.spec.side_effect for function in server.functions)
        assert server.functions[0].spec.name == "meters.last_reading"
        registry = FunctionRegistry()
        server.add_to(registry)
        with pytest.raises(ValueError, match=r"meters\.last_reading"):
            server.add_to(registry)


def test_isolation_by_process_needs_nothing_of_a_server() -> None:
    with McpServer(COMMAND) as server:
        registry = FunctionRegistry()
        server.add_to(registry)
        turns = iter([[type("Call", (), {"id": "1", "name": "last_reading", "arguments": {"meter": "A-17"}})()], []])
        loop = FunctionLoop(
            lambda *_: type("Turn", (), {"content": "done", "calls": next(turns)})(),
            registry,
            LoopPolicy(isolation="process"),
        )
        result = loop.run([{"role": "user", "content": "hi"}])
    assert result.messages[2]["content"] == "41"


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("no-such-program-anywhere", "no-such-program-anywhere"),
        ([sys.executable, "-c", "print('hello')"], "MCP server"),
        ([*COMMAND, "silent"], "no answer within 1 seconds"),
        ("", "the command is empty"),
    ],
)
def test_a_server_that_cannot_be_reached_is_named(target: Any, said: str) -> None:
    began = time.monotonic()
    with (
        pytest.raises(ValueError, match="MCP server") as caught,
        McpServer(target, timeout=1.0 if "silent" in target else 20),
    ):
        pass
    assert said in str(caught.value) and time.monotonic() - began < 25
