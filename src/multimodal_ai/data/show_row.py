"""Shows one row of a dataset at the terminal: as messages, or token by token as training sees it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from multimodal_ai.data.examples import build_example
from multimodal_ai.data.image_processor import ImageConfig, ImageProcessor
from multimodal_ai.data.inspection import (
    Segment,
    card_segments,
    label_lines,
    source_segments,
    target_segments,
)
from multimodal_ai.data.messages import ImagePart, Message, Sample, load_rows
from multimodal_ai.data.rendering import Renderer, RenderingConfig
from multimodal_ai.data.tokenizer import Tokenizer
from multimodal_ai.functions.canonical import canonical_json, parse_json

STYLES = {
    "special": "blue dim",
    "card": "dim",
    "system": "magenta",
    "user": "",
    "assistant": "cyan dim",
    "result": "yellow",
    "image": "blue",
    "trained": "black on green",
    "copied": "black on cyan",
    "untrained": "dim",
}


def show_row(file: Path, row: int, model: Path | None, console: Console) -> None:
    """Print row `row` (from 1) of a dataset; with the folder of a model or tokenizer, its tokens.

    Raises:
        ValueError: there is no such row, or it cannot be used; the message says why.
    """
    rows = load_rows(file)
    if not 1 <= row <= len(rows):
        raise ValueError(f"{file}: there is no row {row:,}; it has rows 1 to {len(rows):,}")
    sample = Sample.from_row(rows[row - 1], f"row {row:,} of {file.name}")
    meta = f", {canonical_json(sample.meta)}" if sample.meta else ""
    console.print(Text(f"row {row:,} of {len(rows):,}, task {sample.task}{meta}", style="bold"))
    if model is None:
        _show_messages(sample, console)
        console.print("--model FOLDER shows the tokens and which of them are trained", style="dim")
    else:
        _show_tokens(sample, model, console)


def _show_messages(sample: Sample, console: Console) -> None:
    for spec in sample.specs:
        parameters = ", ".join(name + "?" * (name in spec.optional) for name in spec.parameter_names)
        console.print(Text(f"function {spec.name}({parameters})  {spec.description}", style="dim"))
    for message in sample.messages:
        trained = message.role == "assistant" and message is sample.messages[-1]
        title = f"{message.role}{', trained' if trained else ''}"
        style = "green" if trained else "dim"
        console.print(Panel(_body(message), title=title, title_align="left", border_style=style))


def _body(message: Message) -> Text:
    body = Text()
    for part in message.parts:
        body.append("[image]" if isinstance(part, ImagePart) else part.text)
    for call in message.tool_calls:
        body.append(f"{call.name} {canonical_json(call.arguments)}\n", style="cyan")
    return body


def _show_tokens(sample: Sample, model: Path, console: Console) -> None:
    tokenizer = Tokenizer.load(model)
    processing = model / "processing.json"
    prepared = parse_json(processing.read_text(encoding="utf-8")) if processing.is_file() else {}
    images = ImageConfig.model_validate({**prepared.get("image", {}), "augment": None})
    renderer = Renderer(tokenizer, RenderingConfig.model_validate(prepared.get("rendering", {})))
    example = build_example(sample, renderer, ImageProcessor(images))
    for spec, card in zip(sample.specs, card_segments(example.cards, tokenizer), strict=True):
        _section(console, f"function {spec.name}", card)
    _section(console, "context, what the encoder reads", source_segments(example, tokenizer))
    _section(console, "target, what the decoder learns to write", target_segments(example, tokenizer))
    for line in label_lines(example, sample.specs):
        console.print(Text(line, style="dim"))
    for image in example.images:
        rows, columns = image.grid
        console.print(Text(f"image: {rows} × {columns} patches", style="dim"))
    legend = Text("highlighted: ")
    legend.append("trained", STYLES["trained"]).append(" ").append("trained, stands in the context", STYLES["copied"])
    console.print(legend)


def _section(console: Console, title: str, segments: Sequence[Segment]) -> None:
    body = Text()
    for segment in segments:
        body.append(segment.text, STYLES[segment.kind])
    tokens = sum(segment.tokens for segment in segments)
    console.print(Panel(body, title=f"{title}, {tokens:,} tokens", title_align="left", border_style="dim"))
