"""The figure of the result's trainings."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from evaluators.metrics import Metric
from search.report.figures.base import Drawing, Figure
from search.report.figures.style import BLUE, GRID, MUTED, new_figure
from search.report.view import primary_of, score_metric, words

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas


class Training(Figure):
    """Loss and score of the result over the epochs of all its trainings."""

    name = "training"
    title = "Training"
    section = "training"

    def applies(self, report: Mapping[str, Any]) -> bool:
        """Return whether the result was trained."""
        return bool(_histories(report))

    def draw(self, report: Mapping[str, Any]) -> Iterator[Drawing]:
        """Yield the one drawing."""
        primary = primary_of(report)
        yield Drawing(training_figure(_histories(report), None if primary is None else score_metric(primary, report)))


def _histories(report: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [entry for entry in report.get("histories") or [] if entry.get("epochs")]


def training_figure(histories: Sequence[Mapping[str, Any]], metric: Metric | None = None) -> Canvas:
    """Draw loss and score over all epochs, stage after stage.

    Args:
        histories: Trainings of a report.
        metric: Description of the score; None where the report does not name it: it is taken for a share if it can be one.
    """
    figure = new_figure(height=3.8)
    left, right = figure.subplots(1, 2)
    start = 0
    edges = [0]
    series: dict[str, list[tuple[int, float]]] = {"loss": [], "search_loss": [], "search_score": []}
    for history in histories:
        for index, epoch in enumerate(history["epochs"]):
            for key, values in series.items():
                value = epoch.get(key)
                if isinstance(value, int | float) and math.isfinite(value):
                    values.append((start + index + 1, float(value)))
        start += len(history["epochs"])
        edges.append(start)
    for axes in (left, right):
        axes.set_xlabel("epoch, all stages in a row")
        for index, (first, last) in enumerate(pairwise(edges)):
            if index % 2:
                axes.axvspan(first + 0.5, last + 0.5, color=GRID, alpha=0.4, linewidth=0)
            axes.annotate(
                words(str(histories[index].get("stage", ""))),
                ((first + last + 1) / 2, 1.0),
                (0, 2),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                ha="center",
                fontsize=8,
                color=MUTED,
            )
    for key, color, label in (("loss", MUTED, "train split"), ("search_loss", BLUE, "search split")):
        left.plot(*zip(*series[key], strict=True) if series[key] else ([], []), color=color, marker=".", label=label)
    left.set_ylabel("loss")
    left.legend(loc="upper right")
    scores = series["search_score"]
    share = all(0 <= value <= 1 for _, value in scores) and (metric is None or metric.percent)
    right.plot([x for x, _ in scores], [y * (100 if share else 1) for _, y in scores], color=BLUE, marker=".")
    right.set_ylabel(f"{'score' if metric is None else metric.label}, search split{' [%]' if share else ''}")
    ending = f": {scores[-1][1] * (100 if share else 1):.4g}{' %' if share else ''} at the end" if scores else ""
    figure.suptitle(f"{start} epochs of training{ending}", x=0.01, ha="left", fontsize=11, fontweight="bold")
    return figure
