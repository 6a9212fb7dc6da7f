"""The page of a training run, for `multimodal-ai report`: the report's page, filled from what the run wrote down.

Nothing is measured here, and no model is loaded; a run that still trains can be looked at as well.
"""

from __future__ import annotations

from pathlib import Path

from multimodal_ai.evaluation.report import Headline, write_report
from multimodal_ai.evaluation.saved_examples import read_examples
from multimodal_ai.evaluation.stage_metrics import Stage, read_stages


def write_training_report(run_folder: Path, out: Path) -> Path:
    """Write the page of a run, or of a folder with a run for each stage; returns the path written.

    Raises:
        ValueError: there are no metrics in the folder.
    """
    stages = read_stages(run_folder)
    if not stages:
        raise ValueError(f"{run_folder}: no metrics.jsonl here or one folder below; give the folder of a run")
    last = max(stages, key=lambda stage: stage.touched)
    found = read_examples(last.folder) if last.folder is not None else None
    step, examples = found or (0, {})
    return write_report(
        run_folder,
        {},
        out,
        title=f"Training of {run_folder.resolve().name}",
        headlines=_headlines(last),
        examples={f"{name}, after step {step:,}": rows for name, rows in examples.items()},
        environment=_environment(stages),
    )


def _headlines(stage: Stage) -> list[Headline]:
    record, memory = stage.record, stage.series("memory_gb")
    planned = f"of {record.total_steps:,} planned" if record is not None and record.total_steps else ""
    told = ", ".join(part for part in (planned, stage.state) if part)
    name = stage.title if record is None else record.stage.replace("_", " ")
    headlines = [
        Headline(f"Steps of {name.lower()}", stage.rows[-1]["step"], percent=False, explanation=told),
        Headline("Loss", stage.last("loss"), percent=False, explanation="weighted sum, over the last tenth"),
        Headline("Useful tokens per second", stage.mean("tokens_per_s"), percent=False),
        Headline("Time waiting for data", stage.mean("data_wait")),
    ]
    if stage.series("mfu"):
        headlines.append(Headline("Use of the peak FLOP/s (MFU)", stage.mean("mfu")))
    if memory:
        headlines.append(Headline("Peak memory, GB", max(value for _, value in memory), percent=False))
    return headlines


def _environment(stages: list[Stage]) -> dict[str, str]:
    """What each stage ran on, as it wrote it down itself; said once where all say the same."""
    found: dict[str, str] = {}
    for stage in stages:
        if stage.record is not None:
            for name, value in stage.record.environment.items():
                known = found.setdefault(name.capitalize(), value)
                if known != value:
                    found[f"{name.capitalize()}, {stage.title.lower()}"] = value
    seconds = sum(stage.seconds for stage in stages if stage.series("time"))
    found["Time"] = f"{seconds / 60:.1f} minutes ({seconds:,.0f} s)"
    return found
