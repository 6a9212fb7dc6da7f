"""Why a call needs a person: where its values came from, what brought it up, and how sure the model is.

Reasons only, in words for whoever is asked; the loop asks, and runs. A model that does not tell where a value came from
or what it would do without the results is never given the benefit of the doubt.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from multimodal_ai.functions.policy import CallLike, LoopPolicy, Turn
from multimodal_ai.functions.provenance import FOREIGN, Origin, Provenance
from multimodal_ai.functions.registry import RegisteredFunction


class _Doubtful(Protocol):
    """What is looked at of a call."""

    name: str
    origins: dict[str, Origin]
    confidence: float | None


@dataclass(frozen=True)
class Decision:
    """What a model decides with the results hidden, as `policy.Turn` has it."""

    call: float
    function: str | None


def decision_of(turn: Turn) -> Decision | None:
    """What a turn tells of the decision without results; None where it tells nothing."""
    given = getattr(turn, "without_results", None)
    return None if given is None else Decision(float(given.call), given.function)


def sources_of(
    proposal: CallLike, arguments: Mapping[str, Any], provenance: Provenance
) -> tuple[dict[str, Origin], dict[str, float]]:
    """Of each argument where it came from, by the conversation and what the model's pointer adds to it, and how sure
    the model is of it, where it says so.
    """
    sources: Mapping[str, Any] = getattr(proposal, "sources", None) or {}
    origins, confidences = dict[str, Origin](), dict[str, float]()
    for name, value in arguments.items():
        origins[name] = provenance.origin(value, _told(sources.get(name), "origin") or "generated")
        sure = _told(sources.get(name), "confidence")
        if sure is not None:
            confidences[name] = float(sure)
    return origins, confidences


def doubts_about(
    call: _Doubtful,
    function: RegisteredFunction,
    policy: LoopPolicy,
    provenance: Provenance,
    unprompted: Decision | None,
    repeated: bool,
) -> list[str]:
    """Why a person should be asked even if side effects run unasked; of a read-only call only what it asks for.

    `unprompted`: what the model decides with the results hidden; `repeated`: the same call was made before.
    """
    doubts = _side_effect_doubts(call, policy, provenance, unprompted, repeated) if function.spec.side_effect else []
    needed = function.min_confidence
    if needed is None:
        needed = policy.auto_approve_confidence if function.spec.side_effect else 0.0
    if call.confidence is not None and not call.confidence >= needed:
        doubts.append(f"the model is only {call.confidence:.0%} sure, {needed:.0%} is needed")
    return doubts


def _side_effect_doubts(
    call: _Doubtful, policy: LoopPolicy, provenance: Provenance, unprompted: Decision | None, repeated: bool
) -> list[str]:
    doubts = [
        f"{parameter} comes from a function's {FOREIGN[origin]}, not from the user"
        for parameter, origin in call.origins.items()
        if origin in FOREIGN
    ]
    if provenance.results_read and not policy.trust_results:
        threshold = policy.side_effect_threshold
        if unprompted is None:
            doubts.append("it was proposed after a function's result was read")
        elif not unprompted.call >= threshold:
            doubts.append(
                f"with the results hidden a call is only {unprompted.call:.0%} likely, {threshold:.0%} is needed"
            )
        elif unprompted.function != call.name:
            doubts.append(f"with the results hidden the function would be {unprompted.function}")
    if repeated:
        doubts.append("the same call was made before")
    return doubts


def _told(source: Any, what: str) -> Any:
    return source.get(what) if isinstance(source, Mapping) else getattr(source, what, None)
