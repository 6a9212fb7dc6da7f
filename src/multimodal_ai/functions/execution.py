"""Runs one function call where it can do the loop no harm.

In a thread (fast; one that hangs cannot be killed and is left behind) or in a process of its own (killed at
its time limit, with a memory limit and without this process's environment). An outcome is always a value
or an error text; nothing a function does, not even SystemExit, reaches the caller as an exception.
"""

from __future__ import annotations

import itertools
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pydantic
import pydantic_core

from multimodal_ai.functions.canonical import canonical_json
from multimodal_ai.functions.registry import RegisteredFunction

Isolation = Literal["thread", "process"]
# The little of the environment that a program needs to start; no variable in it can hold a secret.
_KEPT_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "SYSTEMROOT", "TMPDIR")
_MOST_ITEMS = 100_000


class TransientError(Exception):
    """Raise it in a function to say that trying again may help. Read-only functions are tried once more."""


@dataclass(frozen=True)
class Outcome:
    """How a call ended. `text` is the result as the model will read it, or what went wrong.

    `error` names the kind of failure, `size` is the result's length in bytes of UTF-8 (`text` may be cut).
    """

    ok: bool
    text: str
    error: str | None = None
    transient: bool = False
    size: int = 0


def execute(
    function: RegisteredFunction,
    arguments: Mapping[str, Any],
    timeout: float,
    isolation: Isolation = "thread",
    cancel: threading.Event | None = None,
    memory_limit: int = 2 << 30,
    result_limit: int = 16 << 10,
    environment: Sequence[str] = (),
) -> Outcome:
    """Run a call and wait for it at most `timeout` seconds; never raises for what the function does.

    `cancel` ends the wait early. `memory_limit` (bytes) holds for isolation "process", where the result is
    also cut to about `result_limit` bytes before it comes back and only the variables that `environment` names
    are passed on. Raises ValueError when a process is asked
    for and the function cannot be found again from one (lambdas, functions inside functions).
    """
    if isolation == "process" and not function.remote:
        return _in_process(function, arguments, timeout, cancel, memory_limit, result_limit, environment)
    results: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
    thread = threading.Thread(
        target=lambda: results.put(run_here(function.call, arguments)),
        name=f"function {function.spec.name}",
        daemon=True,  # a hung function must not keep the program from ending
    )
    thread.start()
    deadline = time.monotonic() + timeout
    while True:
        try:
            return results.get(timeout=max(0.0, min(0.05, deadline - time.monotonic())))
        except queue.Empty:
            pass
        if cancel is not None and cancel.is_set():
            return _cancelled()
        if time.monotonic() >= deadline:
            return _timed_out(timeout)


def run_here(call: Callable[[Mapping[str, Any]], Any], arguments: Mapping[str, Any]) -> Outcome:
    """Run a call in this thread and put whatever happens into an Outcome."""
    try:
        text = result_text(call(arguments))
        return Outcome(True, text, size=len(text.encode()))
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = "/" + "/".join(str(part) for part in first["loc"])
        return Outcome(False, f"{where}: {first['msg']}", "invalid_arguments")
    except (TransientError, ConnectionError, TimeoutError, InterruptedError) as error:
        return Outcome(False, _describe(error), "function_error", transient=True)
    except BaseException as error:
        return Outcome(False, _describe(error), "function_error")


def result_text(value: Any) -> str:
    """A function's result as text: strings as they are, None as "done", everything else as compact JSON.

    Models, dataclasses, enums, dates, sets and the like become JSON; what nothing fits becomes its `str`.
    Raises ValueError for what cannot be written (a list that holds itself, a generator without end).
    """
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if value is None:
        return "done"
    if isinstance(value, Iterator):  # read here: a thread that is left behind must not hang in foreign code
        value = list(itertools.islice(value, _MOST_ITEMS + 1))
        if len(value) > _MOST_ITEMS:
            raise ValueError(f"the result has more than {_MOST_ITEMS:,} items")
    plain = pydantic_core.to_json(value, fallback=str, inf_nan_mode="strings", bytes_mode="base64")
    return plain.decode().replace("\x7f", "\\u007f")


def _describe(error: BaseException) -> str:
    try:
        message = " ".join(str(error).split())
    except Exception:
        message = ""
    name = type(error).__name__
    return (f"{name}: {message}" if message else name)[:400].encode("utf-8", "replace").decode("utf-8")


def _timed_out(timeout: float) -> Outcome:
    return Outcome(False, f"no result within {timeout:.3g} seconds", "timeout")


def _cancelled() -> Outcome:
    return Outcome(False, "cancelled before it finished", "cancelled")


def _in_process(
    function: RegisteredFunction,
    arguments: Mapping[str, Any],
    timeout: float,
    cancel: threading.Event | None,
    memory_limit: int,
    result_limit: int,
    passed: Sequence[str],
) -> Outcome:
    origin = check_isolation(function)
    request = {
        "origin": list(origin),
        "arguments": dict(arguments),
        "typed": function.arguments_model is not None,
        "memory_limit": memory_limit,
        "cpu_limit": int(timeout) + 2,
        "result_limit": result_limit,
    }
    environment = {key: os.environ[key] for key in (*_KEPT_ENVIRONMENT, *passed) if key in os.environ}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "multimodal_ai.functions.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
    except OSError as error:
        return Outcome(False, f"its process could not be started: {error}", "function_error")
    replies: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def talk() -> None:
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(canonical_json(request).encode())
            process.stdin.close()
            # A little more than the limit, so that the cut is seen; what else it writes is never read.
            replies.put(process.stdout.read(6 * result_limit + 4096))
        except (OSError, ValueError):
            replies.put(b"")

    threading.Thread(target=talk, name=f"process of {function.spec.name}", daemon=True).start()
    deadline = time.monotonic() + timeout
    try:
        while True:
            try:
                return _read_reply(replies.get(timeout=max(0.0, min(0.05, deadline - time.monotonic()))))
            except queue.Empty:
                pass
            if cancel is not None and cancel.is_set():
                return _cancelled()
            if time.monotonic() >= deadline:
                return _timed_out(timeout)
    finally:
        _kill(process)


def check_isolation(function: RegisteredFunction) -> tuple[str, str, str]:
    """The function's origin; ValueError for one that a process of its own cannot find again."""
    if function.origin is None:
        raise ValueError(
            f"function {function.spec.name}: isolation='process' needs a plain function at the top of a file; "
            "move it there or use isolation='thread'"
        )
    return function.origin


def _read_reply(reply: bytes) -> Outcome:
    try:
        fields = json.loads(reply)
        text, size = str(fields["text"]), int(fields["size"])
        return Outcome(bool(fields["ok"]), text, fields["error"], bool(fields["transient"]), size)
    except (ValueError, KeyError, TypeError):
        return Outcome(False, "its process ended without a result (out of memory, or killed)", "function_error")


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End the process and every child that it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
