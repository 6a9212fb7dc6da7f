"""What the stages of a run wrote down while they trained: metrics.jsonl (a line a step), run.json, config.yaml."""

from __future__ import annotations

import contextlib
import json
import math
from dataclasses import dataclass, field
from pathlib import Path

from multimodal_ai.training.run_record import RunRecord, read_record, state_of

STAGES = ("pretraining", "alignment", "instruction_tuning")


@dataclass
class Stage:
    """What the files of a stage tell. `state` is as `multimodal-ai runs` has it; empty where no run.json says so."""

    name: str
    rows: list[dict[str, float]] = field(default_factory=list)
    folder: Path | None = None
    record: RunRecord | None = None
    state: str = ""
    config: str = ""

    @property
    def title(self) -> str:
        """The name as a person writes it."""
        return (self.name.lstrip("0123456789_-").replace("_", " ") or "run").capitalize()

    @property
    def touched(self) -> float:
        """When its metrics were last written, in seconds since 1970."""
        return 0.0 if self.folder is None else (self.folder / "metrics.jsonl").stat().st_mtime

    def series(self, key: str) -> list[tuple[float, float]]:
        """Points (step, value) where the value was logged and finite."""
        return [(row["step"], row[key]) for row in self.rows if math.isfinite(row.get(key, math.nan))]

    def keys(self, prefix: str) -> list[str]:
        """Logged keys that begin so, in the order they first appear."""
        return list(dict.fromkeys(key for row in self.rows for key in row if key.startswith(prefix)))

    def last(self, key: str) -> float:
        """The mean of the last tenth of what was logged: a single step is noise."""
        values = [value for _, value in self.series(key)]
        tail = values[-max(len(values) // 10, 1) :]
        return sum(tail) / len(tail) if tail else math.nan

    def mean(self, key: str) -> float:
        values = [value for _, value in self.series(key)]
        return sum(values) / len(values) if values else math.nan

    @property
    def seconds(self) -> float:
        """Seconds of the stage, over all its runs."""
        return max((value for _, value in self.series("time")), default=math.nan)


def read_stages(run_folder: str | Path) -> list[Stage]:
    """Every stage of a run in the order they are trained; broken lines are left out.

    Where a step was logged twice (a run that was resumed), the later line counts.
    """
    folder = Path(run_folder)
    files = [folder / "metrics.jsonl", *folder.glob("*/metrics.jsonl")]
    stages = []
    for file in files:
        if not file.is_file():
            continue
        rows: dict[float, dict[str, float]] = {}
        for line in file.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
                values = {key: float(value) for key, value in row.items() if isinstance(value, int | float)}
                rows[values["step"]] = {**rows.get(values["step"], {}), **values}
            except (ValueError, KeyError, AttributeError):
                continue  # the line that a kill cut short
        if rows:
            stage = Stage(file.parent.name, [rows[step] for step in sorted(rows)], file.parent)
            found = read_record(file.parent)
            if found is not None:
                stage.record, stage.state = found[0], state_of(*found)
            with contextlib.suppress(OSError):
                stage.config = (file.parent / "config.yaml").read_text(encoding="utf-8", errors="replace")
            stages.append(stage)
    return sorted(stages, key=_stage_order)


def _stage_order(stage: Stage) -> tuple[int, str]:
    for position, name in enumerate(STAGES):
        if name in stage.name or stage.name in name:
            return position, stage.name
    return len(STAGES), stage.name
