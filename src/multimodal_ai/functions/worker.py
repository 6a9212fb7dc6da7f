"""The process in which one isolated function call runs: reads a request, runs it, writes one reply.

Started by `execution` as `python -m multimodal_ai.functions.worker`. Standard output carries the reply alone:
what the function prints goes nowhere. It limits itself before any of the function's code is imported.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from multimodal_ai.functions.execution import Outcome, run_here
from multimodal_ai.functions.registry import FunctionRegistry, load_module


def limit_resources(memory: int, cpu_seconds: int) -> None:
    """Limit memory (bytes), processor time and core files of this process, where the system can."""
    try:
        import resource
    except ImportError:  # not on Windows
        return
    for kind, limit in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, cpu_seconds),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(kind)
        if hard != resource.RLIM_INFINITY:
            limit = min(limit, hard)
        resource.setrlimit(kind, (limit, limit))


def answer(request: dict[str, Any]) -> Outcome:
    """Find the function of a request again, and run it."""
    kind, place, name = request["origin"]
    try:
        module = load_module(Path(place)) if kind == "file" else importlib.import_module(place)
        target = getattr(module, name)
        if not request["typed"]:
            return run_here(lambda arguments: target(**arguments), request["arguments"])
        registered = FunctionRegistry().add(target)
    except BaseException as error:
        return Outcome(False, f"{name} cannot be loaded in its process: {error}"[:400], "function_error")
    return run_here(registered.call, request["arguments"])


def main() -> None:
    """Read the request from standard input and write the reply to standard output."""
    request = json.loads(sys.stdin.buffer.read())
    reply = os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)
    limit_resources(request["memory_limit"], request["cpu_limit"])
    outcome = answer(request)
    fields = asdict(outcome)
    # Cut here as well, so that a result of any size is never sent; one character more shows that it was cut.
    fields["text"] = outcome.text[: request["result_limit"] + 1]
    reply.write(json.dumps(fields, ensure_ascii=False).encode())
    reply.flush()
    os._exit(0)  # threads that the function left behind must not keep the process


if __name__ == "__main__":
    main()
