"""The figure of channels per layer, before and after."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from search.output.numbers import format_percent
from search.report.figures.base import Drawing, Figure
from search.report.figures.layer_axis import label_layers, wide_figure
from search.report.figures.style import BLUE, GRID, MUTED, outside_legend

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas


class Layers(Figure):
    """The channels that every group had, and those that it has kept."""

    name = "layers"
    title = "Channels per layer"
    section = "kept"

    def applies(self, report: Mapping[str, Any]) -> bool:
        """Return whether channels were open to a stage."""
        return bool(report.get("layers"))

    def draw(self, report: Mapping[str, Any]) -> Iterator[Drawing]:
        """Yield the one drawing."""
        yield Drawing(channels_per_layer(report["layers"]))


def channels_per_layer(layers: Sequence[Mapping[str, Any]]) -> Canvas:
    """Draw how many channels every group had, and how many it has kept."""
    total, kept = [entry["channels"] for entry in layers], [entry["kept"] for entry in layers]
    figure = wide_figure(len(layers))
    axes = figure.add_subplot()
    places = range(len(layers))
    axes.bar(places, total, color=GRID, width=0.8, label="before")
    axes.bar(places, kept, color=BLUE, width=0.8, label="kept")
    if len(layers) <= 30:
        for place, before, after in zip(places, total, kept, strict=True):
            axes.annotate(
                f"{100 * after / before:.0f}%",
                (place, before),
                (0, 2),
                textcoords="offset points",
                ha="center",
                fontsize=8,
                color=MUTED,
            )
    label_layers(axes, [str(entry["name"]) for entry in layers])
    axes.set_ylabel("channels")
    ratios = [after / before for before, after in zip(total, kept, strict=True)]
    least = min(range(len(ratios)), key=ratios.__getitem__)
    share = format_percent(sum(kept) / sum(total))
    axes.set_title(
        f"{share} of {sum(total)} coupled channels kept; fewest in {layers[least]['name']} ({format_percent(ratios[least])})"
    )
    outside_legend(axes)
    return figure
