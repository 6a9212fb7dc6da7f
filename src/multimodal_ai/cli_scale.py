"""Commands for training beyond one process: what it will take, and what a checkpoint becomes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated

import typer

from multimodal_ai.cli_common import SetOption, command_group, err, out

checkpoint_app = command_group("Use checkpoints.")

_UNITS = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
_SIZE = re.compile(r"([\d.]+(?:e\d+)?)\s*([KMGT]?i?)B?(?:/s)?", re.IGNORECASE)


def _bytes(option: str, text: str) -> float:
    """80GiB, 250GB/s, 1e9 -> number."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{option} {text}: expected a number of bytes such as 80GiB, 250GB or 1e9")
    return float(match[1]) * _UNITS[match[2].upper()]


def plan(
    config: Annotated[
        Path, typer.Option("--config", "-c", help="YAML of a stage, or of a model alone (configs/models/xl.yaml).")
    ],
    gpus: Annotated[int, typer.Option(min=1, help="GPUs in all.")] = 8,
    memory: Annotated[str, typer.Option(help="Memory of one GPU.")] = "80GiB",
    per_node: Annotated[int, typer.Option(min=1, help="GPUs of one machine.")] = 8,
    overrides: SetOption = None,
    sample: Annotated[
        str | None,
        typer.Option(
            metavar="KEY=TOKENS,…",
            help="Sizes of a sample: patches, source, cards, target, values (target tokens in arguments), functions. "
            "Default: the limits of the stage's data.",
        ),
    ] = None,
    micro: Annotated[int | None, typer.Option(min=1, help="Samples of a micro-batch. Default: the config's.")] = None,
    global_size: Annotated[int | None, typer.Option("--global", min=1, help="Samples of a step.")] = None,
    tokens: Annotated[float | None, typer.Option(help="Tokens to train on. Default: the steps of the config.")] = None,
    rate: Annotated[
        str, typer.Option(help="FLOP/s that one GPU reaches in training, or the folder of a run that measured it.")
    ] = "125e12",
    bandwidth: Annotated[str, typer.Option(help="Bytes a second between GPUs of a machine, each.")] = "230GB/s",
    node_bandwidth: Annotated[str, typer.Option(help="Bytes a second between machines, for each GPU.")] = "25GB/s",
    price: Annotated[float | None, typer.Option(min=0, help="Price of one GPU for an hour.")] = None,
    reserve: Annotated[str, typer.Option(help="What is not for tensors: CUDA context, NCCL, gaps.")] = "4GiB",
    device: Annotated[str, typer.Option(help="cuda; or cpu, to plan processes on this machine.")] = "cuda",
    json_out: Annotated[Path | None, typer.Option("--json", help="Write everything here.")] = None,
) -> None:
    """Say what a training will need: memory per GPU, the largest micro-batch, time, money. Needs no GPU.

    Activations are measured here with a shortened model, which takes about half a minute.

    [bold]Example[/]: multimodal-ai plan -c configs/models/xl.yaml --gpus 8 --memory 80GiB --tokens 20e9 --price 2
    """
    from multimodal_ai.training.plan import Machine, make_plan
    from multimodal_ai.training.plan_inputs import measured_rate, read_training
    from multimodal_ai.training.plan_table import show_plan

    if device not in ("cuda", "cpu"):
        raise ValueError(f"--device {device}: cuda or cpu")
    training = read_training(config, overrides or (), sample, micro, global_size, device)
    machine = Machine(
        gpus,
        min(per_node, gpus),
        _bytes("--memory", memory),
        reserve=_bytes("--reserve", reserve),
        rate=measured_rate(rate),
        bandwidth=_bytes("--bandwidth", bandwidth),
        node_bandwidth=_bytes("--node-bandwidth", node_bandwidth),
        price=price,
        kind="cuda" if device == "cuda" else "cpu",
    )
    with err.status("Measuring activations"):
        made = make_plan(training, machine, tokens)
    show_plan(made, out, str(config))
    if json_out is not None:
        json_out.write_text(json.dumps(made.to_json(), indent=1) + "\n", encoding="utf-8")


@checkpoint_app.command("convert")
def checkpoint_convert(
    path: Annotated[Path, typer.Argument(help="output_dir of a run (its newest checkpoint), or one checkpoint.")],
    folder: Annotated[Path, typer.Option("--out", "-o", help="Folder for the model.")],
) -> None:
    """Make a model folder (safetensors, config, tokenizer) of a checkpoint, sharded or not. Verifies it first.

    [bold]Example[/]: multimodal-ai checkpoint convert runs/quickstart/alignment --out runs/model
    """
    from multimodal_ai.training.convert import convert_checkpoint

    step = convert_checkpoint(path, folder)
    out.print(f"{folder}: the model after {step:,} steps", highlight=False, soft_wrap=True)
