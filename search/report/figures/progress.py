"""The figure of a search's progress."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from search.report.figures.base import Drawing, Figure
from search.report.figures.search_axes import draw_candidates, label_score_axis
from search.report.figures.style import BLUE, new_figure, outside_legend, whole_ticks
from search.report.view import SearchView, search_views

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas


class Progress(Figure):
    """Every candidate of a search in the order of proposing, and the best so far."""

    name = "progress"
    title = "Progress"
    section = "search"

    def applies(self, report: Mapping[str, Any]) -> bool:
        """Return whether a search measured two candidates in full."""
        return any(len(view.points) > 1 for view in search_views(report))

    def draw(self, report: Mapping[str, Any]) -> Iterator[Drawing]:
        """Yield a drawing per search; that of the last one has no suffix."""
        views = search_views(report)
        for view in views:
            if len(view.points) > 1:
                yield Drawing(progress_figure(view), "" if view is views[-1] else f"_{view.stage}", view.stage)


def progress_figure(view: SearchView) -> Canvas:
    """Draw every candidate in the order of proposing, and the best so far."""
    figure = new_figure(height=3.4)
    axes = figure.add_subplot()
    scale = label_score_axis(axes, view.score_metric)
    axes.set_xlabel("trial, in the order of proposing")
    draw_candidates(axes, view, lambda point: (point.number, point.score * scale))
    best: list[tuple[int, float]] = []
    for point in view.points:
        if point.feasible and (not best or view.better(point.score, best[-1][1])):
            best.append((point.number, point.score))
    title = "No candidate kept the target"
    if best:
        last = max(point.number for point in view.points)
        xs, ys = [*(x for x, _ in best), last], [*(y * scale for _, y in best), best[-1][1] * scale]
        axes.step(xs, ys, where="post", color=BLUE, linewidth=2, label="best so far")
        title = f"Best found at trial {best[-1][0]} of {view.evaluated}, after {_improvements(len(best) - 1)}"
    axes.set_title(title)
    whole_ticks(axes)
    outside_legend(axes)
    return figure


def _improvements(number: int) -> str:
    return "1 improvement" if number == 1 else f"{number} improvements"
