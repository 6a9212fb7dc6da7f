"""The report: one whole file, escaped, with what was measured, in every state a run can be in."""

from __future__ import annotations

import html.parser
import json
import math
import re
from pathlib import Path

import pytest

from multimodal_ai.evaluation import report
from multimodal_ai.evaluation.common import Example, SuiteResult
from multimodal_ai.evaluation.report import Headline, Turn, headline, write_report
from multimodal_ai.evaluation.stage_metrics import read_stages
from multimodal_ai.inference.requests import ArgumentSource, Call

from .conftest import picture

EVIL = "<script>alert('x')</script><img src=x onerror=alert(1)>"
VOID = {"meta", "img", "br", "link", "input"}


class Page(html.parser.HTMLParser):
    """Checks that tags are balanced, and collects ids and what is loaded."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.loaded: list[str] = []
        self.tags: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append(tag)
        if values.get("id"):
            self.ids.append(values["id"] or "")
        self.loaded += [values[name] or "" for name in ("src", "href") if name in values]
        if tag == "img":
            assert values.get("alt"), "an image needs words"
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()


def results() -> dict[str, SuiteResult]:
    found = SuiteResult()
    call = {"name": "log", "arguments": {"value": 42, "note": EVIL}, "confidence": 0.83, "sources": {}}
    call["sources"] = {"value": {"origin": "function_result", "copied": 0.9}}
    expected = [{"name": "log", "arguments": {"value": 43, "unit": "kWh"}}]
    found.examples = [
        Example("calls", f"Log it {EVIL}", "", "", False, [picture("red")], expected, [call], 0.83, source=EVIL),
        Example("calls", "Log it", "", "", True, [b"not an image"], expected, expected, 0.4),
        Example("calls", "Hi", "Hello", EVIL, False, confidence=0.99),
    ]
    found.add_proportion("call_exact", [False, True])
    found.metrics["trigger_auroc"] = math.nan
    found.judgements = {
        "call": [(0.83, False), (0.4, True)],
        "trigger": [(0.9, True)],
        "trigger_call": [(0.9, True), (0.1, False)],
    }
    return {"calls": found}


def write_metrics(folder: Path, stage: str, lines: list[str]) -> None:
    (folder / stage).mkdir(parents=True)
    (folder / stage / "metrics.jsonl").write_text("\n".join(lines))


def test_the_page_is_whole_escaped_and_loads_nothing(tmp_path: Path) -> None:
    rows = ['{"step": 119, "time": 240, "eval/books/lm": 2.5}'] + [
        json.dumps({"step": step, "time": step * 2.0, "loss": 3 / step, "loss/lm": 2 / step, "loss/span": 1 / step})
        for step in range(1, 120)
    ]
    write_metrics(tmp_path / "run", "pretraining", rows)
    write_metrics(tmp_path / "run", "alignment", rows)
    out = write_report(
        tmp_path / "run",
        results(),
        tmp_path / "out" / "report.html",
        title=f"Run {EVIL}",
        headlines=[
            headline(results()["calls"], "call_exact", "Whole calls", bar=0.4),
            Headline("Trigger", 0.91, 0.95, percent=False),
            Headline("Nothing", math.nan, 0.5),
        ],
        transcript=[
            Turn("user", EVIL, images=[picture("blue")]),
            Turn("assistant", calls=[{"name": "log", "arguments": {"value": "020"}}], seconds=0.2),
            Turn("tool", '{"ok": true}'),
        ],
        environment={"Machine": EVIL},
    )
    text = out.read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert "<code>books/lm</code></td><td>2.500</td>" in text
    assert "script" not in page.tags and "onerror=alert(1)>" not in text
    assert len(page.ids) == len(set(page.ids)), "ids must be unique across plots"
    assert all(url.startswith(("data:image/", "#")) for url in page.loaded)
    assert not re.search(r"url\((?!#)", text) and "@import" not in text
    assert page.tags.count("svg") == 5  # a loss plot for each stage, three of calibration
    assert len(list((tmp_path / "out").iterdir())) == 1


def test_bars_are_told_as_they_are(tmp_path: Path) -> None:
    text = write_report(
        tmp_path,
        {},
        tmp_path / "report.html",
        headlines=[Headline("A", 0.85, 0.85), Headline("B", 0.8499, 0.85), Headline("C", math.nan, 0.5)],
    ).read_text(encoding="utf-8")
    assert text.count("✓ passes") == 1
    assert text.count("✗ misses") == 2


def test_a_share_is_never_rounded_up_to_all() -> None:
    assert report.format_share(0.99999) == "99.9%"
    assert report.format_share(1.0) == "100.0%"
    assert report.format_share(math.nan) == "–"


def test_wrong_and_missing_arguments_are_marked(tmp_path: Path) -> None:
    text = write_report(tmp_path, results(), tmp_path / "report.html").read_text(encoding="utf-8")
    assert "expected <code>43</code>" in text
    assert "not asked for" in text
    assert "left out; expected <code>&#34;kWh&#34;</code>" in text
    assert "origin-function-result" in text
    assert text.index("Hi</p>") > text.index("Log it &lt;script"), "mistakes with an image come first"


@pytest.mark.parametrize("there", [False, True])
def test_an_empty_run_still_gives_a_page(tmp_path: Path, there: bool) -> None:
    if there:
        write_metrics(tmp_path, "alignment", ["", "not json", '{"step": 1}', '{"loss": 2}', "[1]"])
    out = write_report(tmp_path, {"vqa": SuiteResult()}, tmp_path / "report.html")
    assert Page(out.read_text(encoding="utf-8")).open == []


def test_stages_come_in_order_and_a_resumed_step_counts_once(tmp_path: Path) -> None:
    write_metrics(tmp_path, "instruction_tuning", ['{"step": 1, "loss": 1}'])
    write_metrics(tmp_path, "2_alignment", ['{"step": 1, "loss": 1}'])
    write_metrics(
        tmp_path,
        "pretraining",
        ['{"step": 1, "loss": 5, "time": 1}', '{"step": 2, "loss": 9}', '{"step": 2, "loss": 4}', '{"step": 3, "lo'],
    )
    stages = read_stages(tmp_path)
    assert [stage.name for stage in stages] == ["pretraining", "2_alignment", "instruction_tuning"]
    assert stages[0].series("loss") == [(1, 5), (2, 4)]
    assert math.isnan(stages[1].seconds)


def test_numbers_read_well() -> None:
    shown = [report.format_number(value) for value in (1.0, 0.12345, 12.345, 123456.7, 0.00012, math.nan, None)]
    assert shown == ["1", "0.123", "12.3", "123,457", "0.00012", "–", "–"]


def test_a_conversation_becomes_a_transcript() -> None:
    messages = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Log it"}]},
        {"role": "assistant", "tool_calls": [{"id": "c1", "function": {"name": "log", "arguments": '{"v":1}'}}]},
        {"role": "tool", "tool_call_id": "c1", "name": "log", "content": "stored"},
        {"role": "assistant", "content": "Done."},
    ]
    call = Call("c1", "log", {"v": 1}, 0.8, {"v": ArgumentSource("user", 0.9)})
    turns = report.transcript(messages, [call], [b"image"])
    assert [(turn.role, turn.text, len(turn.images)) for turn in turns] == [
        ("user", "Log it", 1),
        ("assistant", "", 0),
        ("tool", "stored", 0),
        ("assistant", "Done.", 0),
    ]
    assert turns[1].calls[0]["confidence"] == 0.8
    assert turns[1].calls[0]["sources"]["v"]["origin"] == "user"
