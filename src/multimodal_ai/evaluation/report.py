"""The HTML report of a run: one file that holds everything and opens anywhere, also from an e-mail.

Text from data and models is escaped by the template, images are embedded as data, plots are inline SVG; the
page loads nothing from anywhere. The report shows what was measured and judges nothing on its own: a bar
is passed or failed as its headline says.
"""

from __future__ import annotations

import json
import math
import os
import platform
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from multimodal_ai.evaluation import plots
from multimodal_ai.evaluation.call_metrics import as_named_calls
from multimodal_ai.evaluation.common import Example, SuiteResult
from multimodal_ai.evaluation.report_views import SUITE_TITLES, Turn, format_number, format_share, gallery, turn_view
from multimodal_ai.evaluation.stage_metrics import read_stages
from multimodal_ai.evaluation.stage_views import stage_view
from multimodal_ai.inference.requests import Call
from multimodal_ai.utils.machine import processor_name

_NO_SHARES = ("auroc", "auprc", "mrr", "ece", "brier", "bits_per_byte", "count")


@dataclass(frozen=True)
class Headline:
    """One number that matters, with the least value it must reach (None: it is only told)."""

    label: str
    value: float
    bar: float | None = None
    interval: tuple[float, float] | None = None
    count: int | None = None
    percent: bool = True
    explanation: str = ""

    @property
    def passed(self) -> bool | None:
        """Whether the bar is reached; None where there is no bar."""
        return None if self.bar is None else bool(self.value >= self.bar)


def headline(result: SuiteResult, metric: str, label: str, bar: float | None = None, explanation: str = "") -> Headline:
    """A headline from a suite's metric, with its interval and the number of cases it was judged on."""
    count = result.counts.get(metric)
    value = result.metrics.get(metric, math.nan)
    percent = not any(part in metric for part in _NO_SHARES)
    return Headline(label, value, bar, result.intervals.get(metric), count, percent, explanation)


def transcript(
    messages: Sequence[Mapping[str, Any]], calls: Iterable[Call] = (), images: Sequence[Any] = ()
) -> list[Turn]:
    """The turns of a conversation out of the function loop, for `write_report`.

    Args:
        messages: as `LoopResult.messages` holds them.
        calls: as the engine gave them, for confidence and sources.
        images: stand with the first user turn.
    """
    known = {call.id: call for call in calls}
    turns: list[Turn] = []
    for message in messages:
        shown = []
        for call in message.get("tool_calls") or ():
            given = known.get(call["id"])
            plain = as_named_calls([call])[0]
            sources = {name: vars(source) for name, source in given.sources.items()} if given else {}
            shown.append(
                {
                    "name": plain.name,
                    "arguments": dict(plain.arguments),
                    "confidence": given.confidence if given else None,
                    "sources": sources,
                }
            )
        content = message.get("content") or ""
        if not isinstance(content, str):
            content = "".join(part.get("text", "") for part in content)
        first = message["role"] == "user" and not any(turn.role == "user" for turn in turns)
        turns.append(Turn(str(message["role"]), content, shown, images if first else ()))
    return turns


def write_report(
    run_folder: str | Path,
    results: Mapping[str, SuiteResult],
    out: str | Path,
    *,
    title: str = "Run report",
    headlines: Sequence[Headline] = (),
    transcript: Sequence[Turn] = (),
    environment: Mapping[str, str] | None = None,
    examples: Mapping[str, Sequence[Example]] | None = None,
    examples_per_kind: int = 6,
) -> Path:
    """Write the report of a run as one HTML file, aside first and then renamed.

    Args:
        run_folder: holds a folder for each stage with its `metrics.jsonl`, or one such file itself.
        results: by suite.
        examples: by suite; default: those of the results. Shown are the surest mistakes first, then
            right ones, at most `examples_per_kind` of each.
        environment: what the run took and ran on; default: `describe_environment()`.

    Returns:
        The path written.
    """
    chosen = examples if examples is not None else {name: result.examples for name, result in results.items()}
    stages = read_stages(run_folder)
    page = (
        _environment()
        .get_template("report.html.j2")
        .render(
            title=title,
            training_first=not results,
            date=time.strftime("%d %B %Y, %H:%M"),
            headlines=[_headline_view(item) for item in headlines],
            transcript=[turn_view(turn) for turn in transcript],
            galleries=[
                gallery(name, found, examples_per_kind) for name, found in chosen.items() if found and name != "text"
            ],
            stages=[stage_view(stage) for stage in stages],
            calibration=_calibration_plots(results),
            tables=[_metric_table(name, result) for name, result in results.items()],
            environment=dict(environment if environment is not None else describe_environment()),
        )
    )
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        aside.write_text(page, encoding="utf-8")
        os.replace(aside, out)
    finally:
        aside.unlink(missing_ok=True)
    return out


def describe_environment(seconds: float | None = None, memory_gb: float | None = None) -> dict[str, str]:
    """Versions and machine, and where given what the run took."""
    found = {
        "Machine": f"{processor_name()}, {os.cpu_count()} logical cores",
        "System": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
    }
    names = ("multimodal-ai", "torch", "accelerate", "datasets", "tokenizers", "llguidance", "numpy")
    found["Versions"] = ", ".join(f"{name} {metadata.version(name)}" for name in names)
    if seconds is not None:
        found["Time"] = f"{seconds / 60:.1f} minutes ({seconds:,.0f} s)"
    if memory_gb is not None:
        found["Peak memory"] = f"{memory_gb:.2f} GB"
    return found


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("multimodal_ai.evaluation", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["number"] = format_number
    environment.filters["value"] = lambda value: json.dumps(value, ensure_ascii=False)
    environment.filters["percent"] = lambda value: f"{value:.0%}"
    return environment


def _headline_view(item: Headline) -> dict[str, Any]:
    show = format_share if item.percent else format_number
    state = {True: "pass", False: "fail", None: "told"}[item.passed]
    parts = []
    if item.interval:
        low, high = item.interval
        parts.append(f"95% interval {show(low)} to {show(high)}")
    if item.count:
        parts.append(f"{item.count:,} cases")
    limited = min(max(item.value, 0.0), 1.0) if math.isfinite(item.value) else 0.0
    return {
        "label": item.label,
        "value": show(item.value),
        "state": state,
        "bar": None if item.bar is None else f"{item.bar:.0%}" if item.percent else f"{item.bar:g}",
        "detail": ", ".join(parts),
        "explanation": item.explanation,
        "fill": 100 * limited,
        "mark": None if item.bar is None else 100 * item.bar,
        "meter": item.percent or (item.bar is not None and 0 <= item.bar <= 1),
    }


def _calibration_plots(results: Mapping[str, SuiteResult]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    result = results.get("calls")
    if result is None:
        return found
    titles = {
        "call": ("Confidence of calls", "How often a call was right, by the confidence it was given with"),
        "trigger": ("Confidence of the decision", "How often answer, call, ask or cannot was chosen rightly"),
    }
    for key, (name, caption) in titles.items():
        judgements = result.judgements.get(key)
        if judgements:
            ece = result.metrics.get("call_ece" if key == "call" else "trigger_ece", math.nan)
            caption_text = f"{caption}; expected calibration error {format_number(ece)}."
            svg = Markup(plots.reliability_diagram(judgements, f"{name}: {caption_text}"))
            found.append({"title": name, "caption": caption_text, "svg": svg})
    decisions = result.judgements.get("trigger_call")
    if decisions:
        groups = {
            "a call is right": [value for value, should in decisions if should],
            "no call is right": [value for value, should in decisions if not should],
        }
        caption = f"AUROC {format_number(result.metrics.get('trigger_auroc'))}: the less the two overlap, the better."
        svg = Markup(plots.histogram(groups, "probability of a call", f"Probability of a call. {caption}"))
        found.append({"title": "To call or not", "caption": caption, "svg": svg})
    return found


def _metric_table(name: str, result: SuiteResult) -> dict[str, Any]:
    rows: Iterable[tuple[str, float]] = result.metrics.items()
    return {
        "title": SUITE_TITLES.get(name, name),
        "rows": [
            {
                "name": metric,
                "value": format_number(value),
                "interval": "{} to {}".format(*map(format_number, result.intervals[metric]))
                if metric in result.intervals
                else "",
            }
            for metric, value in rows
        ],
    }
