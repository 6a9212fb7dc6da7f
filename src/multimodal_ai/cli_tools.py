"""Commands for what surrounds training: tokenizer, data, models, configuration. The rest stands in `cli`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from multimodal_ai.cli_common import AIM_MISSED, McpOption, SetOption, command_group, err, out

tokenizer_app = command_group("Train a tokenizer.")
data_app = command_group("Look at, check and prepare data.")
functions_app = command_group("Look at functions that a model may call.")
model_app = command_group("Look at models, and pack them.")
config_app = command_group("Look at configuration.")


@tokenizer_app.command("train")
def tokenizer_train(
    inputs: Annotated[
        list[Path], typer.Argument(help="Files or folders: .txt, .md, .jsonl, .parquet (also .xz, .gz).")
    ],
    folder: Annotated[Path, typer.Option("--out", "-o", help="Folder for tokenizer.json.")],
    vocab_size: Annotated[int, typer.Option(min=1, help="Entries of the vocabulary, special tokens included.")] = 4096,
    max_characters: Annotated[int | None, typer.Option(min=1, help="Learn from at most so many characters.")] = None,
) -> None:
    """Train a byte-level BPE tokenizer on your texts.

    [bold]Example[/]: multimodal-ai tokenizer train data/*.parquet --vocab-size 8192 --out runs/tokenizer
    """
    from multimodal_ai.data.text_files import train_tokenizer

    with err.status("Training the tokenizer"):
        tokenizer = train_tokenizer(inputs, vocab_size, folder, max_characters)
    out.print(f"{folder / 'tokenizer.json'}: {tokenizer.vocab_size:,} entries", highlight=False)


@data_app.command("inspect")
def data_inspect(
    file: Annotated[Path, typer.Argument(help="JSONL, Parquet or a folder.")],
    row: Annotated[int, typer.Option(min=1, help="Which row, counted from 1.")] = 1,
    model: Annotated[
        Path | None,
        typer.Option("--model", "-m", help="Folder of a model or tokenizer: shows tokens and what is trained."),
    ] = None,
) -> None:
    """Show one row the way training sees it: context dim, trained tokens highlighted.

    [bold]Example[/]: multimodal-ai data inspect data/digits/train.parquet --row 7 --model runs/quickstart
    """
    from multimodal_ai.data.show_row import show_row

    show_row(file, row, model, out)


@data_app.command("validate")
def data_validate(
    path: Annotated[Path, typer.Argument(help="JSONL, Parquet or a folder.")],
    listed: Annotated[int, typer.Option(min=1, help="Problems told in words; all are counted.")] = 20,
) -> None:
    """Check every row as training will: messages, calls, schemas, images. Exit code 1 where a row is bad.

    [bold]Example[/]: multimodal-ai data validate my_data.jsonl
    """
    from multimodal_ai.data.rows import load_rows
    from multimodal_ai.data.validation import validate_dataset
    from multimodal_ai.utils.logger import progress

    with progress() as bar:
        task = bar.add_task("Checking rows", total=len(load_rows(path)))
        report = validate_dataset(path, listed=listed, advance=lambda: bar.advance(task))
    for line in report.lines():
        out.print(line, highlight=False, markup=False, soft_wrap=True)
    if not report.ok:
        raise typer.Exit(AIM_MISSED)


@data_app.command("recipes")
def data_recipes() -> None:
    """List the built-in recipes with their licences.

    [bold]Example[/]: multimodal-ai data recipes
    """
    from multimodal_ai.data.recipes import RECIPES

    for name, recipe in sorted(RECIPES.items()):
        out.print(f"[bold]{name}[/]  {escape(recipe.description)}", highlight=False)
        reads = ", ".join(recipe.files) or "installed packages"
        details = f"{', '.join(recipe.splits)} · reads {reads} · {recipe.licence}"
        out.print(Padding(Text(details, style="dim"), (0, 0, 0, 4)))


@data_app.command("prepare")
def data_prepare(
    recipe: Annotated[str, typer.Argument(help="Name of a recipe; see `data recipes`.")],
    folder: Annotated[Path, typer.Option("--out", "-o", help="Parquet files go to OUT/RECIPE/SPLIT.parquet.")],
    source: Annotated[Path | None, typer.Option("--from", help="Folder that holds the recipe's files.")] = None,
    split: Annotated[list[str] | None, typer.Option(help="Only this split. Repeatable.")] = None,
    task: Annotated[list[str] | None, typer.Option(help="Only samples of this task. Repeatable.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many samples of each split.")] = None,
    seed: Annotated[int, typer.Option(help="For recipes that draw at random.")] = 0,
) -> None:
    """Convert a source into Parquet files that training reads.

    [bold]Example[/]: multimodal-ai data prepare sroie --from ~/downloads --out data
    """
    from multimodal_ai.data.recipes import write_recipe
    from multimodal_ai.utils.logger import progress

    with progress() as bar:
        tasks: dict[str, Any] = {}

        def count(name: str) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(f"Writing {recipe}/{name}", total=None)
            bar.advance(tasks[name])

        written = write_recipe(
            recipe, folder, source=source, seed=seed, limit=limit, tasks=task, splits=split, on_sample=count
        )
    for path in written.values():
        out.print(str(path), highlight=False, markup=False, soft_wrap=True)


@functions_app.command("check")
def functions_check(
    file: Annotated[
        Path | None,
        typer.Argument(help="Python file (it is run), or JSON with a list of tools as a chat API takes it."),
    ] = None,
    mcp: McpOption = None,
) -> None:
    """Show what generation can hold of each function's schema. Exit code 1 where a schema cannot be used.

    Enforced: the model cannot break it. Validated: checked when the call is complete. Refused: change the schema.

    [bold]Example[/]: multimodal-ai functions check examples/functions.py
    """
    import contextlib

    from multimodal_ai import terminal
    from multimodal_ai.functions import schema_report

    refused = False
    with contextlib.ExitStack() as stack:
        specs = terminal.offered_specs(file, mcp or (), stack, err)
    for spec in specs:
        report = schema_report(spec)
        effect = "side effect, asks first" if spec.side_effect else "read-only"
        out.print(Text.assemble((spec.name, "bold"), f"  {effect}  ", (spec.hash[:12], "dim")), soft_wrap=True)
        for status, style in (("enforced", "dim"), ("validated", "yellow"), ("refused", "bold red")):
            keywords = ", ".join(keyword for keyword, given in report if given == status)
            if keywords:
                out.print(Text(f"    {status}: {keywords}", style=style), soft_wrap=True)
        refused = refused or any(status == "refused" for _, status in report)
    if refused:
        raise typer.Exit(AIM_MISSED)


@model_app.command("describe")
def model_describe(
    config: Annotated[Path, typer.Option("--config", "-c", help="YAML of a model, such as configs/models/tiny.yaml.")],
    overrides: SetOption = None,
) -> None:
    """Show the parts of a model with shapes, parameters and FLOPs. Takes no memory, whatever the size.

    [bold]Example[/]: multimodal-ai model describe --config configs/models/tiny.yaml --set text.layers=8
    """
    from multimodal_ai.models.describe import describe
    from multimodal_ai.models.multimodal_model import ModelConfig
    from multimodal_ai.utils.config import load_config

    table = Table("part", "shape", "parameters", "GFLOP a sample", title=str(config), title_justify="left")
    for column in table.columns[2:]:
        column.justify = "right"
    for part in describe(load_config(ModelConfig, config, overrides or ())):
        if part.name == "total":
            table.add_section()
        table.add_row(part.name, escape(part.shape), f"{part.parameters:,}", f"{part.flops / 1e9:,.3f}")
    out.print(table)


@model_app.command("pack")
def model_pack(
    model: Annotated[Path, typer.Argument(help="Folder of a trained model, such as runs/quickstart.")],
    folder: Annotated[Path, typer.Option("--out", "-o", help="Folder for the packed model.")],
    weights: Annotated[str, typer.Option(help="How to store the weights: int8, bfloat16 or float32.")] = "int8",
) -> None:
    """Copy a model with smaller weights on disk. It loads like any other; in memory they are float32 again.

    [bold]Example[/]: multimodal-ai model pack runs/quickstart --out models/mine --weights int8
    """
    from multimodal_ai.inference.packing import pack

    size = pack(model, folder, weights)
    out.print(f"{folder}: {size / 1e6:.1f} MB", highlight=False, soft_wrap=True)


@config_app.command("reference")
def config_reference(
    file: Annotated[Path | None, typer.Option("--out", "-o", help="Write it here instead of showing it.")] = None,
) -> None:
    """Print the reference of all configuration keys as Markdown.

    [bold]Example[/]: multimodal-ai config reference --out docs/configuration.md
    """
    from multimodal_ai.training.config import TrainConfig
    from multimodal_ai.utils.config_reference import config_reference as reference

    text = reference([TrainConfig])
    if file is None:
        sys.stdout.write(text)
    else:
        file.write_text(text, encoding="utf-8")
