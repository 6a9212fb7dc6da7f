"""Runs a trace again without running any function: for tests, for bug reports, for comparing models."""

from __future__ import annotations

import copy
import threading
from collections.abc import Mapping
from typing import Any

from multimodal_ai.functions.execution import Outcome
from multimodal_ai.functions.loop import FunctionLoop
from multimodal_ai.functions.policy import LoopPolicy, LoopResult, Respond
from multimodal_ai.functions.registry import FunctionRegistry, RegisteredFunction
from multimodal_ai.functions.trace import Trace, call_hash


def replay(trace: Trace, respond: Respond | None = None, registry: FunctionRegistry | None = None) -> LoopResult:
    """Run a trace again without running any function.

    Without `respond`, the recorded run is returned as it was. With it (and the registry, for the schemas), the
    model answers anew and every call that the trace knows gets its recorded result; a call that the trace
    does not know gets an error. Secrets were taken out of the trace and stay out.
    """
    if respond is None:
        history = [*copy.deepcopy(trace.header.get("messages", [])), *copy.deepcopy(trace.messages)]
        return LoopResult(trace.answer, history, list(trace.events), trace.stopped_because, trace)  # type: ignore[arg-type]
    if registry is None:
        raise ValueError("replay with a model needs registry=, whose schemas its calls are validated against")
    changed = [spec.name for spec in registry.specs if trace.header.get("functions", {}).get(spec.name) != spec.hash]
    if changed:
        raise ValueError(f"functions {', '.join(changed)} are not those of the trace; register the same ones")
    policy = LoopPolicy.model_validate(trace.header["policy"])
    loop = FunctionLoop(respond, registry, policy, approve=lambda call: "allow")
    recorded = {identity: list(results) for identity, results in trace.results.items()}
    lock = threading.Lock()

    def look_up(
        function: RegisteredFunction, arguments: Mapping[str, Any], timeout: float, cancel: threading.Event
    ) -> Outcome:
        with lock:
            results = recorded.get(call_hash(function.spec.name, dict(arguments)), [])
            if not results:
                return Outcome(False, "the trace holds no result of this call", "not_recorded")
            text = results.pop(0) if len(results) > 1 else results[0]
        return Outcome(True, text, size=len(text.encode()))

    loop._execute = look_up
    return loop.run(trace.header.get("messages", []))
