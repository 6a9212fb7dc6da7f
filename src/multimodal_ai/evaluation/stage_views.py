"""What a report shows of the training of a stage: curves, speed, state, configuration. Plain data for the template."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from multimodal_ai.evaluation import plots
from multimodal_ai.evaluation.report_views import format_share
from multimodal_ai.evaluation.stage_metrics import Stage


def stage_view(stage: Stage) -> dict[str, Any]:
    """A stage for the template; plots are SVG already."""
    name = stage.title
    curves = {key.removeprefix("loss/"): stage.series(key) for key in stage.keys("loss/")}
    curves = curves or {"loss": stage.series("loss")}
    return {
        "name": name,
        "steps": stage.rows[-1]["step"],
        "seconds": stage.seconds,
        "losses": [(term, stage.last(f"loss/{term}")) for term in curves if term != "loss"],
        "loss": stage.last("loss"),
        "tokens": stage.mean("tokens_per_s"),
        "images": stage.mean("images_per_s"),
        "waiting": format_share(stage.mean("data_wait")),
        "held_out": [
            (key.removeprefix("eval/"), stage.series(key)[-1][1]) for key in stage.keys("eval/") if stage.series(key)
        ],
        "loss_plot": Markup(plots.lines(curves, "loss", f"Loss of each term over the steps of {name}")),
        "more_plots": _more_plots(stage),
        "state": stage.state,
        "message": "" if stage.record is None else stage.record.message,
        "resume": "" if stage.record is None else stage.record.resume,
        "config": stage.config,
    }


def _more_plots(stage: Stage) -> list[dict[str, Any]]:
    """Everything else that has a course: losses by source and on held-out data, rates, norms, speed, memory."""
    found: list[dict[str, Any]] = []

    def add(title: str, series: plots.Series, unit: str, log: bool = False) -> None:
        drawn = {name: points for name, points in series.items() if len(points) > 1}
        if drawn:
            svg = plots.lines(drawn, unit, f"{title} over the steps of {stage.title}", log)
            found.append({"title": title, "svg": Markup(svg)})

    sources = [key.removeprefix("source/").rsplit("/", 1) for key in stage.keys("source/")]
    for term in dict.fromkeys(term for _, term in sources):
        names = [source for source, other in sources if other == term]
        if len(names) > 1:  # of a single source it is the curve above
            add(f"{term} by data source", {name: stage.series(f"source/{name}/{term}") for name in names}, "loss")
    held_out = [key.removeprefix("eval/").rsplit("/", 1) for key in stage.keys("eval/") if key.count("/") > 1]
    for source in dict.fromkeys(source for source, _ in held_out):
        terms = [term for other, term in held_out if other == source and term != "examples_exact"]
        of_one = f": {terms[0]}" if len(terms) == 1 else ""
        add(f"{source}, held out{of_one}", {term: stage.series(f"eval/{source}/{term}") for term in terms}, "loss")
    for title, prefix, unit in (
        ("Learning rate of each part", "lr/", "learning rate"),
        ("Gradient norm of each part", "grad_norm/", "norm"),
    ):
        series = {key.removeprefix(prefix): stage.series(key) for key in stage.keys(prefix)}
        add(title, series, unit, log=prefix == "grad_norm/")
    add("Useful tokens per second", {"tokens": stage.series("tokens_per_s")}, "tokens / s")
    shares = {"of peak FLOP/s (MFU)": stage.series("mfu"), "waiting for data": stage.series("data_wait")}
    add("Use of the hardware", shares, "share")
    add("Peak memory", {"memory": stage.series("memory_gb")}, "GB")
    return found
