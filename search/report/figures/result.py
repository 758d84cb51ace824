"""The figure of the result: its test score beside reference and baselines."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from evaluators.metrics import METRICS, Metric, find_metric
from search.output.numbers import standard_error
from search.report.figures.base import Drawing, Figure
from search.report.figures.style import (
    BASELINE_MARKS,
    MUTED,
    PAPER,
    RED,
    SKY,
    end_at_whole,
    new_figure,
    share_errors,
)
from search.report.targets import cost_of, limits_on_costs
from search.report.view import error_of, network_words, primary_of, score_metric, score_of, words

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas


class Result(Figure):
    """The test score of the result beside the reference and the baselines."""

    name = "result"
    title = "Scores on the test split"
    section = "result"

    def applies(self, report: Mapping[str, Any]) -> bool:
        """Return whether two networks have a score of the same kind."""
        return len(test_scores(report, main_cost(report))) > 1

    def draw(self, report: Mapping[str, Any]) -> Iterator[Drawing]:
        """Yield the one drawing."""
        score = score_of(report.get("result"), primary_of(report))
        name = "loss" if score is None else score[0]
        networks = {"reference": report.get("reference"), "result": report.get("result"), **(report.get("baselines") or {})}
        errors = {role: error for role, network in networks.items() if (error := error_of(network, name)) is not None}
        names = {role: network_words(role, report) for role in networks}
        samples = report.get("test_samples") or 0
        cost = main_cost(report)
        points = test_scores(report, cost)
        yield Drawing(result_figure(points, samples, score_metric(name, report), errors, names, find_metric(cost)))


def main_cost(report: Mapping[str, Any]) -> str:
    """Return the cost that networks are told apart by: the first with a target, else bytes of a run over bits, else MACs."""
    names = [*limits_on_costs(report), *(["size_bytes"] if report.get("bits") else [])]
    return next((name for name in names if cost_of(report.get("result"), name)), "macs")


def test_scores(report: Mapping[str, Any], cost: str) -> list[tuple[str, float, float]]:
    """Return name, cost and score of every network that was measured on the test split."""
    networks = {"reference": report.get("reference"), "result": report.get("result"), **(report.get("baselines") or {})}
    kind = score_of(report.get("result"), primary_of(report))
    points = []
    for name, network in networks.items():
        score = score_of(network, primary_of(report))
        value = cost_of(network, cost)
        if score is not None and kind is not None and score[0] == kind[0] and value:
            points.append((name, value, score[1]))
    return points


def result_figure(
    points: Sequence[tuple[str, float, float]],
    samples: int,
    metric: Metric,
    known: Mapping[str, float] | None = None,
    names: Mapping[str, str] | None = None,
    cost: Metric = METRICS["macs"],
) -> Canvas:
    """Draw the test scores of all networks with their standard errors.

    Args:
        points: Name, cost and score of every network.
        samples: Number of samples in the test split; 0 where that is not known.
        metric: Description of the score.
        known: Standard errors by name. Without any, those of means of values from 0 to 1 are drawn of a score of shares.
        names: Plain words for the networks, by name.
        cost: Description of the cost.
    """
    points = sorted(points, key=lambda point: point[2])
    figure = new_figure(height=1.3 + 0.4 * len(points))
    axes = figure.add_subplot()
    share = metric.is_share(*(score for _, _, score in points))
    scale = 100.0 if share else 1.0
    axes.set_xlabel(f"{metric.label or 'score'} on the test split{' [%]' if share else ''}")
    guessed = share and samples and not known
    errors = [
        (standard_error(score, samples) if guessed else (known or {}).get(name, 0.0)) * scale for name, _, score in points
    ]
    low, high = points[0][2] * scale - errors[0], points[-1][2] * scale + errors[-1]
    spread = max(high - low, 1e-3 * abs(high), 1e-9)
    left, right = low - 0.1 * spread, high + 0.55 * spread
    # Where a share leaves no room for words behind it, they stand before it.
    turning = (left + min(right, 100.0)) / 2 if share and right > 100.0 else math.inf
    marks = {"reference": ("o", MUTED), "result": ("*", RED), **BASELINE_MARKS}
    for place, (name, value, score) in enumerate(points):
        mark, color = marks.get(name, ("X", SKY))
        big = 260 if name == "result" else 75
        length: Any = share_errors([score * scale], [errors[place]]) if share else [errors[place]]
        axes.errorbar([score * scale], [place], xerr=length, color=color, linewidth=1, alpha=0.6)
        axes.scatter([score * scale], [place], marker=mark, s=big, color=color, edgecolors=PAPER, zorder=4)
        text = f"{metric.text(score)} at {cost.text(value)}{'' if cost.style.unit else f' {cost.label}'}"
        offset, side = ((-11, 9), "right") if score * scale > turning else ((11, 9), "left")
        axes.annotate(text, (score * scale, place), offset, textcoords="offset points", ha=side, va="center", fontsize=9)
    axes.set_yticks(range(len(points)), [(names or {}).get(name) or words(name) for name, _, _ in points])
    axes.set_ylim(-0.6, len(points) - 0.4)
    axes.set_xlim(left, right)
    if share:
        end_at_whole(axes, "x")
    rivals = [score for name, _, score in points if name not in ("reference", "result", "dense_same_training")]
    own = next((score for name, _, score in points if name == "result"), None)
    title = "Before and after, on the test split"
    if rivals and own is not None:
        rival = max(rivals) if metric.direction == "maximize" else min(rivals)
        lead = (own - rival if metric.direction == "maximize" else rival - own) * scale
        amount = f"{abs(lead):.2f} points" if share else metric.text(abs(lead))
        title = f"The result is {amount} {'ahead of' if lead > 0 else 'behind'} the best baseline at equal cost"
        if metric.same(own, rival):
            title = "The result and the best baseline at equal cost score the same"
        elif abs(lead) < math.sqrt(2) * max(errors):
            title += f",\nwithin the standard error of {samples:,} test samples"
    axes.set_title(title)
    return figure
