"""Everything the model that ships is measured on: results.json, report.html and the table of its card.

python scripts/evaluate_small.py --model models/small --data data/small --out runs/small/evaluation [--limit 300]

Reads the test splits that `configs/small/prepare.sh` made. A row of the table has its bar, the 95% Wilson interval and
the number of cases; the report shows the worst mistakes of each kind. `--card FILE` writes the table into a model card,
between the lines `<!-- results -->` and `<!-- end of results -->`.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from multimodal_ai.data.messages import Sample
from multimodal_ai.evaluation.common import SuiteResult
from multimodal_ai.evaluation.report import Headline, write_report
from multimodal_ai.evaluation.runner import load_samples, run_suites, write_json
from multimodal_ai.inference import Engine


@dataclass(frozen=True)
class Task:
    """One suite on some test splits, and what is read off it: (metric, name in the table, bar)."""

    title: str
    suite: str
    splits: Sequence[str]
    rows: Sequence[tuple[str, str, float | None]]
    limit: int = 2000
    task: str | None = None


TASKS = (
    Task(
        "Receipts, companies not seen",
        "calls",
        ("sroie",),
        (
            ("argument_exact/record_expense.total", "total exact", 0.6),
            ("argument_exact/record_expense.date", "date exact", 0.6),
            ("argument_exact/record_expense.company", "company exact", 0.4),
            ("argument_similarity/record_expense.address", "address, edit similarity", 0.6),
            ("call_exact", "whole call exact", None),
        ),
    ),
    Task(
        "Groceries, official test",
        "calls",
        ("grocery",),
        (
            ("argument_exact/add_to_cart.item", "product (fine class)", 0.6),
            ("argument_exact/add_to_cart.category", "kind (coarse class)", 0.75),
            ("call_exact", "whole call exact", None),
        ),
    ),
    Task("easy-VQA, official test", "vqa", ("easy_vqa",), (("accuracy", "right", 0.97),)),
    Task("NLVR, development split", "vqa", ("nlvr",), (("accuracy", "right", 0.75),)),
    Task(
        "Clip art and emoji, one of 100",
        "captions",
        ("openclipart", "emoji_noto"),
        (
            ("accuracy", "by likelihood", 0.5),
            ("accuracy_relative", "relative to the caption's own likelihood", None),
        ),
        task="caption",
    ),
    Task(
        "Image-text retrieval, 1,000 pairs",
        "retrieval",
        ("openstax_img", "openclipart", "emoji_noto", "storybooks"),
        (("text_to_image_recall@10", "R@10, text to image", 0.4), ("image_to_text_recall@10", "image to text", 0.4)),
        limit=1000,
        task="caption",
    ),
    Task(
        "Handwritten readings",
        "calls",
        ("digits",),
        (("image_call_exact", "whole call exact", 0.9), ("trigger_auroc", "knows when to call, AUROC", None)),
        task="call",
    ),
    Task(
        "Requests in words, functions not seen",
        "calls",
        ("function_cards",),
        (("call_exact", "whole call exact", None), ("trigger_auroc", "knows when to call, AUROC", None)),
        limit=600,
    ),
    Task(
        "Prose", "text", ("books", "openstax_text", "wiki_summaries"), (("bits_per_byte", "bits per byte", 1.25),), 150
    ),
)
SMALLER_IS_BETTER = ("bits_per_byte",)


def samples_of(task: Task, data: Path, limit: int | None) -> list[Sample]:
    """The rows of a task's splits, spread over each so that together they are at most the limit."""
    most = min(task.limit, limit or task.limit)
    every = [load_samples(data / split / "test.parquet") for split in task.splits]
    wanted = [[one for one in rows if task.task in (None, one.task)] for rows in every]
    if task.suite == "vqa":
        wanted = [[one for one in rows if one.task == "vqa"] for rows in wanted]
    if task.suite == "calls":
        wanted = [[one for one in rows if one.specs] for rows in wanted]
    together = sum(map(len, wanted))
    kept = []
    for rows in wanted:
        count = min(len(rows), math.ceil(most * len(rows) / together))
        kept += [rows[number * len(rows) // count] for number in range(count)] if count else []
    return kept[:most]


def table(found: Sequence[tuple[Task, SuiteResult]]) -> str:
    """The results as Markdown."""
    lines = ["| task | measure | result | 95% interval | bar | cases |", "|---|---|---|---|---|---|"]
    for task, result in found:
        for metric, label, bar in task.rows:
            value = result.metrics.get(metric, math.nan)
            small = metric in SMALLER_IS_BETTER
            plain = small or "auroc" in metric or "similarity" in metric
            shown = f"{value:.3f}" if plain else f"{value:.1%}"
            interval = result.intervals.get(metric)
            between = f"{interval[0]:.1%} to {interval[1]:.1%}" if interval else ""
            met = bar is None or (value <= bar if small else value >= bar)
            target = "" if bar is None else f"{bar:g}" if plain else f"{bar:.0%}"
            cases = int(result.counts.get(metric, result.metrics.get("count", 0)))
            lines.append(
                f"| {task.title} | {label} | {shown if met else f'**{shown}**'} | {between} | {target} | {cases:,} |"
            )
    return "\n".join(lines) + "\n"


def headlines(found: Sequence[tuple[Task, SuiteResult]]) -> list[Headline]:
    """What the report opens with: every number that has a bar to reach from below."""
    return [
        Headline(f"{task.title}: {label}", result.metrics.get(metric, math.nan), bar, result.intervals.get(metric))
        for task, result in found
        for metric, label, bar in task.rows
        if bar is not None and metric not in SMALLER_IS_BETTER
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("models/small"))
    parser.add_argument("--data", type=Path, default=Path("data/small"))
    parser.add_argument("--out", type=Path, default=Path("runs/small/evaluation"))
    parser.add_argument("--limit", type=int, help="at most so many cases of each task")
    parser.add_argument("--only", nargs="*", help="only tasks whose title holds one of these words")
    parser.add_argument("--card", type=Path, help="model card whose table of results is replaced")
    given = parser.parse_args()
    engine = Engine.from_pretrained(given.model)
    found = []
    for task in TASKS:
        if given.only and not any(word.lower() in task.title.lower() for word in given.only):
            continue
        found.append((task, run_suites(engine, {task.suite: samples_of(task, given.data, given.limit)})[task.suite]))
        print(table(found[-1:]), flush=True)
    given.out.mkdir(parents=True, exist_ok=True)
    write_json({task.title: dict(result.metrics) for task, result in found}, given.out / "results.json")
    write_report(
        given.model,
        {task.title: result for task, result in found},
        out=given.out / "report.html",
        headlines=headlines(found),
        examples={task.title: result.examples for task, result in found if task.suite != "text"},
        title="The model that ships",
    )
    if given.card is not None:
        card = given.card.read_text(encoding="utf-8")
        block = f"<!-- results -->\n{table(found)}<!-- end of results -->"
        changed, count = re.subn(r"<!-- results -->.*?<!-- end of results -->", lambda _: block, card, flags=re.S)
        if count != 1:
            raise SystemExit(f"{given.card}: expected one pair of <!-- results --> and <!-- end of results -->")
        given.card.write_text(changed, encoding="utf-8")


if __name__ == "__main__":
    main()
