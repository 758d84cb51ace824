"""The figure of a search's candidates, by cost and score."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from search.output.numbers import format_count
from search.report.figures.base import Drawing, Figure, Tips
from search.report.figures.search_axes import draw_candidates, label_score_axis
from search.report.figures.style import BASELINE_MARKS, BLUE, PAPER, RED, end_at_whole, new_figure, outside_legend
from search.report.judging import source
from search.report.view import SearchView, network_words, search_views


class Front(Figure):
    """Every candidate of a search by its cost and score, the front, the chosen one and the baselines."""

    name = "front"
    title = "The search"
    section = "search"

    def applies(self, report: Mapping[str, Any]) -> bool:
        """Return whether a search measured two candidates in full."""
        return any(len(view.points) > 1 for view in search_views(report))

    def draw(self, report: Mapping[str, Any]) -> Iterator[Drawing]:
        """Yield a drawing per search; that of the last one has no suffix."""
        views = search_views(report)
        for view in views:
            if len(view.points) > 1:
                yield front_figure(view, report, "" if view is views[-1] else f"_{view.stage}")


def front_figure(view: SearchView, report: Mapping[str, Any], suffix: str = "") -> Drawing:
    """Draw every candidate by its cost and score, the front, the chosen one and the baselines."""
    figure = new_figure()
    axes = figure.add_subplot()
    tips: Tips = {}
    # Times of a table, or of another hour, are no share of the reference's at the end of the run.
    origin = source(report, view.cost)
    reference = None if origin else (report.get("reference") or {}).get(view.cost)
    if reference:
        divisor, label = reference / 100, f"{view.cost_metric.label} [% of the reference's {format_count(reference)}]"
    else:
        divisor, prefix = _scaled([point.cost for point in view.points])
        unit = f"{prefix}{view.cost_metric.style.unit}".strip()
        label = f"{view.cost_metric.label}{f' [{unit}]' if unit else ''}{f', {origin}' if origin else ''}"
    axes.set_xlabel(label)
    scale = label_score_axis(axes, view.score_metric)
    if view.score_metric.direction == "maximize":
        axes.set_ylabel(f"{axes.get_ylabel()}\nsearch split")
    draw_candidates(axes, view, lambda point: (point.cost / divisor, point.score * scale), tips)
    if len(view.front) > 1:
        xs, ys = [p.cost / divisor for p in view.front], [p.score * scale for p in view.front]
        axes.plot(xs, ys, color=BLUE, marker="o", markersize=5, linewidth=1.6, label=f"Pareto front ({len(view.front)})")
    chosen = view.chosen_point
    if chosen is not None:
        place = ([chosen.cost / divisor], [chosen.score * scale])
        axes.scatter(*place, marker="*", s=230, color=RED, edgecolors=PAPER, zorder=5, label=f"chosen, trial {chosen.number}")
    for name, (mark, color) in BASELINE_MARKS.items():
        before = ((report.get("baselines") or {}).get(name) or {}).get("before_retraining") or {}
        if before.get(view.cost) is not None and before.get(view.score) is not None:
            place = ([before[view.cost] / divisor], [before[view.score] * scale])
            axes.scatter(*place, marker=mark, s=60, color=color, edgecolors=PAPER, zorder=4, label=network_words(name, report))
    if view.limit is not None:
        axes.axvline(view.limit / divisor, color=RED, linestyle=(0, (4, 3)), linewidth=1.2)
        spot: dict[str, Any] = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
        axes.annotate("target", (view.limit / divisor, 0.02), xytext=(4, 0), color=RED, fontsize=9, **spot)
    title = f"{len(view.points)} candidates measured in full"
    if chosen is not None:
        value = f"{chosen.score * scale:.1f} %" if scale == 100 else f"{chosen.score:.4g}"
        cost = (
            f"{chosen.cost / divisor:.1f} % of the {view.cost_metric.label}"
            if reference
            else view.cost_metric.text(chosen.cost)
        )
        title = f"Chosen: {view.score_metric.label} {value} at {cost}, before retraining"
    axes.set_title(title)
    if reference:
        end_at_whole(axes, "x")
    if view.score_metric.percent:
        end_at_whole(axes, "y")
    outside_legend(axes)
    return Drawing(figure, suffix, view.stage, tips)


def _scaled(values: Sequence[float]) -> tuple[float, str]:
    """Return the divisor and the unit prefix that make ``values`` short to read."""
    largest = max((abs(value) for value in values), default=1.0)
    return next(((d, p) for d, p in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")) if largest >= d), (1.0, ""))
