"""The loop from a request to an answer: the model proposes calls, this module decides what runs.

Plan, validate, approve, run, feed back. A call runs only if its function is registered, its arguments are
valid and, where it changes something, somebody said yes. Whatever a function does (hang, raise, flood,
repeat), the loop comes back within its limits with every call answered. It never runs what was not approved,
never shows a traceback to the model, and never lets a function change a conversation it was not given.
"""

from __future__ import annotations

import copy
import datetime
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from multimodal_ai.functions.approval import Decision, decision_of, doubts_about, sources_of
from multimodal_ai.functions.canonical import canonical_json, short_json
from multimodal_ai.functions.execution import Outcome, check_isolation, execute
from multimodal_ai.functions.policy import (
    Approve,
    CallLike,
    LoopPolicy,
    LoopResult,
    ProposedCall,
    Respond,
    StoppedBecause,
    Turn,
    deny,
)
from multimodal_ai.functions.provenance import Origin, Provenance
from multimodal_ai.functions.redaction import redact_text, redact_value, secret_values
from multimodal_ai.functions.registry import FunctionRegistry, RegisteredFunction
from multimodal_ai.functions.schema import canonical_arguments, validate_arguments
from multimodal_ai.functions.trace import Event, Trace, call_hash, plain_messages


@dataclass
class _Pending:
    """A call on its way through one turn."""

    number: int
    id: str
    name: str
    identity: str
    function: RegisteredFunction | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, Origin] = field(default_factory=dict)
    confidence: float | None = None
    confidences: dict[str, float] = field(default_factory=dict)  # by argument, as far as the model told
    content: str | None = None
    warning: str = ""


@dataclass
class _Run:
    """The state of one run."""

    trace: Trace
    deadline: float
    cancel: threading.Event
    proposed: Counter[str] = field(default_factory=Counter)
    calls: int = 0
    invalid_turns: int = 0
    secrets: set[str] = field(default_factory=set)

    @property
    def time_left(self) -> float:
        return self.deadline - time.monotonic()


class FunctionLoop:
    """Runs a model with functions.

    `respond` is the model, `registry` what it may call, `approve` decides on calls with side effects: it
    returns "allow", "deny" or the arguments to use instead, and is called in the caller's thread. `on_event` is told
    of each step of a call as it happens, perhaps in another thread; it must not raise. It may be used for many runs;
    the functions are those registered when a run starts.
    """

    def __init__(
        self,
        respond: Respond,
        registry: FunctionRegistry,
        policy: LoopPolicy | None = None,
        approve: Approve = deny,
        on_event: Callable[[Event], None] = lambda event: None,
    ) -> None:
        self.respond = respond
        self.on_event = on_event
        self.registry = registry
        self.policy = policy or LoopPolicy()
        self.approve = approve
        self._execute: Callable[[RegisteredFunction, Mapping[str, Any], float, threading.Event], Outcome]
        self._execute = self._execute_here

    def run(
        self,
        messages: Sequence[Mapping[str, Any]],
        images: Sequence[Any] = (),
        tool_choice: Any = "auto",
        cancel: threading.Event | None = None,
    ) -> LoopResult:
        """Go on until the model answers in text or a limit is reached. `messages` is not changed.

        `tool_choice` holds for the first turn. Set `cancel` from another thread to stop: calls that have
        finished keep their results. What `respond` and `approve` raise passes through.
        """
        policy = self.policy
        today = policy.today or datetime.date.today()
        functions = {registered.spec.name: registered for registered in self.registry}
        specs = tuple(registered.spec for registered in functions.values())
        if policy.isolation == "process":
            for registered in functions.values():
                if not registered.remote:
                    check_isolation(registered)
        trace = Trace(
            header={
                "policy": policy.model_copy(update={"today": today}).model_dump(mode="json"),
                "functions": {spec.name: spec.hash for spec in specs},
                "messages": plain_messages(messages),
                "images": len(images),
            },
            listener=self.on_event,
        )
        run = _Run(trace, time.monotonic() + policy.deadline, cancel or threading.Event())
        history = [_copy(message) for message in messages]
        start = len(history)
        answer, reason = "", "max_steps"
        for step in range(policy.max_steps):
            if run.cancel.is_set() or run.time_left <= 0:
                reason = "cancelled" if run.cancel.is_set() else "deadline"
                break
            limit = self._text_only(run, step)
            choice = "none" if limit or not specs else (tool_choice if step == 0 else "auto")
            turn = self.respond(_copy(history), specs, images, choice)
            if choice == "none" or not turn.calls:
                answer, reason = turn.content or "", limit or "answer"
                history.append({"role": "assistant", "content": answer})
                break
            pending = self._propose(run, turn, functions, Provenance.of(history, specs, today))
            history.append(_assistant_message(turn, pending))
            self._run_turn(run, pending)
            history += [_tool_message(call) for call in pending]
        secrets = sorted(run.secrets, key=len, reverse=True)
        trace.answer, trace.stopped_because = redact_text(answer, secrets), reason
        trace.messages = plain_messages(history[start:], secrets)
        return LoopResult(answer, history, list(trace.events), reason, trace)  # type: ignore[arg-type]

    def _text_only(self, run: _Run, step: int) -> StoppedBecause | None:
        """Why the next turn must be text, or None."""
        if run.calls >= self.policy.max_calls:
            return "max_calls"
        if run.invalid_turns > self.policy.invalid_turns:
            return "invalid_calls"
        return "max_steps" if step == self.policy.max_steps - 1 else None

    def _propose(
        self, run: _Run, turn: Turn, functions: Mapping[str, RegisteredFunction], provenance: Provenance
    ) -> list[_Pending]:
        """Validate and approve each call of a turn, in order. Those that may not run get their result here."""
        result = []
        valid = True
        unprompted = decision_of(turn)
        for proposal in turn.calls:
            call = self._validate(run, proposal, functions, provenance, unprompted)
            valid = valid and call.function is not None
            if call.content is None:
                self._approve(run, call, provenance, unprompted)
            result.append(call)
        run.invalid_turns += not valid
        return result

    def _validate(
        self,
        run: _Run,
        proposal: CallLike,
        functions: Mapping[str, RegisteredFunction],
        provenance: Provenance,
        unprompted: Decision | None,
    ) -> _Pending:
        name, problem = _readable(str(proposal.name)), ""
        function = functions.get(name)
        try:
            arguments = canonical_arguments(function.spec if function else None, proposal.arguments)
        except ValueError as error:
            arguments, problem = {}, str(error)
        run.calls += 1
        unread = proposal.arguments if isinstance(proposal.arguments, str) else problem
        identity = call_hash(name, unread if problem else arguments)
        call = _Pending(run.calls, str(proposal.id or f"call_{run.calls}"), name, identity)
        call.arguments = arguments
        call.origins, call.confidences = sources_of(proposal, arguments, provenance)
        call.confidence = getattr(proposal, "confidence", None)
        run.secrets.update(secret_values(arguments))
        run.proposed[identity] += 1
        detail: dict[str, Any] = {"id": call.id, "arguments": arguments, "confidence": call.confidence}
        # pairs, not a mapping: a parameter called "token" has no secret here
        detail["origins"] = [[parameter, origin] for parameter, origin in call.origins.items()]
        detail["confidences"] = [[parameter, sure] for parameter, sure in call.confidences.items()]
        if unprompted is not None:
            detail["without_results"] = {"call": unprompted.call, "function": unprompted.function}
        run.trace.add("proposed", call.number, name, identity, **detail)
        if run.calls > self.policy.max_calls:
            self._block(run, call, "call_limit", f"no more than {self.policy.max_calls} calls; answer in text now")
            call.function = function
            return call
        repeats = run.proposed[identity]
        if repeats > self.policy.identical_calls:
            self._block(run, call, "repeated_call", "this same call was made before; use its result or answer")
            call.function = function
            return call
        if repeats > 1 and repeats == self.policy.identical_calls:
            call.warning = "this same call was made before; it will not run again"
        details: list[dict[str, str]] = []
        if function is None:
            names = ", ".join(list(functions)[:64]) or "none"
            kind, problem = "unknown_function", f"there is no function {name!r}; functions: {names}"
        elif problem:
            kind = "invalid_arguments"
        else:
            kind, errors = "invalid_arguments", validate_arguments(function.spec, arguments)
            details = [{"path": error.path, "expected": error.expected, "got": error.got} for error in errors]
            problem = "the arguments do not fit the function's schema" if errors else ""
        if problem:
            call.content = _error(kind, problem, details)
            shown = [
                {**entry, "got": "[redacted]"} if redact_value({entry["path"]: 1}) != {entry["path"]: 1} else entry
                for entry in details
            ]
            run.trace.add("failed", call.number, name, identity, error=kind, message=problem, details=shown)
        else:
            call.function = function
            run.trace.add("validated", call.number, name, identity)
        return call

    def _block(self, run: _Run, call: _Pending, kind: str, message: str) -> None:
        call.content = _error(kind, message)
        run.trace.add("blocked", call.number, call.name, call.identity, error=kind, message=message)

    def _approve(self, run: _Run, call: _Pending, provenance: Provenance, unprompted: Decision | None) -> None:
        """Ask where the call has side effects, unless policy and provenance allow it unasked, and about any call of
        which the model is less sure than its function demands.
        """
        function = call.function
        assert function is not None
        if self.policy.dry_run:
            return
        side_effect = function.spec.side_effect
        repeated = run.proposed[call.identity] > 1
        doubts = doubts_about(call, function, self.policy, provenance, unprompted, repeated)
        if not side_effect and not doubts:
            return
        if self.policy.auto_approve and not doubts:
            run.trace.add("approved", call.number, call.name, call.identity, by="policy")
            return
        request = ProposedCall(
            id=call.id,
            name=call.name,
            arguments=copy.deepcopy(call.arguments),
            function=function.spec,
            confidence=call.confidence,
            origins=dict(call.origins),
            confidences=dict(call.confidences),
            reasons=("it has side effects", *doubts) if side_effect else tuple(doubts),
        )
        began = time.monotonic()
        decision = self.approve(request)
        waited = time.monotonic() - began
        run.deadline += waited  # a person's time to think is not the run's
        if isinstance(decision, Mapping):
            arguments = canonical_arguments(function.spec, decision)
            errors = validate_arguments(function.spec, arguments)
            if errors:
                listed = "; ".join(str(error) for error in errors)
                raise ValueError(f"the arguments given on approval of {call.name} are not valid: {listed}")
            call.arguments = arguments
            call.warning = "the user changed the arguments to " + canonical_json(arguments)
            run.trace.add("approved", call.number, call.name, call.identity, waited, by="caller", edited=arguments)
        elif decision == "allow":
            run.trace.add("approved", call.number, call.name, call.identity, waited, by="caller")
        elif decision == "deny":
            call.content = _error("denied", "the user did not allow this call; do not try it again")
            run.trace.add("denied", call.number, call.name, call.identity, waited, reasons=list(request.reasons))
        else:
            raise ValueError(f"approve returned {short_json(decision)}; expected 'allow', 'deny' or arguments")

    def _run_turn(self, run: _Run, pending: Sequence[_Pending]) -> None:
        """Run the calls that may run, in parallel only if none of the turn can change anything."""
        ready = [call for call in pending if call.content is None and call.function is not None]
        read_only = all(call.function is not None and call.function.read_only for call in ready)
        lanes = min(self.policy.parallel, len(ready)) if read_only else 1
        if lanes <= 1:
            for call in ready:
                self._finish(run, call, *self._timed(run, call))
            return
        finished: list[Future[tuple[Outcome, float]]] = [Future() for _ in ready]
        gate = threading.Semaphore(lanes)

        def work(call: _Pending, future: Future[tuple[Outcome, float]]) -> None:
            try:
                with gate:
                    future.set_result(self._timed(run, call))
            except BaseException as error:
                future.set_exception(error)

        for call, future in zip(ready, finished, strict=True):
            threading.Thread(target=work, args=(call, future), daemon=True).start()
        for call, future in zip(ready, finished, strict=True):
            self._finish(run, call, *future.result())

    def _timed(self, run: _Run, call: _Pending) -> tuple[Outcome, float]:
        """Run one call, with its retry. Every way out is bounded by the call's timeout and the deadline."""
        function = call.function
        assert function is not None
        began = time.monotonic()
        if self.policy.dry_run:
            return Outcome(True, canonical_json({"dry_run": True, "would_call": call.name})), 0.0
        outcome = self._attempt(run, call, function)
        if outcome.transient and not function.spec.side_effect:
            run.cancel.wait(max(0.0, min(self.policy.retry_delay, run.time_left)))
            outcome = self._attempt(run, call, function)
        return outcome, time.monotonic() - began

    def _attempt(self, run: _Run, call: _Pending, function: RegisteredFunction) -> Outcome:
        if run.cancel.is_set():
            return Outcome(False, "cancelled before it started", "cancelled")
        timeout = min(function.timeout or self.policy.timeout, run.time_left)
        if timeout <= 0:
            return Outcome(False, "not started: the run's time is over", "deadline")
        run.trace.add("started", call.number, call.name, call.identity)
        return self._execute(function, call.arguments, timeout, run.cancel)

    def _execute_here(
        self,
        function: RegisteredFunction,
        arguments: Mapping[str, Any],
        timeout: float,
        cancel: threading.Event,
    ) -> Outcome:
        return execute(
            function,
            arguments,
            timeout,
            self.policy.isolation,
            cancel,
            self.policy.memory_limit,
            self.policy.result_bytes,
            self.policy.environment,
        )

    def _finish(self, run: _Run, call: _Pending, outcome: Outcome, duration: float) -> None:
        """Turn an outcome into the result the model reads, and note it."""
        if outcome.ok:
            content = _cut(outcome, self.policy.result_bytes)
            if content != outcome.text:
                run.trace.add(
                    "truncated",
                    call.number,
                    call.name,
                    call.identity,
                    bytes=outcome.size,
                    kept=self.policy.result_bytes,
                )
            run.trace.add("finished", call.number, call.name, call.identity, duration, bytes=outcome.size)
            run.trace.results.setdefault(call.identity, []).append(redact_text(content))
        else:
            message = redact_text(outcome.text, secret_values(call.arguments))
            content = _error(outcome.error or "function_error", message)
            run.trace.add(
                "failed", call.number, call.name, call.identity, duration, error=outcome.error, message=message
            )
        call.content = content + (f"\n[{call.warning}]" if call.warning else "")


def _copy(value: Any) -> Any:
    """Copy the structure of messages; pictures and texts inside are shared."""
    if isinstance(value, Mapping):
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, (list, tuple)) else value


def _readable(name: str) -> str:
    """A name as text that can be written: an unknown one may hold anything and have any length."""
    return name[:128].encode("utf-8", "replace").decode("utf-8")


def _assistant_message(turn: Turn, pending: Sequence[_Pending]) -> dict[str, Any]:
    calls = [
        {
            "id": call.id,
            "type": "function",
            "function": {"name": call.name, "arguments": canonical_json(call.arguments)},
        }
        for call in pending
    ]
    return {"role": "assistant", "content": turn.content or None, "tool_calls": calls}


def _tool_message(call: _Pending) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call.id, "name": call.name, "content": call.content or ""}


def _error(kind: str, message: str, details: Sequence[Mapping[str, str]] = ()) -> str:
    error: dict[str, Any] = {"type": kind, "message": message}
    if details:
        error["details"] = list(details)
    return canonical_json({"error": error})


def _cut(outcome: Outcome, limit: int) -> str:
    raw = outcome.text.encode()
    if len(raw) <= limit:
        return outcome.text
    kept = raw[:limit].decode("utf-8", "ignore")
    return f"{kept}\n[cut: the first {limit:,} of {max(outcome.size, len(raw)):,} bytes]"
