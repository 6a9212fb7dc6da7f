"""What happened in a run, step by step: events that can be kept, checked and replayed.

Each event's hash covers the one before it, so a trace that was changed afterwards is noticed. Secrets are
taken out before an event is made; a trace never holds more than the model itself was shown.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from multimodal_ai.functions.canonical import canonical_json
from multimodal_ai.functions.redaction import redact_text, redact_value

EventKind = Literal[
    "proposed",
    "validated",
    "approved",
    "denied",
    "started",
    "finished",
    "failed",
    "truncated",
    "blocked",
]


@dataclass(frozen=True)
class Event:
    """One step of one call.

    `id`: position in the run, from 1. `call`: which call (its position in the run, from 1). `time`: seconds
    since 1970. `duration`: seconds that this step took. `call_hash`: identifies function and arguments, equal
    for identical calls. `hash`: SHA-256 over this event and the one before it.
    """

    id: int
    kind: EventKind
    call: int
    name: str
    time: float
    duration: float
    call_hash: str
    detail: dict[str, Any] = field(default_factory=dict)
    hash: str = ""


def call_hash(name: str, arguments: Any) -> str:
    """SHA-256 (hex) of a call; the order of keys does not count."""
    return _digest([name, arguments])


@dataclass
class Trace:
    """A run: what went in, every message the run added, every event, how it ended.

    `header` holds the policy, the hashes of the functions, the messages at the start; `results` the text that
    each finished call gave, by call hash. `listener` is told of each event as it happens, in the thread it happens in.
    """

    header: dict[str, Any] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    messages: list[dict[str, Any]] = field(default_factory=list)
    results: dict[str, list[str]] = field(default_factory=dict)
    answer: str = ""
    stopped_because: str = ""
    listener: Callable[[Event], None] = field(default=lambda event: None, repr=False, compare=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def add(
        self,
        kind: EventKind,
        call: int,
        name: str,
        identity: str,
        duration: float = 0.0,
        **detail: Any,
    ) -> Event:
        """Append an event; secrets in `detail` are taken out."""
        with self._lock:
            previous = self.events[-1].hash if self.events else _digest(self.header)
            event = Event(
                id=len(self.events) + 1,
                kind=kind,
                call=call,
                name=name[:128],
                time=time.time(),
                duration=duration,
                call_hash=identity,
                detail=redact_value(detail),
            )
            event = replace(event, hash=_event_hash(event, previous))
            self.events.append(event)
        self.listener(event)
        return event

    def save(self, path: str | Path) -> Path:
        """Write the trace as JSON lines: the header, the events, and how the run ended."""
        path = Path(path)
        end: dict[str, Any] = {
            "answer": self.answer,
            "stopped_because": self.stopped_because,
            "messages": self.messages,
            "results": self.results,
        }
        last = self.events[-1].hash if self.events else _digest(self.header)
        end["hash"] = _digest([last, end])
        lines = [{"header": self.header}, *({"event": asdict(event)} for event in self.events), {"end": end}]
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(path.name + ".part")
        aside.write_text("".join(canonical_json(line) + "\n" for line in lines), encoding="utf-8")
        aside.replace(path)
        return path

    @classmethod
    def load(cls, path: str | Path) -> Trace:
        """Read a trace. Raises ValueError, naming the line, if it is damaged, cut short or was changed."""
        trace = cls()
        complete = False
        previous = _digest({})
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                try:
                    entry = json.loads(line)
                    if "header" in entry:
                        trace.header = dict(entry["header"])
                        previous = _digest(trace.header)
                    elif "event" in entry:
                        event = Event(**entry["event"])
                        if event.hash != _event_hash(event, previous):
                            raise ValueError("the event's hash does not fit: the trace was changed")
                        previous = event.hash
                        trace.events.append(event)
                    else:
                        end = dict(entry["end"])
                        if end.pop("hash") != _digest([previous, end]):
                            raise ValueError("the end's hash does not fit: the trace was changed")
                        trace.answer, trace.stopped_because = end["answer"], end["stopped_because"]
                        trace.messages, trace.results = end["messages"], end["results"]
                        complete = True
                except (KeyError, TypeError, ValueError) as error:
                    raise ValueError(f"{path}, line {number}: not a trace: {error}") from None
        if not complete:
            raise ValueError(f"{path}: the trace has no end; it was cut short")
        return trace

    def count(self, kind: EventKind) -> int:
        """How many events of a kind there are."""
        return sum(event.kind == kind for event in self.events)


def plain_messages(messages: Iterable[Mapping[str, Any]], secrets: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Messages as JSON data for a trace, without secrets; pictures become their length or type."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(key): plain(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(item) for item in value]
        if isinstance(value, (bytes, bytearray)):
            return f"<{len(value)} bytes>"
        if isinstance(value, str):
            return redact_text(value, secrets)
        if value is None or isinstance(value, (int, float, bool)):
            return value
        return f"<{type(value).__name__}>"

    return [dict(redact_value(plain(message))) for message in messages]


def _event_hash(event: Event, previous: str) -> str:
    fields = {key: value for key, value in asdict(event).items() if key != "hash"}
    return _digest([previous, fields])


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=True).encode()).hexdigest()
