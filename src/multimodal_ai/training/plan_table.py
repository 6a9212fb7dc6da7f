"""A plan as a table for the terminal. Decides nothing; every number is the plan's."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from multimodal_ai.training.plan import Estimate, Plan

GB = 1e9


def show_plan(plan: Plan, console: Console, title: str) -> None:
    """A table of memory and one of time, one row a strategy, and below them what the numbers rest on."""
    machine, training = plan.machine, plan.training
    memory = _table(
        title, "weights", "gradients", "optimizer", "activations", "copy", "peak, GB", "fits", "largest micro"
    )
    time = _table(None, "micro × steps", "s a step", "tokens/s", "hours", "cost")
    for one in plan.estimates:
        name = f"{one.strategy}{', checkpointing' if one.checkpointing else ''}"
        memory.add_row(name, *_memory(one), end_section=one.checkpointing)
        if one.largest_micro:
            time.add_row(name, *_time(one), end_section=one.checkpointing)
    console.print(memory)
    if time.row_count:
        console.print(time)
    sample = training.sample
    device = "GPU" if machine.kind == "cuda" else "process"
    lines = [
        f"{plan.parameters:,} parameters, {plan.trained:,} trained, {'BF16' if training.bf16 else 'FP32'}; "
        f"a sample: {sample.patches} patches, {sample.source} source, {sample.cards} card and {sample.target} target "
        f"tokens, {plan.flops_per_sample / 1e12:.3g} TFLOP forward and backward",
        f"{machine.gpus} {device}s of {machine.memory / GB:.1f} GB, of which {machine.reserve / GB:.1f} GB are not for "
        f"tensors; {machine.rate / 1e12:.3g} TFLOP/s each, {machine.bandwidth / GB:.3g} GB/s between them"
        + (f", {machine.node_bandwidth / GB:.3g} GB/s between machines" if machine.gpus > machine.per_node else ""),
        f"memory is for micro-batches of {training.micro_size}; steps of {training.global_size} samples"
        + (f"; {plan.steps:,} steps" if plan.steps is not None else "; give --tokens for hours and cost"),
    ]
    if training.asynchronous:
        lines.append(
            "copy: what a checkpoint is written from, in main memory"
            + (" (checkpoint.asynchronous=false keeps none)" if machine.kind == "cpu" else ", so no part of the peak")
        )
    for line in lines:
        console.print(line, highlight=False, style="dim", soft_wrap=True)


def _table(title: str | None, *heads: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", padding=(0, 0, 0, 1))
    table.add_column("strategy")
    for head in heads:
        table.add_column(head, justify="right")
    return table


def _memory(one: Estimate) -> list[str]:
    parts = (one.weights, one.gradients, one.optimizer, one.activations, one.snapshot, one.peak)
    fits = "[green]yes[/]" if one.fits else "[red]no[/]"
    return [*(f"{value / GB:.2f}" for value in parts), fits, f"{one.largest_micro:,}" if one.largest_micro else "none"]


def _time(one: Estimate) -> list[str]:
    return [
        f"{one.micro_size} × {one.accumulation}",
        f"{one.step_s:.3g}",
        f"{one.tokens_per_s:,.0f}",
        "–" if one.hours is None else f"{one.hours:,.1f}",
        "–" if one.cost is None else f"{one.cost:,.0f}",
    ]
