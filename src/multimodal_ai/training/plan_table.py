"""A plan as a table for the terminal. Decides nothing; every number is the plan's."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from multimodal_ai.training.plan import Estimate, Plan

GB = 1e9


def show_plan(plan: Plan, console: Console, title: str) -> None:
    """One row a strategy, below it what the numbers rest on."""
    machine, training = plan.machine, plan.training
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("strategy")
    for head in ("weights", "gradients", "optimizer", "activations", "peak, GB"):
        table.add_column(head, justify="right")
    for head in ("fits", "largest micro", "micro × steps", "s a step", "tokens/s", "hours", "cost"):
        table.add_column(head, justify="right")
    for one in plan.estimates:
        table.add_row(*_row(one), end_section=one.checkpointing)
    console.print(table)
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
    for line in lines:
        console.print(line, highlight=False, style="dim", soft_wrap=True)


def _row(one: Estimate) -> list[str]:
    memory = [f"{value / GB:.2f}" for value in (one.weights, one.gradients, one.optimizer, one.activations)]
    name = f"{one.strategy}{', checkpointing' if one.checkpointing else ''}"
    if not one.largest_micro:
        return [name, *memory, f"{one.peak / GB:.2f}", "[red]no[/]", "none", *["–"] * 5]
    return [
        name,
        *memory,
        f"{one.peak / GB:.2f}",
        "[green]yes[/]" if one.fits else "[red]no[/]",
        f"{one.largest_micro:,}",
        f"{one.micro_size} × {one.accumulation}",
        f"{one.step_s:.3g}",
        f"{one.tokens_per_s:,.0f}",
        "–" if one.hours is None else f"{one.hours:,.1f}",
        "–" if one.cost is None else f"{one.cost:,.0f}",
    ]
