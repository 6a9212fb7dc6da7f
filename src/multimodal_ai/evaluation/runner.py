"""Runs suites and writes what they found as JSON.

Suites of one kind judge whatever data set they are given; those in `BENCHMARKS` bring their own data: a
folder of sources, an installed package, or what they generate.

The file is written aside and renamed, so that it is whole or not there. A metric that the data cannot
define stands as null. Which rows a limit keeps depends on the data set's length alone, so two models are
always judged on the same rows.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from multimodal_ai.data.messages import Sample
from multimodal_ai.data.recipes.common import RecipeContext
from multimodal_ai.data.rows import load_rows
from multimodal_ai.evaluation import (
    arguments,
    bfcl,
    calls,
    captions,
    injection,
    retrieval,
    schemas,
    selection,
    text,
    trigger,
    vqa,
)
from multimodal_ai.evaluation.common import SuiteResult, spread_rows
from multimodal_ai.utils.logger import is_main_process

Suite = Callable[..., SuiteResult]
SUITES: dict[str, Suite] = {
    "text": text.run,
    "retrieval": retrieval.run,
    "captions": captions.run,
    "vqa": vqa.run,
    "calls": calls.run,
}
BENCHMARKS: dict[str, Callable[[Any, RecipeContext, int], SuiteResult]] = {
    "arguments": arguments.run,
    "bfcl": bfcl.run,
    "injection": injection.run,
    "schemas": schemas.run,
    "selection": selection.run,
    "trigger": trigger.run,
}
_JUDGED_BY: dict[str, Callable[[Sample], bool]] = {
    "text": lambda sample: sample.task == "text",
    "retrieval": retrieval.is_pair,
    "captions": lambda sample: False,  # takes a hundred times as long as `retrieval`: only when it is asked for
    "vqa": vqa.is_question,
    "calls": lambda sample: bool(sample.specs),
}


def check_suites(names: Iterable[str]) -> None:
    """Raise a ValueError that lists the suites where one of `names` is none of them."""
    for name in names:
        if name not in SUITES and name not in BENCHMARKS:
            raise ValueError(f"unknown suite {name}; there are {', '.join([*SUITES, *BENCHMARKS])}")


def suites_for(samples: Iterable[Sample]) -> list[str]:
    """The suites that can judge at least one of the samples."""
    everything = list(samples)
    return [name for name in SUITES if any(map(_JUDGED_BY[name], everything))]


def run_suites(engine: Any, suites: Mapping[str, Iterable[Sample]], batch_size: int = 32) -> dict[str, SuiteResult]:
    """Run each suite on its samples."""
    check_suites(suites)
    for name in suites:
        if name in BENCHMARKS:
            raise ValueError(f"suite {name} brings its own data; it takes no data set")
    return {name: SUITES[name](engine, samples, batch_size=batch_size) for name, samples in suites.items()}


def evaluate(
    engine: Any,
    suites: Mapping[str, str | Path],
    limit: int | None = None,
    json_out: str | Path | None = None,
    batch_size: int = 32,
) -> dict[str, dict[str, float]]:
    """Run suites on data sets, `{suite: path}`, and return `{suite: {metric: value}}`.

    Args:
        limit: at most this many rows of each data set, spread over all of it.
        json_out: where to write the same as JSON.
    """
    check_suites(suites)
    samples = {name: load_samples(path, limit) for name, path in suites.items()}
    results = run_suites(engine, samples, batch_size)
    if json_out is not None:
        write_json(metrics_of(results), json_out)
    return metrics_of(results)


def evaluate_folder(
    model: str | Path,
    data: Sequence[str | Path] = (),
    suites: Sequence[str] = (),
    limit: int | None = None,
    json_out: str | Path | None = None,
    batch_size: int = 32,
    device: str = "cpu",
    source: str | Path | None = None,
    copied_strings: bool = False,
    backend: str = "auto",
    weights: str | None = None,
) -> dict[str, SuiteResult]:
    """Evaluate a trained folder: what `multimodal-ai eval` and `scripts/eval.py` run.

    Suites that judge data sets pair up with them in order; one data set serves all of them, and without suites
    every suite runs on what it can judge. Suites with data of their own read files, where they need some, from
    the folder `source`. `copied_strings`: string arguments copy words of the conversation, see `Request.strings`.
    `backend`, `weights`: what runs the decoder, see `decoding_backend`. Under a launcher the processes share the work.
    """
    check_suites(suites)
    judging = [name for name in suites if name in SUITES]
    own = [name for name in suites if name in BENCHMARKS]
    if not data and not own:
        raise ValueError("nothing to evaluate on; give --data, or one of the suites " + ", ".join(BENCHMARKS))
    if judging and len(data) not in (1, len(judging)):
        raise ValueError(
            f"{len(judging)} suites ({', '.join(judging)}) but {len(data)} data sets; give one data set for all, "
            "or one for each suite"
        )
    if data and own and not judging:
        raise ValueError(f"suites {', '.join(own)} bring their own data; leave the data set out or name its suite too")
    loaded = [load_samples(path, limit) for path in data]
    if judging:
        pairs = list(zip(judging, loaded * len(judging) if len(data) == 1 else loaded, strict=True))
    else:
        pairs = [(name, samples) for samples in loaded for name in suites_for(samples)]
    chosen: dict[str, list[Sample]] = {}
    for name, samples in pairs:
        chosen.setdefault(name, []).extend(samples)
    engine = _engine(model, device, copied_strings, backend, weights)
    results = run_suites(engine, chosen, batch_size)
    context = RecipeContext(Path(source) if source is not None else None, limit=limit)
    results |= {name: BENCHMARKS[name](engine, context, batch_size) for name in own}
    if json_out is not None and is_main_process():
        write_json(metrics_of(results), json_out)
    return results


def _engine(model: str | Path, device: str, copied_strings: bool, backend: str, weights: str | None) -> Any:
    """The engine of a trained folder; where a launcher started several processes, one that shares the work."""
    from multimodal_ai.inference import Engine

    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        engine = Engine.from_pretrained(model, device, backend=backend, weights=weights)
        engine.strings = "copied" if copied_strings else "free"
        return engine
    from accelerate import PartialState

    from multimodal_ai.evaluation.sharded import ShardedEngine

    own = PartialState(cpu=device == "cpu").device
    place = "cpu" if own.type == "cpu" else str(own)
    engine = Engine.from_pretrained(model, place, backend=backend, weights=weights)
    engine.strings = "copied" if copied_strings else "free"
    return ShardedEngine(engine)


def metrics_of(results: Mapping[str, SuiteResult]) -> dict[str, dict[str, float]]:
    """`{suite: {metric: value}}`."""
    return {name: dict(result.metrics) for name, result in results.items()}


def load_samples(path: str | Path, limit: int | None = None) -> list[Sample]:
    """Validated samples of a data set file or folder; a DataError names the row that cannot be used."""
    rows = load_rows(path)
    name = Path(path).name
    return [Sample.from_row(rows[row], f"row {row + 1:,} of {name}") for row in spread_rows(len(rows), limit)]


def write_json(values: Any, path: str | Path) -> None:
    """Write JSON aside and rename it into place; NaN and infinities become null."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        aside.write_text(json.dumps(_finite(values), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def _finite(values: Any) -> Any:
    if isinstance(values, Mapping):
        return {str(key): _finite(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [_finite(value) for value in values]
    if isinstance(values, float) and not math.isfinite(values):
        return None
    return values
