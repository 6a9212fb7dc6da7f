"""Finding the right function among thousands that were never called in training.

Requests and functions are compared as the head does it: the cosine of query and key, and the word overlap,
each with its weight. The same ranking by word overlap alone (BM25) stands beside it: a learned selection
that does not beat it has learned nothing. A tie counts against the system.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from multimodal_ai.data.recipes import metatool, sealtools
from multimodal_ai.data.recipes.common import (
    RecipeContext,
    function_name,
    in_split,
    read_json_xz,
    read_jsonl_xz,
    stream,
    tool,
)
from multimodal_ai.evaluation.common import Example, Selector, SuiteResult, ask_each, spread
from multimodal_ai.evaluation.metrics import mean_reciprocal_rank
from multimodal_ai.functions.lexical import LexicalIndex
from multimodal_ai.functions.schema import FunctionSpec
from multimodal_ai.inference.requests import Request

SIZES = (8, 64, 1000)  # of the smaller sets of functions, besides all
RECALLED = (1, 5, 10)

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Search:
    """A request, the functions that serve it, and those of them that no training request calls."""

    request: str
    wanted: tuple[int, ...]
    unseen: tuple[int, ...]


def run(engine: Selector, context: RecipeContext, batch_size: int = 32) -> SuiteResult:
    """Rank all Seal-Tools functions for its validation requests, and all MetaTool functions for its test requests.

    Returns:
        Of Seal-Tools functions that no training request calls: `r_at_1_unseen`, `r_at_5_unseen`,
        `r_at_10_unseen`, `mrr_unseen` among all 4,076; `…/8`, `…/64`, `…/1000` among so many; `bm25_r_at_1`
        and so on by word overlap alone. `metatool_…` the same among the 159 of MetaTool.
        `requests`, `functions` and `too_long` (functions whose card the model cannot take: never found) counted.
    """
    result = SuiteResult()
    specs, searches = sealtools_searches(context)
    sizes = (*(size for size in SIZES if size < len(specs)), len(specs))
    _rank(engine, result, "", specs, searches, sizes, context, batch_size)
    result.metrics["requests"] = float(len(searches))
    result.metrics["functions"] = float(len(specs))
    specs, searches = metatool_searches(context)
    _rank(engine, result, "metatool_", specs, searches, (len(specs),), context, batch_size)
    result.metrics["metatool_requests"] = float(len(searches))
    return result


def sealtools_searches(context: RecipeContext) -> tuple[list[FunctionSpec], list[Search]]:
    """All functions, and the validation requests that call at least one function unseen in training."""
    entries = list(read_jsonl_xz(context.file(sealtools.TOOLS)))
    specs = [FunctionSpec.from_tool(sealtools.convert(entry)) for entry in entries]
    number = {entry["api_name"]: place for place, entry in enumerate(entries)}
    requests = list(read_jsonl_xz(context.file(sealtools.CALLS)))
    seen = {number[call["api"]] for one in requests if one["split"] == "train" for call in one["calling"]}
    searches = []
    for one in requests:
        if one["split"] == "val":
            wanted = tuple(dict.fromkeys(number[call["api"]] for call in one["calling"]))
            searches.append(Search(one["query"], wanted, tuple(place for place in wanted if place not in seen)))
    return specs, spread([search for search in searches if search.unseen], context.limit)


def metatool_searches(context: RecipeContext) -> tuple[list[FunctionSpec], list[Search]]:
    """All functions, and the requests whose function belongs to the test split, which training never shows."""
    descriptions: Mapping[str, str] = read_json_xz(context.file(metatool.TOOLS))
    specs = [FunctionSpec.from_tool(tool(function_name(name), text, {}, ())) for name, text in descriptions.items()]
    number = {name: place for place, name in enumerate(descriptions)}
    unseen = {name for name in descriptions if in_split(f"{metatool.NAME} {name}", "test")}
    searches = [
        Search(entry["query"], (number[entry["tool"]],), (number[entry["tool"]],))
        for entry in read_jsonl_xz(context.file(metatool.QUERIES))
        if entry["tool"] in unseen
    ]
    return specs, spread(searches, context.limit)


def _rank(
    engine: Selector,
    result: SuiteResult,
    prefix: str,
    specs: Sequence[FunctionSpec],
    searches: Sequence[Search],
    sizes: Sequence[int],
    context: RecipeContext,
    batch_size: int,
) -> None:
    """Score every function for every search, and add the metrics for each number of functions."""
    cosine, fits = _cosines(engine, specs, searches, batch_size)
    scale, weight = engine.selection_weights
    whole = LexicalIndex(specs)
    for size in sizes:
        name = "" if size == len(specs) else f"/{size}"
        ranks: dict[str, list[int]] = {"{}_unseen": [], "bm25_{}": []}
        for row, search in enumerate(searches):
            listed = _listed(search, len(specs), size, context.seed)
            index = whole if size == len(specs) else LexicalIndex([specs[place] for place in listed])
            lexical = index.scores(search.request)
            scores = np.where(fits[listed], scale * cosine[row, listed] + weight * lexical, -np.inf)
            found = _ranks(scores, listed, search)
            ranks["{}_unseen"] += found
            ranks["bm25_{}"] += _ranks(lexical, listed, search)
            if not name:
                result.examples.append(_example(specs, search, scores, found))
        for system, found in ranks.items():
            for k in RECALLED:
                result.add_proportion(prefix + system.format(f"r_at_{k}") + name, [rank <= k for rank in found])
            result.metrics[prefix + system.format("mrr") + name] = mean_reciprocal_rank(found)
    result.metrics[f"{prefix}too_long"] = float((~fits).sum())


def _cosines(
    engine: Selector, specs: Sequence[FunctionSpec], searches: Sequence[Search], batch_size: int
) -> tuple[Floats, NDArray[np.bool_]]:
    """Cosines float[searches, functions], and which functions the model can take: bool[functions]."""
    requests = [Request([{"role": "user", "content": search.request}]) for search in searches]
    keys = ask_each(lambda batch: list(engine.function_keys(batch)), specs, 4 * batch_size, "Reading functions")
    queries = ask_each(lambda batch: list(engine.selection_queries(batch)), requests, batch_size, "Reading requests")
    fits = np.array([not isinstance(key, str) for key in keys])
    for rows, what in ((keys, "functions"), (queries, "requests")):
        if all(isinstance(row, str) for row in rows):
            raise ValueError(f"suite selection: the model can take none of {len(rows)} {what}; the first: {rows[0]}")
    return _matrix(queries) @ _matrix(keys).T, fits


def _matrix(rows: Sequence[object]) -> Floats:
    """Rows as a matrix, zeros where the model gave a reason instead: such a row is near nothing."""
    width = next(len(row) for row in rows if not isinstance(row, str))  # type: ignore[arg-type]
    return np.array([np.zeros(width) if isinstance(row, str) else np.asarray(row, dtype=np.float64) for row in rows])


def _listed(search: Search, count: int, size: int, seed: int) -> NDArray[np.int64]:
    """`size` functions in their order, the wanted ones and others by chance, the same ones for every model."""
    if size == count:
        return np.arange(count)
    drawn = stream("selection", seed, search.request).sample(range(count), size)
    return np.array(sorted([*search.wanted, *(place for place in drawn if place not in search.wanted)][:size]))


def _ranks(scores: Floats, listed: NDArray[np.int64], search: Search) -> list[int]:
    """The rank of each unseen function among those not wanted."""
    others = ~np.isin(listed, search.wanted)
    return [
        1 + int((scores[others] >= own).sum()) if np.isfinite(own := scores[listed == place][0]) else len(listed)
        for place in search.unseen
    ]


def _example(specs: Sequence[FunctionSpec], search: Search, scores: Floats, ranks: Sequence[int]) -> Example:
    best = np.argsort(-scores, kind="stable")[: len(search.wanted)]
    return Example(
        suite="selection",
        question=search.request,
        expected=", ".join(specs[place].name for place in search.wanted),
        given=", ".join(specs[place].name for place in best),
        correct=all(rank == 1 for rank in ranks),
        note=", ".join(f"{specs[place].name} rank {rank}" for place, rank in zip(search.unseen, ranks, strict=True)),
    )
