"""What a loop is given: the limits, the shape of a model, and who decides on side effects.

Types only; the behaviour is in `loop`.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from pydantic import Field

from multimodal_ai.functions.execution import Isolation
from multimodal_ai.functions.provenance import Origin
from multimodal_ai.functions.schema import FunctionSpec
from multimodal_ai.functions.trace import Event, Trace
from multimodal_ai.utils.config import ConfigModel

StoppedBecause = Literal["answer", "max_steps", "max_calls", "invalid_calls", "deadline", "cancelled"]


class CallLike(Protocol):
    """A proposed call. It may have `confidence`, a probability, and `sources`, which maps parameters to objects (or
    dicts) with an `origin` and perhaps a `confidence`.
    """

    @property
    def id(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def arguments(self) -> Any: ...


class Turn(Protocol):
    """One reply of a model: text, calls, or both.

    It may have `without_results`, what the model decides with every result hidden: an object with `call`, the
    probability of a call, and `function`, the likeliest one's name. None or missing: not known.
    """

    @property
    def content(self) -> str | None: ...
    @property
    def calls(self) -> Sequence[CallLike]: ...


class Respond(Protocol):
    """The model: one turn for a conversation. `tool_choice` is "auto", "none", "required" or a name's dict."""

    def __call__(
        self,
        messages: list[dict[str, Any]],
        functions: Sequence[FunctionSpec],
        images: Sequence[Any],
        tool_choice: Any,
    ) -> Turn: ...


class LoopPolicy(ConfigModel):
    """Limits of a run. Times in seconds."""

    max_steps: int = Field(default=8, ge=1, description="turns of the model in one run; the last one must be text")
    max_calls: int = Field(default=16, ge=0, description="calls in one run; those beyond are answered by an error")
    deadline: float = Field(default=60.0, gt=0, description="seconds for the whole run")
    timeout: float = Field(default=30.0, gt=0, description="seconds for one call, unless the function sets its own")
    parallel: int = Field(default=4, ge=1, description="calls at once, if all calls of the turn are read-only")
    result_bytes: int = Field(default=16 << 10, ge=64, description="longest result shown to the model, in bytes")
    identical_calls: int = Field(default=2, ge=1, description="how often one same call may run, the last time warned")
    invalid_turns: int = Field(default=1, ge=0, description="turns with invalid calls that go back for correction")
    retry_delay: float = Field(default=0.1, ge=0, description="seconds before a transient error is tried once more")
    isolation: Isolation = Field(default="thread", description="thread, or process (slower, can be killed, no secrets)")
    environment: tuple[str, ...] = Field(default=(), description="variables that a call in a process may see")
    memory_limit: int = Field(default=2 << 30, gt=0, description="bytes for one call in a process")
    auto_approve: bool = Field(default=False, description="run side effects without asking, where provenance allows it")
    auto_approve_confidence: float = Field(
        default=0.8, ge=0, le=1, description="confidence below which auto_approve asks, unless a function sets its own"
    )
    side_effect_threshold: float = Field(
        default=0.8, ge=0, le=1, description="p(call) with results hidden that a side effect after a result needs"
    )
    trust_results: bool = Field(default=False, description="let function results trigger side effects without asking")
    today: datetime.date | None = Field(
        default=None, description="day that 'tomorrow' in the conversation is counted from; the day of the run"
    )
    dry_run: bool = Field(default=False, description="validate and report calls, run nothing")


@dataclass(frozen=True)
class ProposedCall:
    """A valid call that waits for approval. `reasons` says why it is asked about, for a person.

    `origins` says of each argument where it came from: see `provenance`. `confidences` says of each argument how sure
    the model is of it, as far as it told.
    """

    id: str
    name: str
    arguments: dict[str, Any]
    function: FunctionSpec
    confidence: float | None
    origins: Mapping[str, Origin]
    reasons: tuple[str, ...]
    confidences: Mapping[str, float] = field(default_factory=dict)


Approve = Callable[[ProposedCall], "Literal['allow', 'deny'] | Mapping[str, Any]"]


def deny(call: ProposedCall) -> Literal["deny"]:
    """The default: nothing that changes anything runs unless somebody says so."""
    return "deny"


@dataclass(frozen=True)
class LoopResult:
    """How a run ended. `messages` is the whole conversation, every call with its result; `trace` holds more."""

    answer: str
    messages: list[dict[str, Any]]
    events: list[Event]
    stopped_because: StoppedBecause
    trace: Trace
