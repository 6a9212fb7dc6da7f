"""Checks every row of a dataset the way training will, and says what is in it and what is wrong.

Nothing is trained, tokenised or changed: this is what `multimodal-ai data validate` runs, and what to run when
training reports rows that it had to leave out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from multimodal_ai.data.image_processor import ImageError, ImageProcessor
from multimodal_ai.data.messages import DataError, Sample
from multimodal_ai.data.rows import load_rows
from multimodal_ai.functions.schema import FunctionSpec, SchemaError, check_schema


@dataclass
class DatasetReport:
    """What a dataset holds. `errors` lists the first problems; `bad_rows` counts all rows that have one."""

    path: str
    rows: int = 0
    bad_rows: int = 0
    errors: list[str] = field(default_factory=list)
    tasks: Counter[str] = field(default_factory=Counter)
    triggers: Counter[str] = field(default_factory=Counter)
    messages: int = 0
    images: int = 0
    calls: int = 0
    functions: int = 0  # different ones, by name and schema
    characters: int = 0  # of text that the last turns hold: what is trained

    @property
    def ok(self) -> bool:
        """Whether there are rows and all of them can be used."""
        return self.rows > 0 and self.bad_rows == 0

    def lines(self) -> list[str]:
        """The report for a person."""
        tasks = ", ".join(f"{count:,} {name}" for name, count in self.tasks.most_common()) or "none"
        found = [
            f"{self.path}: {self.rows:,} rows, {self.bad_rows:,} of them bad",
            f"tasks: {tasks}",
            f"messages: {self.messages:,}, images: {self.images:,}, calls: {self.calls:,}, "
            f"functions: {self.functions:,}, characters to train: {self.characters:,}",
        ]
        if self.triggers:
            found.append("triggers: " + ", ".join(f"{count:,} {name}" for name, count in self.triggers.most_common()))
        if self.rows == 0:
            found.append("no rows: give the file at least one")
        found += self.errors
        if self.bad_rows > len(self.errors):
            found.append(f"… and {self.bad_rows - len(self.errors):,} more bad rows")
        return found


def validate_dataset(
    path: str | Path,
    processor: ImageProcessor | None = None,
    listed: int = 50,
    advance: Callable[[], None] | None = None,
) -> DatasetReport:
    """Reads all rows of a file or folder, decodes their images and checks the schemas of their functions.

    Args:
        processor: decodes the images; with its limits. One with default limits if None.
        listed: how many problems are kept in words; all are counted.
        advance: called after each row, for a progress bar.

    Raises:
        DataError: where the file cannot be opened at all.
    """
    processor = processor or ImageProcessor()
    rows = load_rows(path)
    name = Path(path).name
    report = DatasetReport(str(path))
    known: dict[FunctionSpec, str] = {}
    for index in range(len(rows)):
        where = f"row {index + 1:,} of {name}"
        report.rows += 1
        try:
            sample = Sample.from_row(rows[index], where)
            _check_functions(sample, known)
            for number, image in enumerate(sample.images):
                _check_image(processor, image, number)
            _count(report, sample)
        except (DataError, ImageError, SchemaError) as error:
            report.bad_rows += 1
            if len(report.errors) < listed:
                text = str(error)
                report.errors.append(text if text.startswith(where) else f"{where}: {text}")
        if advance is not None:
            advance()
    report.functions = len(known)
    return report


def _check_functions(sample: Sample, known: dict[FunctionSpec, str]) -> None:
    for spec in sample.specs:
        if spec not in known:
            try:
                check_schema(spec.parameters, f"function {spec.name}: parameters")
                known[spec] = ""
            except SchemaError as error:
                known[spec] = str(error)
        if known[spec]:
            raise SchemaError(known[spec])


def _check_image(processor: ImageProcessor, image: object, number: int) -> None:
    try:
        processor.load(image)  # type: ignore[arg-type]
    except ImageError as error:
        raise ImageError(f"images[{number}]: {error}") from error


def _count(report: DatasetReport, sample: Sample) -> None:
    report.tasks[sample.task] += 1
    report.messages += len(sample.messages)
    report.images += len(sample.images)
    report.calls += sum(len(message.tool_calls) for message in sample.messages)
    report.characters += len(sample.messages[-1].text)
    if sample.specs:
        derived = "call" if sample.messages[-1].tool_calls else "answer"
        report.triggers[str(sample.meta.get("trigger", derived))] += 1
