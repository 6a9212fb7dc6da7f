"""Plots of a report as inline SVG that follows the page's light or dark colours.

Figures are drawn in stand-in colours which are then replaced by CSS variables, and their text stays text, so
that a plot takes the page's font, can be searched and read aloud. Every drawing comes with a description.
"""

from __future__ import annotations

import html
import io
import itertools
import re
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from multimodal_ai.evaluation.metrics import reliability

Series = Mapping[str, Sequence[tuple[float, float]]]  # name to points (x, y)

INK, GRID = "#010101", "#020202"
COLOURS = tuple(f"#03030{number}" for number in range(1, 9))
_VARIABLES = {INK: "var(--ink-soft)", GRID: "var(--line)"} | {
    colour: f"var(--series-{number})" for number, colour in enumerate(COLOURS, 1)
}
_STYLE = {
    "svg.fonttype": "none",
    "font.size": 8.5,
    "font.family": "sans-serif",
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.edgecolor": GRID,
    "grid.color": GRID,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "lines.linewidth": 1.5,
    "legend.frameon": False,
}
_numbers = itertools.count(1)


def lines(series: Series, y_label: str, description: str, log: bool = False) -> str:
    """Curves over training steps; thin ones as measured where few, smoothed where many points."""
    with matplotlib.rc_context(_STYLE):  # type: ignore[arg-type]
        figure, axes = _figure()
        drawn = [(name, points) for name, points in series.items() if len(points) > 0]
        for (name, points), colour in zip(drawn, itertools.cycle(COLOURS), strict=False):
            x, y = np.asarray(points, dtype=np.float64)[:: len(points) // 400 + 1].T
            smooth = _smooth(y)
            if smooth is not y:
                axes.plot(x, y, color=colour, linewidth=0.6, alpha=0.3)
            axes.plot(x, smooth, color=colour, label=name, marker="o" if len(x) == 1 else None, markersize=3)
        if log and all(y > 0 for _, points in drawn for _, y in points):
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
        axes.set_xlabel("step")
        axes.set_ylabel(y_label)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        if len(drawn) > 1:
            figure.legend(loc="outside upper left", ncols=min(len(drawn), 3), handlelength=1.2, columnspacing=1.2)
        return _svg(figure, description)


def reliability_diagram(judgements: Sequence[tuple[float, bool]], description: str, bins: int = 15) -> str:
    """Share that was right against confidence; the nearer to the diagonal, the more it can be trusted."""
    found = reliability([value for value, _ in judgements], [right for _, right in judgements], bins)
    with matplotlib.rc_context(_STYLE):  # type: ignore[arg-type]
        figure, axes = _figure()
        axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
        sizes = np.array([each.count for each in found], dtype=np.float64)
        axes.scatter(
            [each.confidence for each in found],
            [each.accuracy for each in found],
            s=12 + 90 * sizes / max(sizes.max(initial=0.0), 1.0),
            color=COLOURS[0],
            alpha=0.85,
            linewidths=0,
        )
        axes.set_xlim(-0.04, 1.04)
        axes.set_ylim(-0.04, 1.04)
        axes.set_xlabel("confidence (larger dots: more cases)")
        axes.set_ylabel("share right")
        return _svg(figure, description)


def histogram(groups: Mapping[str, Sequence[float]], x_label: str, description: str, bins: int = 20) -> str:
    """How values in [0, 1] are spread, one outline for each group, each as shares of its own group."""
    with matplotlib.rc_context(_STYLE):  # type: ignore[arg-type]
        figure, axes = _figure()
        edges = np.linspace(0, 1, bins + 1)
        shown = [(name, values) for name, values in groups.items() if len(values)]
        for (name, values), colour in zip(shown, COLOURS, strict=False):
            shares = np.histogram(np.clip(values, 0, 1), edges)[0] / len(values)
            axes.stairs(shares, edges, fill=True, color=colour, alpha=0.3)
            axes.stairs(shares, edges, color=colour, label=f"{name} ({len(values):,})")
        axes.set_xlim(0, 1)
        axes.set_ylim(bottom=0)
        axes.set_xlabel(x_label)
        axes.set_ylabel("share of the group")
        if shown:
            figure.legend(loc="outside upper left", ncols=2, handlelength=1.2)
        return _svg(figure, description)


def _figure() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(3.4, 2.3), layout="constrained")
    FigureCanvasSVG(figure)
    return figure, figure.add_subplot()


def _smooth(values: np.ndarray) -> np.ndarray:
    """A centred mean over a fortieth of the curve, where it has enough points to be noise to the eye."""
    if len(values) < 80:
        return values
    half = max(len(values) // 80, 1)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    position = np.arange(len(values))
    start, end = np.maximum(position - half, 0), np.minimum(position + half + 1, len(values))
    return (sums[end] - sums[start]) / (end - start)


def _svg(figure: Figure, description: str) -> str:
    """The figure as an `<svg>` element with ids of its own and CSS variables for colours."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    text = re.sub(r"font-family:[^;\"]*;?|<style.*?</style>", "", text, flags=re.DOTALL)
    prefix = f"plot{next(_numbers)}-"
    text = re.sub(r'\bid="', f'id="{prefix}', text)
    text = re.sub(r'(href="#|url\(#)', rf"\g<1>{prefix}", text)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    label = html.escape(description, quote=True)
    return text.replace("<svg", f'<svg class="plot" role="img" aria-label="{label}"', 1)
