"""The command line: one command for each thing a person does with the package.

Commands only read arguments, call the library and show what came back; whatever is worth reusing lives in the
library. Imports stand inside the commands, so that `--help` answers at once. Results go to stdout, everything
else to stderr.

Exit codes: 0 done; 1 it ran, but missed its aim (bad rows found, a required metric not reached, a loss that is
not finite, data that cannot be read, a full disk); 2 wrong usage, input or configuration; 3 `ask` needed a call
and got none; 4 `ask` ended with a call denied; 5 `ask` ended with a function that failed, a limit reached or an
answer that does not fit its format; 130 Ctrl-C; 143 SIGTERM.
"""

from __future__ import annotations

import json
import re
import signal
import sys
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from multimodal_ai.cli_common import AIM_MISSED, McpOption, SetOption, command_group, err, out
from multimodal_ai.cli_scale import checkpoint_app, plan
from multimodal_ai.cli_tools import config_app, data_app, functions_app, model_app, tokenizer_app
from multimodal_ai.shipped import model_folder, model_name

if TYPE_CHECKING:
    import contextlib

    from fastapi import FastAPI

    from multimodal_ai.inference import Engine
    from multimodal_ai.serving import ServerConfig

app = command_group(
    "Train, evaluate and use models that see, read and call functions.\n\n"
    "Start with [bold]multimodal-ai quickstart[/]: it trains a small model in minutes and shows what it can do. "
    "Add [bold]--debug[/] to any command for the whole error."
)
for _name, _sub in (
    ("tokenizer", tokenizer_app),
    ("data", data_app),
    ("functions", functions_app),
    ("model", model_app),
    ("checkpoint", checkpoint_app),
    ("config", config_app),
):
    app.add_typer(_sub, name=_name)
app.command()(plan)


ModelOption = Annotated[
    Path | None,
    typer.Option(
        "--model", "-m", help="Folder of a trained model, such as runs/quickstart. Default: the one that comes along."
    ),
]
DeviceOption = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, …; auto takes a GPU where there is one.")]
BackendOption = Annotated[
    str, typer.Option(help="What runs the decoder: torch, openvino, or auto: OpenVINO on a CPU where it is installed.")
]
WeightsOption = Annotated[
    str | None, typer.Option(help="Weights of OpenVINO's decoder: fp32 (default), bf16 or int8; docs/performance.md.")
]


def _version(shown: bool) -> None:
    if shown:
        from multimodal_ai import __version__

        out.print(__version__, highlight=False)
        raise typer.Exit()


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Options that stand before the command."""


CopiedOption = Annotated[
    bool, typer.Option("--copied-strings", help="Free string arguments only copy words of the conversation.")
]


# -- training and evaluating ----------------------------------------------------------------------------


@app.command()
def quickstart(
    folder: Annotated[Path, typer.Option("--out", "-o", help="Where the run is written.")] = Path("runs/quickstart"),
    quick: Annotated[bool, typer.Option("--quick", help="Two minutes only: shows that everything works.")] = False,
) -> None:
    """Train the tiny model through all three stages on built-in data, evaluate it, and use it once.

    Takes at most ten minutes on two CPU cores, needs no network, and writes report.html.

    [bold]Example[/]: multimodal-ai quickstart --out runs/quickstart
    """
    from multimodal_ai import quickstart as job

    raise typer.Exit(job.run(folder, quick=quick).exit_code)


@app.command()
def train(
    config: Annotated[Path, typer.Option("--config", "-c", help="YAML of a stage; see docs/configuration.md.")],
    overrides: SetOption = None,
) -> None:
    """Train one stage. Ctrl-C and SIGTERM save a checkpoint first; run the same command again to go on.

    On several processes: accelerate launch scripts/train.py --config … --set …

    [bold]Example[/]: multimodal-ai train --config configs/quickstart/alignment.yaml --set optimizer.lr=1e-3
    """
    from multimodal_ai.evaluation.in_training import generated_examples
    from multimodal_ai.training.interface import TrainingStopped
    from multimodal_ai.training.run import run_training

    try:
        result = run_training(config, overrides or (), [generated_examples])
    except TrainingStopped as error:
        err.print(f"[bold red]stopped:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        raise typer.Exit(AIM_MISSED) from None
    if result.model_dir is not None:
        out.print(str(result.model_dir), highlight=False, markup=False, soft_wrap=True)
    raise typer.Exit(result.exit_code)


_STATE_STYLES = {"running": "green", "finished": "bold", "failed": "red", "killed": "red", "stopped": "yellow"}


@app.command()
def runs(
    folder: Annotated[Path, typer.Argument(help="The folder that holds your runs.")] = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON array.")] = False,
) -> None:
    """List training runs: state, last step and loss, and the command that goes on with each.

    stopped: by Ctrl-C or a signal, with a checkpoint. failed: by an error. killed: it ended without a word.

    [bold]Example[/]: multimodal-ai runs runs
    """
    from dataclasses import asdict

    from multimodal_ai.training.run_list import ago, find_runs

    found = find_runs(folder)
    if as_json:
        sys.stdout.write(json.dumps([asdict(run) for run in found], ensure_ascii=False) + "\n")
        return
    if not found:
        err.print(f"{folder}: no runs here", highlight=False, markup=False, soft_wrap=True)
        return
    table = Table("run", "state", "stage", "step", "loss", "last seen", box=None, pad_edge=False)
    table.columns[0].overflow = "fold"
    for number, column in enumerate(table.columns):
        column.no_wrap, column.justify = number > 0, "right" if number in (3, 4) else "left"
    for run in found:
        done = "?" if run.step is None else f"{run.step:,}"
        table.add_row(
            escape(run.path),
            f"[{_STATE_STYLES.get(run.state, 'dim')}]{run.state}[/]",
            escape(run.stage),
            f"{done} of {run.total_steps:,}" if run.total_steps else done,
            "" if run.loss is None else f"{run.loss:.4g}",
            ago(run.seen),
        )
    out.print(table)
    for run in found:
        if run.resume or run.message:
            out.print(f"\n{run.path}: {run.message or 'to go on:'}", highlight=False, markup=False, soft_wrap=True)
        if run.resume:
            out.print(f"  {run.resume}", highlight=False, markup=False, soft_wrap=True)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="Folder of a run, or of its stages.")],
    out_file: Annotated[
        Path | None, typer.Option("--out", "-o", help="Where to write it; default: training.html in the folder.")
    ] = None,
) -> None:
    """Write the page of a training run: curves, examples, configuration, versions, how to resume; one HTML file.

    [bold]Example[/]: multimodal-ai report runs/quickstart
    """
    from multimodal_ai.evaluation.training_report import write_training_report

    page = write_training_report(run, out_file or run / "training.html")
    out.print(str(page), highlight=False, markup=False, soft_wrap=True)


_REQUIREMENT = re.compile(r"(\w+)\.([^<>=]+?)\s*(>=|<=)\s*([-+.\deE]+)")


@app.command("eval")
def evaluate(
    model: ModelOption = None,
    data: Annotated[
        list[Path] | None, typer.Option("--data", "-d", help="JSONL, Parquet or a folder. Repeatable.")
    ] = None,
    suite: Annotated[
        list[str] | None,
        typer.Option(
            help="text, retrieval, vqa or calls; one for each --data, or all for one. Default: all that fit. "
            "Or one with its own data: arguments, bfcl, injection, schemas, selection, trigger. Repeatable."
        ),
    ] = None,
    source: Annotated[
        Path, typer.Option("--from", help="Folder that holds the files of suites with their own data.")
    ] = Path("../shared/data"),
    json_out: Annotated[Path | None, typer.Option("--json", help="Write {suite: {metric: value}} here.")] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="At most so many rows of each data set, or cases of each kind.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Requests answered at once.")] = 32,
    copied_strings: CopiedOption = False,
    require: Annotated[
        list[str] | None,
        typer.Option(metavar="SUITE.METRIC>=VALUE", help="Exit with 1 where this is not reached. Repeatable."),
    ] = None,
    device: DeviceOption = "auto",
    backend: BackendOption = "auto",
    weights: WeightsOption = None,
) -> None:
    """Measure a model on data it has not seen; docs/evaluation.md says what each suite measures.

    [bold]Example[/]: multimodal-ai eval -m runs/quickstart --suite vqa -d data/easy_vqa/test.parquet --json vqa.json
    """
    from multimodal_ai.evaluation.runner import evaluate_folder
    from multimodal_ai.utils.logger import is_main_process

    wanted = [_requirement(text) for text in require or ()]
    results = evaluate_folder(
        model_folder(model),
        data or (),
        suite or (),
        limit,
        json_out,
        batch_size,
        _device(device),
        source,
        copied_strings,
        backend,
        weights,
    )
    if not is_main_process():
        return
    for name, result in results.items():
        table = Table("metric", "value", "95% interval", title=name, title_justify="left", title_style="bold")
        table.columns[1].justify = "right"
        for metric, value in result.metrics.items():
            interval = result.intervals.get(metric)
            table.add_row(metric, f"{value:.4g}", "{:.3f} to {:.3f}".format(*interval) if interval else "")
        out.print(table)
    missed = []
    for name, metric, sign, bar in wanted:
        if name not in results or metric not in results[name].metrics:
            raise ValueError(f"--require {name}.{metric}: there is no such metric; see the tables above")
        value = results[name].metrics[metric]
        if not (value >= bar if sign == ">=" else value <= bar):
            missed.append(f"{name}.{metric} is {value:.4g}, required {sign} {bar:g}")
    for line in missed:
        err.print(f"[bold red]missed:[/] {line}", highlight=False)
    if missed:
        raise typer.Exit(AIM_MISSED)


def _requirement(text: str) -> tuple[str, str, str, float]:
    match = _REQUIREMENT.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"--require {text}: expected SUITE.METRIC>=VALUE, for example vqa.accuracy>=0.85")
    return match[1], match[2], match[3], float(match[4])


def _device(name: str) -> str:
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {name}: {str(error).splitlines()[0]}") from None
    return name


def _engine(model: Path | None, device: str, backend: str, weights: str | None) -> Engine:
    from multimodal_ai.inference import Engine

    return Engine.from_pretrained(model_folder(model), _device(device), backend=backend, weights=weights)


# -- using a model --------------------------------------------------------------------------------------


@app.command()
def ask(
    request: Annotated[str, typer.Argument(help="What you want, in words.")],
    model: ModelOption = None,
    image: Annotated[
        list[str] | None, typer.Option("--image", "-i", help="An image file, or - for stdin. Repeatable.")
    ] = None,
    functions: Annotated[
        Path | None,
        typer.Option("--functions", "-f", help="Python file whose functions the model may call. It is run."),
    ] = None,
    mcp: McpOption = None,
    approve: Annotated[
        bool, typer.Option("--approve", help="Run calls with side effects, unless a value stems from a function.")
    ] = False,
    deny: Annotated[
        bool, typer.Option("--deny", help="Run nothing with side effects. Default without a terminal.")
    ] = False,
    ask_me: Annotated[bool, typer.Option("--ask", help="Ask before each. Default at a terminal.")] = False,
    system: Annotated[str | None, typer.Option(help="System message.")] = None,
    response_format: Annotated[
        str | None,
        typer.Option(
            "--format", metavar="json_object|FILE", help="JSON as the answer, or what fits a JSON Schema file."
        ),
    ] = None,
    require_call: Annotated[bool, typer.Option("--require-call", help="Exit with 3 where nothing was called.")] = False,
    max_steps: Annotated[int, typer.Option(min=1, help="Turns of the model at most.")] = 8,
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens of a turn at most.")] = 256,
    copied_strings: CopiedOption = False,
    today: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help='The day "tomorrow" is counted from. Default: today.')
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object at the end.")] = False,
    trace: Annotated[Path | None, typer.Option(help="Write every step, with where each value came from, here.")] = None,
    device: DeviceOption = "cpu",
    backend: BackendOption = "auto",
    weights: WeightsOption = None,
) -> None:
    """Ask once: the model answers, or calls your functions and then answers.

    Exit codes: 0 answered; 3 no call although --require-call; 4 a call was denied; 5 a function failed, a limit
    was reached, or the answer does not fit --format.

    [bold]Example[/]: multimodal-ai ask "Log this reading" -m runs/quickstart -i meter.png -f functions.py --approve
    """
    from multimodal_ai import terminal

    chosen = _approval(approve, deny, ask_me)
    wanted = terminal.read_response_format(response_format)
    if (image or []).count("-") > 1:
        raise ValueError("--image -: stdin can give one image only")
    images = [_piped_image() if name == "-" else terminal.image_file(name) for name in image or ()]
    engine = _engine(model, device, backend, weights)
    engine.strings = "copied" if copied_strings else "free"
    outcome = terminal.ask(
        engine,
        request,
        images=images,
        functions=functions,
        mcp=mcp or (),
        approval=chosen,
        system=system,
        max_steps=max_steps,
        max_tokens=max_tokens,
        response_format=wanted,
        trace=trace,
        today=today.date() if today else None,
        console=err,
        out=None if as_json else out,
    )
    if as_json:
        sys.stdout.write(json.dumps(outcome.to_json(), ensure_ascii=False) + "\n")
    raise typer.Exit(outcome.exit_code(require_call))


def _piped_image() -> bytes:
    piped = sys.stdin.buffer.read()
    if not piped:
        raise ValueError("--image -: nothing came in on stdin; pipe an image file into it")
    return piped


def _approval(approve: bool, deny: bool, ask_me: bool) -> str:
    given = [name for name, flag in (("approve", approve), ("deny", deny), ("ask", ask_me)) if flag]
    if len(given) > 1:
        raise ValueError(f"--{' and --'.join(given)} exclude each other; give one")
    return given[0] if given else "ask" if sys.stdin.isatty() else "deny"


@app.command()
def chat(
    model: ModelOption = None,
    functions: Annotated[
        Path | None,
        typer.Option("--functions", "-f", help="Python file whose functions the model may call. It is run."),
    ] = None,
    mcp: McpOption = None,
    system: Annotated[str | None, typer.Option(help="System message.")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens of a turn at most.")] = 256,
    temperature: Annotated[float, typer.Option(min=0, help="0 always takes the likeliest token.")] = 0.0,
    device: DeviceOption = "cpu",
    backend: BackendOption = "auto",
    weights: WeightsOption = None,
) -> None:
    """Chat in the terminal. Inside: /image FILE, /functions, /reset, /help, /quit.

    [bold]Example[/]: multimodal-ai chat -m runs/quickstart -f examples/functions.py
    """
    from multimodal_ai import terminal

    terminal.chat(
        _engine(model, device, backend, weights),
        functions=functions,
        mcp=mcp or (),
        system=system,
        max_tokens=max_tokens,
        temperature=temperature,
    )


@app.command()
def serve(
    model: ModelOption = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all, and then with --api-keys.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on.")] = 8000,
    name: Annotated[
        str | None, typer.Option(help="What clients give as `model`. Default: the folder's name, or default.")
    ] = None,
    api_keys: Annotated[
        Path | None, typer.Option("--api-keys", help="File with a line `name key` for each key; without: no keys.")
    ] = None,
    functions: Annotated[
        Path | None,
        typer.Option("--functions", "-f", help="Python file whose functions x_execute may run here. It is run."),
    ] = None,
    mcp: McpOption = None,
    ray: Annotated[
        bool,
        typer.Option("--ray", help="Replicas over Ray Serve, on one machine or many; --set ray.max_replicas=4, …."),
    ] = False,
    overrides: SetOption = None,
    device: DeviceOption = "auto",
    backend: BackendOption = "auto",
    weights: WeightsOption = None,
) -> None:
    """Serve the OpenAI API: chat with images, functions and streams. SIGTERM drains; docs/serving.md has the limits.

    [bold]Example[/]: multimodal-ai serve -m runs/quickstart --set max_running=32
    """
    try:
        from multimodal_ai.serving import ServerConfig
        from multimodal_ai.serving import serve as run
        from multimodal_ai.serving.config import read_keys
    except ModuleNotFoundError as error:
        raise ValueError(f"{error.name} is not installed; run: pip install 'multimodal-ai[serve]'") from None
    import contextlib
    from functools import partial

    from multimodal_ai.utils.config import parse_config

    keys = read_keys(api_keys) if api_keys else {}
    given = {"model_name": name or model_name(model), "key_hashes": keys}
    config = parse_config(ServerConfig, given, overrides or ())
    build = partial(
        _application,
        config,
        model_folder(model).resolve(),
        device,
        backend,
        weights,
        functions and functions.resolve(),
        tuple(mcp or ()),
    )
    if ray:
        from multimodal_ai.serving.replicas import serve_replicas

        serve_replicas(build, config, host, port)
        return
    if config.ray != ServerConfig().ray:
        raise ValueError("ray.… is set, but --ray is not given; add it, or drop the setting")
    with contextlib.ExitStack() as stack:
        run(build(stack), host, port)


def _application(
    config: ServerConfig,
    model: Path,
    device: str,
    backend: str,
    weights: str | None,
    functions: Path | None,
    mcp: tuple[str, ...],
    stack: contextlib.ExitStack,
) -> FastAPI:
    """The application of a server or of a replica; what it opens is closed with `stack`."""
    from multimodal_ai import terminal
    from multimodal_ai.cli_common import err
    from multimodal_ai.serving import create_app

    registry = terminal.open_functions(functions, mcp, stack, err)
    return create_app(_engine(model, device, backend, weights), config, registry)


def _terminated(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def main() -> None:
    """The entry point of `multimodal-ai`."""
    signal.signal(signal.SIGTERM, _terminated)
    app()


if __name__ == "__main__":
    main()
