"""The figure of task relevance kept, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from search.output.numbers import format_percent
from search.report.figures.base import Drawing, Figure
from search.report.figures.layer_axis import label_layers, wide_figure
from search.report.figures.style import BASELINE_MARKS, BLUE, GRID, MUTED, PAPER, SKY, end_at_whole, outside_legend
from search.report.view import network_words

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas


class Retention(Figure):
    """The share of the reference's task relevance that every layer keeps, in the result and in the baselines."""

    name = "retention"
    title = "Task-relevant features kept"
    section = "retention"

    def applies(self, report: Mapping[str, Any]) -> bool:
        """Return whether the relevance in the result's layers was measured."""
        return "result" in _with_layers(report)

    def draw(self, report: Mapping[str, Any]) -> Iterator[Drawing]:
        """Yield the one drawing."""
        yield Drawing(relevance_kept(_with_layers(report), report))


def _with_layers(report: Mapping[str, Any]) -> dict[str, Any]:
    return {role: found for role, found in (report.get("retention") or {}).items() if found.get("layers")}


def relevance_kept(retention: Mapping[str, Any], report: Mapping[str, Any]) -> Canvas:
    """Draw what every layer keeps of the reference's relevance: the result as bars, the baselines as marks."""
    layers = retention["result"]["layers"]
    figure = wide_figure(len(layers))
    axes = figure.add_subplot()
    places = {entry["name"]: place for place, entry in enumerate(layers)}
    chosen, retained = ([100 * entry[which] for entry in layers] for which in ("chosen", "retained"))
    axes.bar(list(places.values()), chosen, color=GRID, width=0.8, label="in the channels kept")
    axes.bar(list(places.values()), retained, color=BLUE, width=0.5, label="in the result")
    for role, found in retention.items():
        shown = [(places[entry["name"]], 100 * entry["retained"]) for entry in found["layers"] if entry["name"] in places]
        if role != "result" and shown:
            mark, color = BASELINE_MARKS.get(role, ("X", SKY))
            xs, ys = [place for place, _ in shown], [share for _, share in shown]
            axes.scatter(xs, ys, s=28, marker=mark, color=color, edgecolors=PAPER, zorder=4, label=network_words(role, report))
    label_layers(axes, list(places))
    axes.axhline(100, color=MUTED, linewidth=0.8)
    axes.set_ylabel("of the reference's relevance [%]")
    least = min(layers, key=lambda entry: float(entry["retained"]))
    share = format_percent(retention["result"]["retained"])
    axes.set_title(f"{share} of the task relevance retained; least in {least['name']} ({format_percent(least['retained'])})")
    end_at_whole(axes, "y")
    outside_legend(axes)
    return figure
