"""The figure of predicted sensitivities beside measured ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from search.report.figures.base import Drawing, Figure
from search.report.figures.style import new_figure, outside_legend
from search.report.view import words

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

MARKS = {"adam": ("s", "#e69f01"), "fisher": ("^", "#009e74"), "hutchinson": ("D", "#cc79a8"), "divergence": ("o", "#0072b2")}
"""Mark and color of every kind; the page replaces the colors with its own."""


class Sensitivity(Figure):
    """The predicted against the measured rise of the loss, per decision of a search over bits."""

    name = "sensitivity"
    title = "Sensitivity"
    section = "sensitivity"

    def applies(self, report: Mapping[str, Any]) -> bool:
        """Return whether a search compared sensitivities with measured losses."""
        return any(True for _ in _compared(report))

    def draw(self, report: Mapping[str, Any]) -> Iterator[Drawing]:
        """Yield a drawing per search that compared them."""
        for stage, found in _compared(report):
            yield Drawing(sensitivity_figure(found), f"_{stage}", stage)


def _compared(report: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for entry in report.get("searches") or []:
        if (entry.get("sensitivity") or {}).get("rows"):
            yield str(entry.get("stage", "search")), entry["sensitivity"]


def sensitivity_figure(found: Mapping[str, Any]) -> Canvas:
    """Draw, for every decision, the predicted against the measured rise of the loss, with its standard error.

    Args:
        found: What :meth:`search.stages.search.sensitivity_tables.SensitivityTables.comparison` returned.
    """
    figure = new_figure()
    axes = figure.add_subplot()
    rows = found["rows"]
    measured, errors = [row["measured"] for row in rows], [row["standard_error"] for row in rows]
    values = [abs(value) for row in rows for value in (row["measured"], *row["predicted"].values()) if value]
    linear = max(min(values, default=1e-6), 1e-3 * max(values, default=1.0))
    for kind, (mark, color) in MARKS.items():
        predicted = [row["predicted"].get(kind) for row in rows]
        if any(value is None for value in predicted):
            continue
        chosen = kind == found["kind"]
        value = next(
            (
                one["value"]
                for one in found["correlations"]
                if (one["first"], one["second"], one["over"]) == (kind, "measured", "all")
            ),
            None,
        )
        label = f"{words(kind)}: rank correlation {value:.2f}" if value is not None else words(kind)
        axes.errorbar(
            predicted,
            measured,
            yerr=errors,
            fmt=mark,
            color=color,
            markersize=6 if chosen else 4,
            alpha=1.0 if chosen else 0.6,
            elinewidth=0.8,
            label=f"{label} (read by the search)" if chosen else label,
        )
    ends = [linear, max(values, default=1.0)]
    axes.plot(ends, ends, color="#5f6b76", linewidth=1, linestyle=(0, (4, 3)), label="as predicted")
    axes.set_xscale("symlog", linthresh=linear)
    axes.set_yscale("symlog", linthresh=linear)
    axes.set_xlabel("predicted rise of the loss")
    axes.set_ylabel("measured rise of the loss")
    axes.set_title("One decision at its fewest bits, all others at their most")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
    outside_legend(axes)
    return figure
