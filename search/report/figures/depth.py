"""The figure of branches and blocks, those that stay and those that are gone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from search.report.figures.base import Drawing, Figure
from search.report.figures.layer_axis import label_layers, wide_figure
from search.report.figures.style import BLUE, GRID, end_at_whole, outside_legend

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas


class Depth(Figure):
    """The branches or blocks that could leave, with their shares of the computation, and those that are gone."""

    name = "depth"
    title = "Branches and blocks"
    section = "kept"

    def applies(self, report: Mapping[str, Any]) -> bool:
        """Return whether branches or blocks were open to a search."""
        return bool(report.get("depth"))

    def draw(self, report: Mapping[str, Any]) -> Iterator[Drawing]:
        """Yield the one drawing."""
        yield Drawing(units_in_order(report["depth"]))


def units_in_order(units: Sequence[Mapping[str, Any]]) -> Canvas:
    """Draw the share of the multiply-accumulates of every unit, in two colors: it stays, or it is gone."""
    figure = wide_figure(len(units))
    axes = figure.add_subplot()
    for kept, color, label in ((True, BLUE, "stays"), (False, GRID, "gone")):
        chosen = [(place, 100 * unit["macs_share"]) for place, unit in enumerate(units) if unit["kept"] is kept]
        if chosen:
            places, shares = zip(*chosen, strict=True)
            axes.bar(places, shares, color=color, width=0.8, label=label)
    label_layers(axes, [str(unit["name"]) for unit in units])
    axes.set_ylabel("share of the MACs, %")
    gone = [unit for unit in units if not unit["kept"]]
    share = sum(unit["macs_share"] for unit in gone)
    axes.set_title(f"{len(gone)} of {len(units)} branches or blocks are gone, with {100 * share:.0f} % of the MACs")
    end_at_whole(axes, "y")
    outside_legend(axes)
    return figure
