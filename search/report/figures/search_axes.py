"""Parts that the figures of a search share: its candidates, and an axis of scores."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from evaluators.metrics import Metric
from search.report.figures.base import Tips
from search.report.figures.style import MUTED
from search.report.view import SearchView, TrialPoint

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_candidates(axes: Axes, view: SearchView, place: Callable[[TrialPoint], tuple[float, float]], tips: Tips) -> None:
    """Draw every candidate: filled within the targets, hollow over them; the words for each of them go to ``tips``."""
    for kept, face, label in (
        (False, "none", "over the target"),
        (True, MUTED, "within the target" if view.limit else "tried"),
    ):
        points = [point for point in view.points if point.feasible is kept]
        if points:
            xs, ys = zip(*map(place, points), strict=True)
            text = f"{label} ({len(points)})"
            marks = axes.scatter(xs, ys, s=16, facecolors=face, edgecolors=MUTED, alpha=0.6, linewidths=0.8, label=text)
            marks.set_gid(f"candidates-{int(kept)}")
            tips[f"candidates-{int(kept)}"] = [point_text(view, point) for point in points]


def point_text(view: SearchView, point: TrialPoint) -> str:
    """Return a candidate in words: its trial, its score and its cost."""
    score, cost = view.score_metric, view.cost_metric
    return f"trial {point.number}: {score.label} {score.text(point.score)}, {cost.label} {cost.text(point.cost)}"


def label_score_axis(axes: Axes, metric: Metric) -> float:
    """Label the y axis with a score, and return the factor from its values to the axis."""
    axes.set_ylabel(f"{metric.label} [%]" if metric.percent else metric.label)
    return metric.style.scale
