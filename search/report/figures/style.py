"""Style of all figures of a report: colors, fonts and frame."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Palette of Okabe and Ito, told apart by people who confuse red and green. The page replaces each color by a variable.
INK, MUTED, GRID, PAPER = "#1c2126", "#5f6b76", "#dfe3e8", "#fefefd"
BLUE, ORANGE, GREEN, RED, PURPLE, SKY = "#0072b2", "#e69f01", "#009e74", "#d55e01", "#cc79a8", "#56b4ea"
CSS_VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--grid",
    PAPER: "--card",
    BLUE: "--blue",
    ORANGE: "--orange",
    GREEN: "--green",
    RED: "--red",
    PURPLE: "--purple",
    SKY: "--sky",
}
STYLE: Any = {
    "font.size": 10,
    "text.parse_math": False,
    "font.family": "sans-serif",
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.titlesize": 11,
    "axes.titlepad": 12,
    "axes.facecolor": PAPER,
    "figure.facecolor": PAPER,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "svg.fonttype": "none",
}
BASELINE_MARKS = {
    "uniform": ("s", ORANGE),
    "global_magnitude": ("D", PURPLE),
    "integer_program": ("v", PURPLE),
    "random": ("^", GREEN),
    "dense_same_training": ("P", SKY),
}


def new_figure(width: float = 9.0, height: float = 4.2) -> Figure:
    """Return an empty figure of a size in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def outside_legend(axes: Axes) -> None:
    """Put the legend beside the axes."""
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0.0)
