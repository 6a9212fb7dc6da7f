"""The quickstart: data, three stages, evaluation, report, and one image through the function loop.

Everything comes from installed packages, nothing from the network. It uses the same configs, trainer,
engine and suites as any other run; all that is special here is that the stages share one clock, so that
the whole ends within ten minutes on two cores. It never looks at a test split before the evaluation.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from multimodal_ai.data.messages import Sample
from multimodal_ai.data.rows import load_rows
from multimodal_ai.data.tokenizer import Tokenizer
from multimodal_ai.utils.logger import console, get_logger, peak_memory_gb, progress

log = get_logger(__name__)

STAGES = ("pretraining", "alignment", "instruction_tuning")
VOCABULARY = 4096
PROCESSES = 2  # that train side by side, where there are so many cores
# rows by recipe and split; None: all there are
ROWS: dict[str, dict[str, int | None]] = {
    "digit_tiles": {"train": 8_000},
    "digits": {"train": 18_000, "test": 800},
    "function_cards": {"train": 16_000, "calibration": 300, "test": 600},
    "easy_vqa": {"train": None, "test": None},
    "shape_tiles": {"train": 6_000},
    "stdlib_text": {"train": None, "test": None},
}
# limits of the evaluation, and of the two-minute form
EVALUATED = {"vqa": 2000, "calls": 600, "retrieval": 300, "text": 60}
EXAMPLE_FUNCTIONS = Path("examples/functions.py")
QUICK = 0.12  # share of everything in the two-minute form
BARS = {"easy_vqa_accuracy": 0.85, "image_call_exact": 0.80, "trigger_auroc": 0.95, "schema_valid": 1.0}


@dataclass
class Outcome:
    """What a quickstart ends with: the numbers of results.json and where the report lies."""

    results: dict[str, float]
    report: Path
    exit_code: int = 0
    passed: dict[str, bool] = field(default_factory=dict)


def run(
    folder: Path = Path("runs/quickstart"), quick: bool = False, configs: Path = Path("configs/quickstart")
) -> Outcome:
    """Run everything; an interrupted run goes on where it stopped when started again.

    folder: where data, stages, model, results.json and report.html are written.
    quick: the two-minute form, which shows that everything works and reaches no bar.
    configs: folder with pretraining.yaml, alignment.yaml and instruction_tuning.yaml.

    Raises ValueError where the configs are missing, and what the trainer raises.
    """
    from multimodal_ai.training.local_launch import train_locally

    started = time.monotonic()
    missing = [stage for stage in STAGES if not (configs / f"{stage}.yaml").is_file()]
    if missing:
        raise ValueError(f"{configs}: no {missing[0]}.yaml there; run this in the project's folder")
    share = QUICK if quick else 1.0
    data = folder / "data"
    _forget_other(folder, share)
    _prepare(data, share)
    _train_tokenizer(data)
    before: Path | None = None
    memory = 0.0
    processes = min(os.cpu_count() or 1, PROCESSES)
    for stage in STAGES:
        overrides = _overrides(configs, folder, stage, before, share)
        others = folder / stage / "other_processes.log"
        launched = train_locally(configs / f"{stage}.yaml", overrides, processes, others)
        if launched.exit_code:
            log.warning("%s stopped; run the same command again to go on from its last checkpoint", stage)
            if launched.exit_code not in (130, 143) and others.stat().st_size:
                log.warning("what its other process said: %s", others)
            return Outcome({}, folder / "report.html", launched.exit_code)
        memory = max(memory, launched.peak_memory_gb)
        before = folder / stage
    for file in (folder / STAGES[-1] / "model").iterdir():
        shutil.copy2(file, folder / file.name)
    return _evaluate(folder, share, started, memory)


def _overrides(configs: Path, folder: Path, stage: str, before: Path | None, share: float) -> list[str]:
    """The config's paths moved to `folder`, and its time budget to this machine's share."""
    import yaml

    raw = yaml.safe_load((configs / f"{stage}.yaml").read_text(encoding="utf-8"))
    overrides = [
        f"output_dir={folder / stage}",
        f"schedule.time_budget_s={raw['schedule']['time_budget_s'] * share}",
    ]
    for key, section in (("data", raw["data"]), ("calibration", raw.get("calibration", {"sources": {}}))):
        for name, source in section["sources"].items():
            path = folder / "data" / Path(*Path(source["path"]).parts[-2:])
            overrides.append(f"{key}.sources.{name}.path={path}")
    if before is None:
        overrides.append(f"tokenizer={folder / 'data'}")
    else:
        overrides.append(f"init_from={before}")
    return overrides


def _forget_other(folder: Path, share: float) -> None:
    """A run of the other length in this folder is no start for this one: remove its stages and data."""
    mark = folder / "length.json"
    if mark.exists() and json.loads(mark.read_text(encoding="utf-8"))["share"] != share:
        for name in (*STAGES, "data"):
            shutil.rmtree(folder / name, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    mark.write_text(json.dumps({"share": share}) + "\n", encoding="utf-8")


# -- data -----------------------------------------------------------------------------------------------------


def _prepare(data: Path, share: float) -> None:
    """Write every recipe's splits that are not there yet, on all cores."""
    jobs = []
    for name, splits in ROWS.items():
        for split, rows in splits.items():
            limit = None if rows is None else max(int(rows * share), 200)
            mark = data / name / f".{split}.{limit}"
            if not mark.exists():
                jobs.append((name, split, limit, data))
    if not jobs:
        return
    with progress() as bar, ProcessPoolExecutor(max_workers=min(os.cpu_count() or 1, 8)) as pool:
        task = bar.add_task("Making data", total=len(jobs))
        for job in as_completed([pool.submit(_write, *arguments) for arguments in jobs]):
            job.result()
            bar.advance(task)


def _write(name: str, split: str, limit: int | None, data: Path) -> None:
    from multimodal_ai.data.recipes import write_recipe

    write_recipe(name, data, splits=[split], limit=limit)
    for old in (data / name).glob(f".{split}.*"):
        old.unlink()
    (data / name / f".{split}.{limit}").touch()


def _train_tokenizer(data: Path) -> None:
    if (data / "tokenizer.json").is_file():
        return
    with console.status("Training the tokenizer"):
        Tokenizer.train(_tokenizer_texts(data), VOCABULARY).save(data)


def _tokenizer_texts(data: Path, rows_each: int = 2500) -> Iterator[str]:
    """Everything that will be read or written, of the training splits."""
    for name in ROWS:
        rows = load_rows(data / name / "train.parquet")
        for index in range(min(rows_each, len(rows))):
            sample = Sample.from_row(rows[index], f"row {index + 1} of {name}")
            for spec in sample.specs:
                yield f"{spec.name} {spec.description}"
                for parameter in spec.parameter_names:
                    yield f"{parameter} {spec.parameter_schema(parameter).get('description', '')}"
            for message in sample.messages:
                yield message.text
                for call in message.tool_calls:
                    yield json.dumps(call.arguments, ensure_ascii=False, separators=(",", ":"))


# -- evaluation -----------------------------------------------------------------------------------------------


def _evaluate(folder: Path, share: float, started: float, memory: float) -> Outcome:
    from multimodal_ai.evaluation.report import describe_environment, headline, write_report
    from multimodal_ai.evaluation.runner import load_samples, metrics_of, run_suites, write_json
    from multimodal_ai.inference import Engine

    engine = Engine.from_pretrained(folder)
    limits = {name: max(int(limit * share), 40) for name, limit in EVALUATED.items()}
    data = folder / "data"
    digits = load_samples(data / "digits" / "test.parquet")
    cards = load_samples(data / "function_cards" / "test.parquet")
    pictures = [sample for sample in digits if sample.task == "call"]
    suites = {
        "vqa": load_samples(data / "easy_vqa" / "test.parquet", limits["vqa"]),
        "calls": pictures[: limits["calls"] // 2] + cards[: limits["calls"] // 2],
        "retrieval": [sample for sample in digits if sample.task == "caption"][: limits["retrieval"]],
        "text": load_samples(data / "stdlib_text" / "test.parquet", limits["text"]),
    }
    suites["vqa"] = [sample for sample in suites["vqa"] if sample.task == "vqa"]
    found = run_suites(engine, suites, batch_size=64)
    transcript = _function_loop(engine, pictures, folder)
    results = {
        "easy_vqa_accuracy": found["vqa"].metrics["accuracy"],
        "image_call_exact": found["calls"].metrics["image_call_exact"],
        "trigger_auroc": found["calls"].metrics["trigger_auroc"],
        "schema_valid": found["calls"].metrics["schema_valid"],
        "trigger_ece": round(found["calls"].metrics["trigger_ece"], 4),
        "seconds": round(time.monotonic() - started, 1),
        "peak_memory_gb": round(max(memory, peak_memory_gb()), 2),
    }
    write_json(results, folder / "results.json")
    write_json(metrics_of(found), folder / "metrics.json")
    headlines = [
        headline(found["vqa"], "accuracy", "Questions about images (easy-VQA)", BARS["easy_vqa_accuracy"]),
        headline(found["calls"], "image_call_exact", "Whole call exact, from an image", BARS["image_call_exact"]),
        headline(found["calls"], "trigger_auroc", "Knows when to call (AUROC)", BARS["trigger_auroc"]),
        headline(found["calls"], "schema_valid", "Calls that fit their schema", BARS["schema_valid"]),
    ]
    report = write_report(
        folder,
        found,
        out=folder / "report.html",
        headlines=headlines,
        transcript=transcript,
        environment=describe_environment(results["seconds"], results["peak_memory_gb"]),
        title="multimodal_ai quickstart",
    )
    outcome = Outcome(results, report, passed={name: results[name] >= bar for name, bar in BARS.items()})
    _print(outcome)
    return outcome


def _print(outcome: Outcome) -> None:
    from rich.table import Table

    table = Table("measure", "value", "bar", title="Held-out data, digit images and functions not seen in training")
    for name, value in outcome.results.items():
        bar = BARS.get(name)
        mark = "" if bar is None else (f"[green]≥ {bar:.2f} ✓[/]" if outcome.passed[name] else f"[red]≥ {bar:.2f} ✗[/]")
        table.add_row(name, f"{value:.3f}" if bar is not None else f"{value:g}", mark)
    console.print(table)
    console.print(f"Report: {outcome.report}", highlight=False)


def _function_loop(engine: Any, pictures: list[Sample], folder: Path) -> list[Any]:
    """One held-out plate through the loop: image and request, call, the Python function runs, final answer."""
    from multimodal_ai.evaluation.report import transcript
    from multimodal_ai.functions import FunctionLoop, load_functions
    from multimodal_ai.terminal import Responder

    registry = load_functions(EXAMPLE_FUNCTIONS)
    calls = [one for one in pictures if one.meta.get("trigger") == "call"]
    sample = next(one for one in calls if one.meta["function"] == "log_reading")
    image = sample.images[0]
    (folder / "meter.png").write_bytes(image)
    request = sample.messages[0].text
    responder = Responder(engine, max_tokens=96)
    os.environ.setdefault("MULTIMODAL_AI_LEDGER", str(folder / "ledger.jsonl"))
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": request}]}]
    loop = FunctionLoop(responder, registry, approve=lambda call: "allow")
    made = loop.run(messages, [image])
    turns = transcript(made.messages, [call for reply in responder.replies for call in reply.calls], [image])
    console.rule(f"One image through the function loop: {folder / 'meter.png'}")
    for turn in turns:
        for call in turn.calls:
            arguments = json.dumps(call["arguments"], ensure_ascii=False)
            console.print(f"  call  {call['name']}({arguments})  confidence {call['confidence']:.2f}", markup=False)
        if turn.text:
            console.print(f"  {turn.role:9s} {turn.text}", markup=False)
    return turns
