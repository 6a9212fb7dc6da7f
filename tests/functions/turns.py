"""What a model says, as the function loop sees it: calls, turns, and the decision with results hidden."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Call:
    name: str
    arguments: Any = field(default_factory=dict)
    id: str = ""


@dataclass
class Decision:
    call: float
    function: str | None


@dataclass
class Turn:
    content: str = ""
    calls: list[Call] = field(default_factory=list)
    without_results: Decision | None = None
