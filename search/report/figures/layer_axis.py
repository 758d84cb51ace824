"""The axis of layers, shared by the figures that have one bar per layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from search.report.figures.style import WIDTH, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

_MOST_NAMES = 80


def wide_figure(layers: int, height: float = 4.4) -> Canvas:
    """Return an empty figure, in inches, as wide as a bar for each of ``layers`` needs."""
    return new_figure(width=max(WIDTH, min(24.0, 0.3 * layers)), height=height)


def label_layers(axes: Axes, names: Sequence[str]) -> None:
    """Write the names of layers below the bars at 0, 1, ...: of many layers, a selection."""
    every = math.ceil(len(names) / _MOST_NAMES)
    shown = [_shortened(name) for name in names]
    places = list(range(len(names)))
    axes.set_xticks(places[::every], shown[::every], rotation=60, ha="right", rotation_mode="anchor", fontsize=8)
    axes.grid(visible=False, axis="x")
    axes.margins(x=0.01)


def _shortened(name: str) -> str:
    return name if len(name) <= 26 else f"{name[:10]}…{name[-15:]}"
