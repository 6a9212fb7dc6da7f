"""The HTML report of a run: one file that holds everything and opens anywhere, also from an e-mail.

Text from data and models is escaped by the template, images are embedded as data, plots are inline SVG; the
page loads nothing from anywhere. The report shows what was measured and judges nothing on its own: a bar
is passed or failed as its headline says.
"""

from __future__ import annotations

import base64
import io
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
from PIL import Image

from multimodal_ai.data.image_processor import ImageConfig, ImageError, ImageProcessor
from multimodal_ai.evaluation import plots
from multimodal_ai.evaluation.call_metrics import as_named_calls, values_equal
from multimodal_ai.evaluation.common import Example, SuiteResult
from multimodal_ai.evaluation.stage_metrics import Stage, read_stages
from multimodal_ai.inference.requests import Call
from multimodal_ai.utils.machine import processor_name

_NO_SHARES = ("auroc", "auprc", "mrr", "ece", "brier", "bits_per_byte", "count")
SHOWN_SIDE = 360  # pixels of the longest side of an embedded image
SUITE_TITLES = {
    "calls": "Function calls",
    "vqa": "Questions about images",
    "retrieval": "Retrieval",
    "text": "Text",
}


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


@dataclass(frozen=True)
class Turn:
    """One step of the transcript of the function loop."""

    role: str  # user, assistant, tool, or approval
    text: str = ""
    calls: Sequence[Mapping[str, Any]] = ()  # name, arguments, and where known confidence and sources
    images: Sequence[Any] = ()
    seconds: float | None = None


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
            date=time.strftime("%d %B %Y, %H:%M"),
            headlines=[_headline_view(item) for item in headlines],
            transcript=[_turn_view(turn) for turn in transcript],
            galleries=[
                _gallery(name, found, examples_per_kind) for name, found in chosen.items() if found and name != "text"
            ],
            stages=[_stage_view(stage) for stage in stages],
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


def image_data_url(source: Any) -> str | None:
    """An image as a data URL no larger than it is shown; None where it cannot be read."""
    try:
        pixels = ImageProcessor(ImageConfig()).load(source)  # uint8 [3, H, W]
    except (ImageError, OSError):
        return None
    image = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    image.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    buffer = io.BytesIO()
    small = image.width * image.height <= 128 * 128
    image.save(buffer, "PNG") if small else image.save(buffer, "WEBP", quality=80)
    kind = "png" if small else "webp"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


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


def format_number(value: float | None) -> str:
    """A number as a person reads it, with three to four digits; a dash where it is undefined."""
    if value is None or not math.isfinite(value):
        return "–"
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 10 or abs(value) < 0.001 else f"{value:.3f}"


def _share(value: float) -> str:
    """A share as a percentage that never rounds up to a full hundred."""
    if not math.isfinite(value):
        return "–"
    return "99.9%" if 0.9995 <= value < 1 else f"{value:.1%}"


def _headline_view(item: Headline) -> dict[str, Any]:
    show = _share if item.percent else format_number
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


def _turn_view(turn: Turn) -> dict[str, Any]:
    return {
        "role": turn.role,
        "text": turn.text,
        "calls": [_call_view(call) for call in turn.calls],
        "images": [url for url in map(image_data_url, turn.images) if url],
        "seconds": turn.seconds,
    }


def _call_view(call: Mapping[str, Any], expected: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A call with its arguments as rows; compared with the expected call where there is one."""
    sources = call.get("sources") or {}
    arguments = dict(call.get("arguments") or {})
    wanted = None if expected is None else dict(expected.get("arguments") or {})
    rows = []
    for name, value in arguments.items():
        source = sources.get(name) or {}
        right = wanted is None or (name in wanted and values_equal(value, wanted[name]))
        rows.append(
            {
                "name": name,
                "value": value,
                "right": right,
                "origin": str(source.get("origin", "")).replace("_", " "),
                "copied": source.get("copied"),
                "expected": None if right or wanted is None else wanted.get(name),
                "unasked": wanted is not None and name not in wanted,
            }
        )
    missing = [] if wanted is None else [(name, wanted[name]) for name in wanted if name not in arguments]
    return {
        "name": call["name"],
        "confidence": call.get("confidence"),
        "rows": rows,
        "missing": missing,
        "right": wanted is not None and not missing and all(row["right"] for row in rows),
    }


def _example_view(example: Example) -> dict[str, Any]:
    expected = list(example.expected_calls)
    calls = []
    for call in example.calls:
        same = [other for other in expected if other["name"] == call["name"]]
        match = max(same, key=lambda other: _agreement(call, other)) if same else None
        if match is not None:
            expected.remove(match)
        calls.append(_call_view(call, match) | {"unexpected": match is None})
    return {
        "question": example.question,
        "expected": example.expected,
        "given": example.given,
        "correct": example.correct,
        "images": [url for url in map(image_data_url, example.images) if url],
        "calls": calls,
        "missed": [_call_view(call) for call in expected],
        "expects_call": bool(example.expected_calls),
        "confidence": example.confidence,
        "source": example.source,
        "note": example.note,
    }


def _agreement(left: Mapping[str, Any], right: Mapping[str, Any]) -> int:
    a, b = left.get("arguments") or {}, right.get("arguments") or {}
    return sum(name in b and values_equal(value, b[name]) for name, value in a.items())


def _gallery(name: str, examples: Sequence[Example], limit: int) -> dict[str, Any]:
    """Mistakes the model was surest of, then right ones, those with images before those without."""

    def order(example: Example) -> tuple[bool, float]:
        return not example.images, -(example.confidence if example.confidence is not None else 0.5)

    wrong = sorted((example for example in examples if not example.correct), key=order)
    right = sorted((example for example in examples if example.correct), key=order)
    right = right[:: max(len(right) // limit, 1)]  # spread over all of them, not only the surest
    return {
        "title": SUITE_TITLES.get(name, name),
        "count": len(examples),
        "mistakes": sum(not example.correct for example in examples),
        "wrong": [_example_view(example) for example in wrong[:limit]],
        "right": [_example_view(example) for example in right[:limit]],
    }


def _stage_view(stage: Stage) -> dict[str, Any]:
    terms = [key for key in stage.keys("loss/") if not key.startswith("loss/source")]
    curves = {key.removeprefix("loss/"): stage.series(key) for key in terms} or {"loss": stage.series("loss")}
    name = stage.name.lstrip("0123456789_-").replace("_", " ") or "run"
    speed = stage.series("tokens_per_s")
    return {
        "name": name.capitalize(),
        "steps": stage.rows[-1]["step"],
        "seconds": stage.seconds,
        "losses": [(term, stage.last(f"loss/{term}")) for term in curves if term != "loss"],
        "loss": stage.last("loss"),
        "tokens": stage.mean("tokens_per_s"),
        "images": stage.mean("images_per_s"),
        "waiting": _share(stage.mean("data_wait")),
        "held_out": [
            (key.removeprefix("eval/"), stage.series(key)[-1][1]) for key in stage.keys("eval/") if stage.series(key)
        ],
        "loss_plot": Markup(plots.lines(curves, "loss", f"Loss of each term over the steps of {name}")),
        "speed_plot": Markup(
            plots.lines({"tokens per second": speed}, "tokens / s", f"Throughput over the steps of {name}")
        )
        if len(speed) > 1
        else None,
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
