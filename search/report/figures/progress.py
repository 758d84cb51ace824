"""The figure of a search's course."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from search.report.figures.base import Drawing, Figure, Tips
from search.report.figures.search_axes import draw_candidates, label_score_axis
from search.report.figures.style import BLUE, end_at_whole, new_figure, outside_legend, whole_ticks
from search.report.view import SearchView, search_views

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Progress(Figure):
    """Every candidate of a search in the order of proposing, and the best so far by the number of evaluations."""

    name = "progress"
    title = "The course of the search"
    section = "search"

    def applies(self, report: Mapping[str, Any]) -> bool:
        """Return whether a search measured two candidates in full."""
        return any(len(view.points) > 1 for view in search_views(report))

    def draw(self, report: Mapping[str, Any]) -> Iterator[Drawing]:
        """Yield a drawing per search; that of the last one has no suffix."""
        views = search_views(report)
        for view in views:
            if len(view.points) > 1:
                yield progress_figure(view, "" if view is views[-1] else f"_{view.stage}")


def progress_figure(view: SearchView, suffix: str = "") -> Drawing:
    """Draw every candidate by the number of evaluations, and the best so far.

    Of a search by generations the parents are drawn: each is measured on inputs of its own, so that none is the best so far.
    """
    figure = new_figure(height=3.4)
    axes = figure.add_subplot()
    tips: Tips = {}
    scale = label_score_axis(axes, view.score_metric)
    axes.set_xlabel("evaluations (candidates measured, in the order of proposing)")
    draw_candidates(axes, view, lambda point: (point.evaluations, point.score * scale), tips)
    title = _draw_parents(axes, view, scale) if view.generations else _draw_best(axes, view, scale)
    axes.set_title(title)
    whole_ticks(axes)
    if view.score_metric.percent:
        end_at_whole(axes, "y")
    outside_legend(axes)
    return Drawing(figure, suffix, view.stage, tips)


def _draw_best(axes: Axes, view: SearchView, scale: float) -> str:
    """Draw the best so far as a line, and return the title."""
    best: list[tuple[int, float, int]] = []
    for point in view.points:
        if point.feasible and (not best or view.better(point.score, best[-1][1])):
            best.append((point.evaluations, point.score, point.number))
    if not best:
        return "No candidate kept the target"
    last = max(point.evaluations for point in view.points)
    xs, ys = [*(x for x, _, _ in best), last], [*(y * scale for _, y, _ in best), best[-1][1] * scale]
    axes.step(xs, ys, where="post", color=BLUE, linewidth=2, label="best so far")
    steps = len(best) - 1
    improvements = "1 improvement" if steps == 1 else f"{steps} improvements"
    return f"Best found at trial {best[-1][2]} of {view.evaluated}, after {improvements}"


def _draw_parents(axes: Axes, view: SearchView, scale: float) -> str:
    """Draw the parents of all generations as a line, and return the title."""
    xs, ys = [point.evaluations for point in view.points], [point.score * scale for point in view.points]
    axes.plot(xs, ys, color=BLUE, linewidth=2, label="parent of every generation, each on inputs of its own")
    first, last = (view.score_metric.text(point.score) for point in (view.points[0], view.points[-1]))
    return f"{view.score_metric.label} from {first} to {last} in {view.points[-1].evaluations} evaluations"
