"""The figure of probabilistic pruning: how the participation probabilities of every layer spread over the training."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from search.report.figures.base import Drawing, Figure
from search.report.figures.style import BLUE, INK, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

_MOST_LAYERS = 16
_COLUMNS = 4


class Participation(Figure):
    """The spread of the participation probabilities of every layer over a training that prunes by probabilities."""

    name = "participation"
    title = "Participation over time"
    section = "kept"

    def applies(self, report: Mapping[str, Any]) -> bool:
        """Return whether a stage pruned by probabilities."""
        return bool(report.get("participation"))

    def draw(self, report: Mapping[str, Any]) -> Iterator[Drawing]:
        """Yield a drawing per stage; that of the first one has no suffix."""
        for index, record in enumerate(report["participation"]):
            yield Drawing(participation_figure(record), str(index or ""), str(record.get("stage", "")))


def participation_figure(record: Mapping[str, Any]) -> Canvas:
    """Draw a panel per layer: the range of p, its middle half and its median, over the steps; of many layers a selection.

    Args:
        record: An entry of ``participation`` in report.json.
    """
    steps = np.asarray(record["steps"])
    values = np.asarray(record["values"])
    layers = list(record["layers"])
    shown = sorted(set(np.linspace(0, len(layers) - 1, min(_MOST_LAYERS, len(layers))).round().astype(int).tolist()))
    rows = math.ceil(len(shown) / _COLUMNS)
    figure = new_figure(height=1.2 + 1.6 * math.ceil(min(len(layers), _MOST_LAYERS) / _COLUMNS))
    panels = figure.subplots(rows, min(_COLUMNS, len(shown)), sharex=True, sharey=True, squeeze=False).ravel()
    for axes, place in zip(panels, shown, strict=False):
        lowest, low, median, high, highest = values[:, place].T
        axes.fill_between(steps, lowest, highest, color=BLUE, alpha=0.18, linewidth=0, step="post")
        axes.fill_between(steps, low, high, color=BLUE, alpha=0.4, linewidth=0, step="post")
        axes.plot(steps, median, color=BLUE, linewidth=1.4, drawstyle="steps-post")
        name = str(layers[place])
        axes.set_title(name if len(name) <= 26 else f"{name[:8]}…{name[-15:]}", fontsize=9, pad=4, fontweight="normal")
        axes.set_ylim(-0.03, 1.03)
    for axes in panels[len(shown) :]:
        axes.set_visible(False)
    for axes in panels[:: min(_COLUMNS, len(shown))]:
        axes.set_ylabel("p")
    for axes in panels[max(0, len(shown) - _COLUMNS) : len(shown)]:
        axes.set_xlabel("step")
        axes.tick_params(labelbottom=True)
    chosen = f", {len(shown)} of {len(layers)} layers" if len(shown) < len(layers) else ""
    title = f"Participation probabilities over the training{chosen}: median, middle half and range"
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold", color=INK)
    return figure
