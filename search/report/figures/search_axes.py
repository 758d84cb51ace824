"""Parts that the figures of a search share: its candidates, and an axis of scores."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from evaluators.metrics import Metric
from search.report.figures.style import MUTED
from search.report.view import SearchView, TrialPoint

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_candidates(axes: Axes, view: SearchView, place: Callable[[TrialPoint], tuple[float, float]]) -> None:
    """Draw every candidate: filled within the targets, hollow over them."""
    for kept, face, label in (
        (False, "none", "over the target"),
        (True, MUTED, "within the target" if view.limit else "tried"),
    ):
        places = [place(point) for point in view.points if point.feasible is kept]
        if places:
            xs, ys = zip(*places, strict=True)
            text = f"{label} ({len(places)})"
            axes.scatter(xs, ys, s=16, facecolors=face, edgecolors=MUTED, alpha=0.6, linewidths=0.8, label=text)


def label_score_axis(axes: Axes, metric: Metric) -> float:
    """Label the y axis with a score, and return the factor from its values to the axis."""
    axes.set_ylabel(f"{metric.label} [%]" if metric.percent else metric.label)
    return metric.style.scale
