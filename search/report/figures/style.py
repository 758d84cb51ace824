"""Style of all figures of a report: colors, fonts and frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

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
WIDTH = 7.5
"""Width of a figure, in inches: so narrow that its letters can be read on a small screen."""
_LEGEND_COLUMNS = 96.0
"""Letters beside each other in a legend, the space of marks and gaps counted."""
_ROUNDING = 1e-9
"""Per cent by which a sum or a product of shares may lie beyond an end."""
BASELINE_MARKS = {
    "uniform": ("s", ORANGE),
    "global_magnitude": ("D", PURPLE),
    "integer_program": ("v", PURPLE),
    "random": ("^", GREEN),
    "dense_same_training": ("P", SKY),
}


def new_figure(width: float = WIDTH, height: float = 4.2) -> Figure:
    """Return an empty figure of a size in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def outside_legend(axes: Axes, more: Axes | None = None) -> None:
    """Put the legend below the axes, where it covers no curve and takes none of their width; of ``more`` axes, too."""
    from matplotlib.figure import Figure

    handles, labels = axes.get_legend_handles_labels()
    for handle, label in zip(*more.get_legend_handles_labels(), strict=True) if more is not None else ():
        if label not in labels:
            handles, labels = [*handles, handle], [*labels, label]
    figure = axes.figure
    if labels and isinstance(figure, Figure):
        columns = max(1, min(len(labels), int(_LEGEND_COLUMNS // (max(map(len, labels)) + 6))))
        figure.legend(handles, labels, loc="outside lower left", ncols=columns)


def end_at_whole(axes: Axes, side: Literal["x", "y"]) -> None:
    """End an axis in per cent at 0 and 100: no share lies beyond. Marks at the ends are drawn whole.

    An axis with values beyond stays as it is, such as that of a cost above the reference's.
    """
    lowest, highest = axes.dataLim.intervalx if side == "x" else axes.dataLim.intervaly
    if lowest < -_ROUNDING or highest > 100.0 + _ROUNDING:
        return
    if side == "x":
        axes.set_xlim(max(axes.get_xlim()[0], 0.0), min(axes.get_xlim()[1], 100.0))
    else:
        axes.set_ylim(max(axes.get_ylim()[0], 0.0), min(axes.get_ylim()[1], 100.0))
    for artist in (*axes.lines, *axes.collections):
        artist.set_clip_on(False)


def share_errors(shares: Sequence[float], errors: Sequence[float]) -> tuple[list[float], list[float]]:
    """Return the lengths of error bars below and above shares in per cent, which end at 0 and 100."""
    pairs = list(zip(shares, errors, strict=True))
    return [min(error, share) for share, error in pairs], [min(error, 100.0 - share) for share, error in pairs]


def whole_ticks(axes: Axes) -> None:
    """Put the ticks of the x axis at whole numbers: epochs, trials."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
