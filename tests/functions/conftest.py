"""A tokenizer, functions, and a random policy, shared by the tests of functions."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from multimodal_ai.data.tokenizer import Tokenizer
from multimodal_ai.functions import CompiledGrammar, FunctionSpec, GrammarCompiler, canonical_json

WORDS = [
    "Lagos",
    "",
    "a b",
    "E-12",
    "é",
    "日本語",
    'x"y',
    "back\\slash",
    "020",
    "}}",
    '":"',
    "\n",
    "\t ",
    "kWh",
    "한국",
    "🙂",
]

LOG_READING = FunctionSpec(
    "log_reading",
    "Record the reading of a meter.",
    {
        "type": "object",
        "properties": {
            "meter": {"type": "string"},
            "value": {"type": "integer"},
            "unit": {"enum": ["kWh", "m3", "L"]},
            "note": {"type": "string"},
            "tags": {"type": "array", "items": {"type": "string"}},
            "place": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
        "required": ["meter", "value"],
    },
    side_effect=True,
)
LOG_ERROR = FunctionSpec(
    "log_error",
    "Record an error.",
    {
        "type": "object",
        "properties": {"amount": {"type": "number"}, "fatal": {"type": "boolean"}},
        "required": ["amount"],
    },
)
NO_ARGUMENTS = FunctionSpec("refresh", "Refresh the display.")


def random_call(rng: random.Random) -> tuple[str, dict[str, Any]]:
    """A valid call of one of the three functions, arguments in the schema's order."""
    kind = rng.randrange(3)
    if kind == 0:
        return "refresh", {}
    if kind == 1:
        arguments: dict[str, Any] = {"amount": rng.choice([1, 1.5, -2.25, 100, 0.01])}
        return "log_error", arguments | ({"fatal": True} if rng.random() < 0.5 else {})
    arguments = {"meter": rng.choice(WORDS), "value": rng.choice([0, 5, -3, 12345])}
    optional = {
        "unit": rng.choice(["kWh", "m3", "L"]),
        "note": rng.choice(WORDS),
        "tags": rng.sample(WORDS, rng.randrange(4)),
        "place": {"city": rng.choice(WORDS)} if rng.random() < 0.7 else {},
    }
    return "log_reading", arguments | {key: value for key, value in optional.items() if rng.random() < 0.5}


@dataclass(frozen=True)
class Walk:
    """What a random policy generated under a grammar."""

    ids: list[int]
    ended: bool
    choices: list[np.ndarray]


@pytest.fixture(scope="session")
def functions() -> tuple[FunctionSpec, ...]:
    return (LOG_READING, LOG_ERROR, NO_ARGUMENTS)


@pytest.fixture(scope="session")
def make_call() -> Callable[[random.Random], tuple[str, dict[str, Any]]]:
    return random_call


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    rng = random.Random(0)
    texts = []
    for _ in range(400):
        name, arguments = random_call(rng)
        texts.append(canonical_json({"name": name, "arguments": arguments}))
        texts.append(f"please {name.replace('_', ' ')} {' '.join(map(str, arguments.values()))}")
    return Tokenizer.train(texts, 700)


@pytest.fixture(scope="session")
def compiler(tokenizer: Tokenizer) -> GrammarCompiler:
    return GrammarCompiler(tokenizer)


@pytest.fixture(scope="session")
def walk(tokenizer: Tokenizer) -> Callable[..., Walk]:
    def random_walk(grammar: CompiledGrammar, seed: int, patience: int = 40, limit: int = 4000) -> Walk:
        """Choose at random among the allowed tokens; after `patience` tokens prefer those that close something."""
        rng = random.Random(seed)
        matcher = grammar.matcher()
        ids: list[int] = []
        choices = []
        special = tokenizer.special
        while not matcher.is_done and len(ids) < limit:
            following = matcher.forced()
            if not following:
                mask = matcher.allowed()
                choices.append(mask)
                allowed = np.flatnonzero(mask).tolist()
                assert allowed, f"nothing may follow {tokenizer.decode(ids, skip_special=False)!r}"
                following = [rng.choice(allowed)]
                if len(ids) > patience:
                    closing = [id for id in allowed if tokenizer.token_bytes(id)[:1] in (b'"', b"}", b"]")]
                    marks = [id for id in (special.end, special.call_end) if id in allowed]
                    following = [rng.choice(marks or closing or allowed)]
            for id in following:
                matcher.consume(id)
            ids += following
        return Walk(ids, matcher.is_done, choices)

    return random_walk
