"""The section on several budgets of one search: a row per network, and which of them no other one beats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from evaluators.metrics import Metric, find_metric
from search.output.numbers import format_percent
from search.output.unbroken import FigureTable
from search.report.view import Row, described_metrics, error_of, primary_of, score_metric, score_of

HEADINGS = ("target", "cost", "left", "score", "to the reference", "met", "front")
"""Columns of the table, behind the name of the run."""


@dataclass(frozen=True)
class ResolvedPoint:
    """One of several networks of a search, by cost and score.

    Attributes:
        name: Name of its run.
        cost: Its cost, in the metric's unit.
        score: Its score on the test split.
        error: The standard error of the score; None where it is not known.
        on_front: Whether none of the others costs no more and scores no worse, one of both better.
    """

    name: str
    cost: float
    score: float
    error: float | None
    on_front: bool


def cost_name(report: Mapping[str, Any]) -> str:
    """Return the cost by which networks are compared: the one that all targets limit, else MACs."""
    common = [set(run.get("targets") or {}) for run in report.get("resolved") or []]
    shared = sorted(set.intersection(*common)) if common else []
    return shared[0] if len(shared) == 1 else "macs"


def resolved_points(report: Mapping[str, Any]) -> list[ResolvedPoint]:
    """Return the networks of a report with several budgets that have a cost and a score, in their order."""
    cost, primary, found = cost_name(report), primary_of(report), []
    for run in report.get("resolved") or []:
        network = run.get("result") or {}
        score, value = score_of(network, primary), network.get(cost)
        if score is not None and isinstance(value, int | float):
            found.append((str(run.get("name")), float(value), score[1], error_of(network, score[0]), score[0]))
    sign = 1.0 if not found or score_metric(found[0][4], report).direction == "maximize" else -1.0
    places = [(value, -sign * score) for _, value, score, _, _ in found]

    def beaten(own: tuple[float, float]) -> bool:
        return any(other != own and other[0] <= own[0] and other[1] <= own[1] for other in places)

    return [
        ResolvedPoint(name, value, score, error, not beaten(own))
        for (name, value, score, error, _), own in zip(found, places, strict=True)
    ]


def resolved_rows(report: Mapping[str, Any]) -> list[Row]:
    """Return a row per budget, with the cells of :data:`HEADINGS`; none for a report of one network."""
    runs = report.get("resolved") or []
    if len(runs) < 2:
        return []
    front = {point.name: point.on_front for point in resolved_points(report)}
    return [_row(run, report, front.get(str(run.get("name")))) for run in runs]


def show_resolved(report: Mapping[str, Any], console: Console) -> None:
    """Print the table of several budgets; nothing for a report of one network."""
    rows = resolved_rows(report)
    if not rows:
        return
    heads = ("", *HEADINGS)
    table = FigureTable(f"{len(rows)} budgets of one search", heads, left=range(len(heads)))
    for row in rows:
        table.add_row([row.name, *row.cells])
    console.print(table)


def _row(run: Mapping[str, Any], report: Mapping[str, Any], on_front: bool | None) -> Row:
    network, base = run.get("result") or {}, run.get("reference") or {}
    name = cost_name(report)
    metric: Metric = find_metric(name, described_metrics(report))
    value, whole = network.get(name), base.get(name)
    cost = "-" if value is None else metric.text(value)
    left = format_percent(value / whole) if value is not None and whole else "-"
    cells = (_target(run.get("target")), cost, left, *_scores(network, base, report), _met(run.get("target_met")))
    return Row(str(run.get("name")), (*cells, "-" if on_front is None else "yes" if on_front else "no"), strong=bool(on_front))


def _scores(network: Mapping[str, Any], base: Mapping[str, Any], report: Mapping[str, Any]) -> Sequence[str]:
    """Return the score with its standard error, and its change against the reference."""
    score, before = score_of(network, primary_of(report)), score_of(base, primary_of(report))
    if score is None:
        return "-", "-"
    metric = score_metric(score[0], report)
    change = metric.change(before[1], score[1]) if before is not None and before[0] == score[0] else "-"
    return metric.with_error(score[1], error_of(network, score[0])), change


def _target(target: Any) -> str:
    return ", ".join(f"{name} {limit}" for name, limit in target.items()) if isinstance(target, Mapping) else str(target or "-")


def _met(met: Any) -> str:
    return "-" if met is None else "yes" if met else "NO"
