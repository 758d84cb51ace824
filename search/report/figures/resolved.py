"""The figure of several budgets of one search."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from evaluators.metrics import find_metric
from search.report.figures.base import Drawing, Figure
from search.report.figures.search_axes import label_score_axis
from search.report.figures.style import BLUE, RED, end_at_whole, new_figure, outside_legend, share_errors
from search.report.resolved import cost_name, resolved_points
from search.report.view import described_metrics, primary_of, score_metric, score_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas


class Resolved(Figure):
    """Every budget's network by its cost and its score on the test split, and those that no other one beats."""

    name = "resolved"
    title = "Several budgets"
    section = "result"

    def applies(self, report: Mapping[str, Any]) -> bool:
        """Return whether there are networks of two budgets with a score."""
        return len(resolved_points(report)) > 1

    def draw(self, report: Mapping[str, Any]) -> Iterator[Drawing]:
        """Yield the drawing."""
        yield Drawing(_figure(report))


def _figure(report: Mapping[str, Any]) -> Canvas:
    figure = new_figure(height=3.6)
    axes = figure.add_subplot()
    points, cost = resolved_points(report), find_metric(cost_name(report), described_metrics(report))
    whole, primary = (report.get("reference") or {}).get(cost_name(report)), primary_of(report)
    before = score_of(report.get("reference"), primary)
    metric = score_metric(before[0] if before is not None else primary or "top1", report)
    scale = label_score_axis(axes, metric)
    axes.set_ylabel(f"{axes.get_ylabel()}\ntest split")
    axes.set_xlabel(f"{cost.label} [% of the reference's]" if whole else cost.label)
    divisor = whole / 100 if whole else 1.0
    bars: dict[str, Any] = {"fmt": "o", "color": BLUE, "alpha": 0.55, "capsize": 3, "label": "budgets, ± standard error"}
    errors, scores = [(point.error or 0.0) * scale for point in points], [point.score * scale for point in points]
    share = metric.is_share(*(point.score for point in points))
    lengths: Any = share_errors(scores, errors) if share else errors
    axes.errorbar([point.cost / divisor for point in points], scores, lengths, **bars)
    front = sorted((point for point in points if point.on_front), key=lambda point: point.cost)
    xs, ys = [point.cost / divisor for point in front], [point.score * scale for point in front]
    axes.plot(xs, ys, color=BLUE, marker="o", linewidth=1.6, label=f"front ({len(front)})")
    if before is not None:
        axes.axhline(before[1] * scale, color=RED, linestyle=(0, (4, 3)), linewidth=1.2, label="reference")
    axes.set_title(f"{len(points)} budgets of one search, {len(front)} on the front")
    if whole:
        end_at_whole(axes, "x")
    if share:
        end_at_whole(axes, "y")
    outside_legend(axes)
    return figure
