"""The selection suite on catalogues small enough to know the right numbers."""

from __future__ import annotations

import json
import lzma
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from multimodal_ai.data.recipes import RecipeContext
from multimodal_ai.data.recipes.common import in_split
from multimodal_ai.evaluation import selection
from multimodal_ai.functions import FunctionSpec
from multimodal_ai.inference import Engine
from multimodal_ai.inference.requests import Request

NAMES = [f"fetch{chr(65 + number)}" for number in range(12)]
TOOLS = [f"plugin{number}" for number in range(40)]


@pytest.fixture
def source(tmp_path: Path) -> RecipeContext:
    """Twelve functions; the first two are called in training, the third and the fourth are not."""

    def write(name: str, text: str) -> None:
        with lzma.open(tmp_path / name, "wt", encoding="utf-8") as file:
            file.write(text)

    def lines(rows: Sequence[Any]) -> str:
        return "\n".join(map(json.dumps, rows))

    cards = [
        {"api_name": name, "api_description": f"does {name}", "field": "x", "parameters": {}, "required": []}
        for name in NAMES
    ]
    requests = [
        ("train", "0 1", NAMES[:2]),
        ("val", "0 2", [NAMES[0], NAMES[2]]),
        ("val", "2 3", NAMES[2:4]),
        ("val", "1", NAMES[1:2]),
    ]
    calls = [
        {
            "id": str(row),
            "query": query,
            "split": split,
            "calling": [{"api": name, "parameters": {}} for name in called],
        }
        for row, (split, query, called) in enumerate(requests)
    ]
    write("sealtools_tools.jsonl.xz", lines(cards))
    write("sealtools_calls.jsonl.xz", lines(calls))
    write("metatool_tools.json.xz", json.dumps({name: f"plugin for {name}" for name in TOOLS}))
    write("metatool_queries.jsonl.xz", lines([{"query": str(row), "tool": name} for row, name in enumerate(TOOLS)]))
    return RecipeContext(tmp_path)


class Oracle:
    """Knows by number which functions a request wants; `shift` makes it take the neighbour instead."""

    selection_weights = (10.0, 0.0)

    def __init__(self, shift: int = 0, refuse: str = "") -> None:
        self.shift, self.refuse = shift, refuse

    def selection_queries(self, requests: Sequence[Request]) -> np.ndarray:
        rows = np.zeros((len(requests), len(TOOLS)))
        for row, request in enumerate(requests):
            assert not request.tools
            rows[row, [(int(word) + self.shift) % len(TOOLS) for word in request.messages[0]["content"].split()]] = 1
        return rows

    def function_keys(self, specs: Sequence[FunctionSpec]) -> np.ndarray:
        if self.refuse in {spec.name for spec in specs}:
            raise ValueError("too long")
        order = [NAMES.index(spec.name) if spec.name in NAMES else TOOLS.index(spec.name) for spec in specs]
        return np.eye(len(TOOLS))[order]


def test_right_and_wrong_selections_are_told_apart(source: RecipeContext) -> None:
    found = selection.run(Oracle(), source, batch_size=4).metrics
    assert found["r_at_1_unseen"] == found["r_at_1_unseen/8"] == found["mrr_unseen"] == 1.0
    assert found["metatool_r_at_1_unseen"] == 1.0
    assert found["requests"] == 2  # the one whose function is called in training is left out
    assert found["metatool_requests"] == sum(in_split(f"metatool {name}", "test") for name in TOOLS)
    assert found["functions"] == 12 and found["too_long"] == 0
    wrong = selection.run(Oracle(shift=1), source, batch_size=4)
    # wanted 0 2 -> taken 1 3: 2 is tied with all; wanted 2 3 -> taken 3 4: 3 is at rank 1 or tied with 4, 2 is not
    assert wrong.metrics["r_at_1_unseen"] == 0.0
    assert wrong.metrics["metatool_r_at_1_unseen"] == 0.0
    assert not any(example.correct for example in wrong.examples)


def test_constant_scores_earn_nothing(source: RecipeContext) -> None:
    engine = Oracle()
    engine.function_keys = lambda specs: np.ones((len(specs), len(TOOLS)))  # type: ignore[method-assign]
    found = selection.run(engine, source).metrics
    assert found["r_at_1_unseen"] == found["r_at_5_unseen/8"] == found["bm25_r_at_1"] == 0.0
    assert found["mrr_unseen"] == pytest.approx(1 / 11)


def test_words_alone_are_the_baseline(source: RecipeContext) -> None:
    engine = Oracle()
    engine.selection_weights = (0.0, 1.0)
    found = selection.run(engine, source).metrics
    assert found["r_at_1_unseen"] == found["bm25_r_at_1"]
    assert found["metatool_mrr_unseen"] == pytest.approx(found["metatool_bm25_mrr"])


def test_a_function_that_the_model_cannot_take_is_never_found(source: RecipeContext) -> None:
    found = selection.run(Oracle(refuse=NAMES[2]), source, batch_size=3).metrics
    assert found["too_long"] == 1.0
    assert found["r_at_1_unseen"] == pytest.approx(1 / 3)  # 2, 2 and 3 are wanted
    with pytest.raises(ValueError, match="can take none of 12 functions; the first: none fits"):
        engine = Oracle()
        engine.function_keys = lambda specs: (_ for _ in ()).throw(ValueError("none fits"))  # type: ignore[method-assign]
        selection.run(engine, source)


def test_the_engine_runs_it_and_a_missing_folder_is_named(untrained: Engine, source: RecipeContext) -> None:
    result = selection.run(untrained, RecipeContext(source.source, limit=2), batch_size=4)
    assert 0 <= result.metrics["r_at_1_unseen"] <= 1 and len(result.examples) == 4
    with pytest.raises(ValueError, match="name the folder that holds sealtools_tools"):
        selection.run(untrained, RecipeContext(Path("nowhere")))
