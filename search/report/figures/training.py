"""The figure of the trainings of the result and of the baselines."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from evaluators.metrics import Metric
from search.report.figures.base import Drawing, Figure
from search.report.figures.style import (
    BASELINE_MARKS,
    BLUE,
    GRID,
    MUTED,
    SKY,
    end_at_whole,
    new_figure,
    outside_legend,
    whole_ticks,
)
from search.report.view import network_words, primary_of, score_metric, words

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

Curve = Sequence[tuple[int, float]]
"""Values by epoch, counted over all stages in a row."""


class Training(Figure):
    """Loss and score of the result over the epochs of all its trainings, and of the baselines over theirs."""

    name = "training"
    title = "Training"
    section = "training"

    def applies(self, report: Mapping[str, Any]) -> bool:
        """Return whether the result was trained."""
        return bool(_histories(report))

    def draw(self, report: Mapping[str, Any]) -> Iterator[Drawing]:
        """Yield the one drawing."""
        primary = primary_of(report)
        yield Drawing(training_figure(report, None if primary is None else score_metric(primary, report)))


def _histories(report: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [entry for entry in report.get("histories") or [] if entry.get("epochs")]


def training_figure(report: Mapping[str, Any], metric: Metric | None = None) -> Canvas:
    """Draw loss and score over all epochs, stage after stage.

    Args:
        report: The content of report.json, with trainings.
        metric: Description of the score; None where the report does not name it: it is taken for a share if it can be one.
    """
    figure = new_figure(height=3.9)
    left, right = figure.subplots(1, 2)
    histories = _histories(report)
    starts = _label_stages((left, right), histories)
    epochs = sum(len(history["epochs"]) for history in histories)
    scores = _curve(histories, "search_score", starts)
    share = all(0 <= value <= 1 for _, value in scores) and (metric is None or metric.percent)
    for role, own in _of_baselines(report, starts).items():
        mark, color = BASELINE_MARKS.get(role, ("X", SKY))
        style = {"color": color, "marker": mark, "markersize": 4, "linewidth": 1.2, "linestyle": (0, (4, 2)), "alpha": 0.9}
        label = f"{network_words(role, report)}, search split"
        for history in own:
            _plot(left, _curve([history], "search_loss", starts), 1, style, label)
            _plot(right, _curve([history], "search_score", starts), 100 if share else 1, style, label)
            label = "_"
    solid = {"color": BLUE, "marker": ".", "linewidth": 1.8}
    _plot(left, _curve(histories, "loss", starts), 1, {**solid, "color": MUTED}, "this result, train split")
    _plot(left, _curve(histories, "search_loss", starts), 1, solid, "this result, search split")
    _plot(right, scores, 100 if share else 1, solid, "this result, search split")
    kept = _kept(histories, starts)
    ring = {"color": BLUE, "marker": "o", "markersize": 9, "markerfacecolor": "none", "linestyle": "none"}
    _plot(right, [point for point in scores if point[0] in kept], 100 if share else 1, ring, "this result, epoch handed on")
    left.set_ylabel("loss")
    right.set_ylabel(f"{'score' if metric is None else metric.label}, search split{' [%]' if share else ''}")
    if share:
        end_at_whole(right, "y")
    outside_legend(left, right)
    end = next((point for point in scores if kept and point[0] == kept[-1] > starts[str(histories[-1].get("stage", ""))]), None)
    when = "at the end" if end is None else f"in epoch {end[0]}, which was handed on"
    last = scores[-1:] if end is None else [end]
    ending = "".join(f": {value * (100 if share else 1):.4g}{' %' if share else ''} {when}" for _, value in last)
    length = "1 epoch" if epochs == 1 else f"{epochs} epochs"
    figure.suptitle(f"{length} of training{ending}", x=0.01, ha="left", fontsize=11, fontweight="bold")
    return figure


def _label_stages(panels: Sequence[Axes], histories: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Shade every second stage and name all, and return the number of epochs before each stage."""
    edges = [0]
    for history in histories:
        edges.append(edges[-1] + len(history["epochs"]))
    for axes in panels:
        axes.set_xlabel("epoch, all stages in a row")
        whole_ticks(axes)
        for index, (first, last) in enumerate(pairwise(edges)):
            if index % 2:
                axes.axvspan(first + 0.5, last + 0.5, color=GRID, alpha=0.4, linewidth=0)
            place = ((first + last + 1) / 2, 1.0)
            over: dict[str, Any] = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points", "ha": "center"}
            height = 2 + 9 * (index % 2)
            name = words(str(histories[index].get("stage", "")))
            axes.annotate(name, place, (0, height), fontsize=8, color=MUTED, **over)
    return {str(history.get("stage", "")): edge for history, edge in zip(histories, edges, strict=False)}


def _kept(histories: Sequence[Mapping[str, Any]], starts: Mapping[str, int]) -> list[int]:
    """Return the epochs that were handed on and were not the last of their training, counted over all stages."""
    return [
        starts[str(history.get("stage", ""))] + history["kept_epoch"]
        for history in histories
        if 0 < (history.get("kept_epoch") or 0) < len(history["epochs"])
    ]


def _of_baselines(report: Mapping[str, Any], starts: Mapping[str, int]) -> dict[str, list[Mapping[str, Any]]]:
    """Return the baselines' trainings in stages in which the result was trained, too, by role."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for history in report.get("baseline_histories") or []:
        if history.get("epochs") and history.get("stage") in starts:
            found.setdefault(str(history.get("variant", "baseline")), []).append(history)
    return found


def _curve(histories: Sequence[Mapping[str, Any]], key: str, starts: Mapping[str, int]) -> Curve:
    """Return the finite values of ``key`` by epoch."""
    found = []
    for history in histories:
        start = starts[str(history.get("stage", ""))]
        for index, epoch in enumerate(history["epochs"]):
            value = epoch.get(key)
            if isinstance(value, int | float) and math.isfinite(value):
                found.append((start + index + 1, float(value)))
    return found


def _plot(axes: Axes, curve: Curve, scale: float, style: Mapping[str, Any], label: str) -> None:
    if curve:
        axes.plot([epoch for epoch, _ in curve], [value * scale for _, value in curve], label=label, **style)
