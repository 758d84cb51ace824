"""Targets beside the networks of a report: each in its unit, and whether it is met."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evaluators.metrics import Metric, find_metric
from search.report.judging import contradicted, keeps, source
from search.report.view import described_metrics


def limits_on_costs(report: Mapping[str, Any]) -> dict[str, tuple[Metric, float]]:
    """Return description and limit of every target on a cost, by name."""
    described = described_metrics(report)
    found = {}
    for name, target in (report.get("targets") or {}).items():
        if isinstance(target.get("limit"), int | float) and "before" not in target:
            found[name] = find_metric(name, described), float(target["limit"])
    return found


def limit_text(name: str, report: Mapping[str, Any]) -> str:
    """Return the target on the cost ``name`` in its unit, and whether it is met: ``target <= 12.4 M met``.

    Where the search's own figure says otherwise, that stands behind it.
    """
    metric, limit = limits_on_costs(report)[name]
    target = report["targets"][name]
    text = f"target <= {metric.text(limit)} {_met(bool(target.get('met')))}"
    if not contradicted(target):
        return text
    searched = target["searched"]
    said = f"{metric.text(searched['value'])} {source(report, name) or 'in the search'}, {_met(searched['met'])}"
    return f"{text}, by the measurement at the end ({said})"


def target_headings(report: Mapping[str, Any]) -> list[str]:
    """Return the heading of every target on a cost: ``MACs <= 12.4 M``."""
    return [f"{metric.label} <= {metric.text(limit)}" for metric, limit in limits_on_costs(report).values()]


def target_cells(network: Mapping[str, Any], report: Mapping[str, Any]) -> list[str]:
    """Return a network's cost under every target of :func:`target_headings`, and whether it keeps the limit.

    Of the result that is the report's own verdict.
    """
    cells = []
    for name, (metric, limit) in limits_on_costs(report).items():
        value, own = cost_of(network, name), network == report.get("result")
        met = value is not None and (bool(report["targets"][name].get("met")) if own else keeps(value, limit))
        cells.append("-" if value is None else f"{metric.text(value)}, {_met(met)}")
    return cells


def search_targets(entry: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    """Return every target of a search, and whether the candidate that it delivered keeps it; ``-`` where it has none.

    A cost that is measured anew at the end stands with the search's figure and its source: a table that predicted it, say.
    """
    described, metrics = described_metrics(report), entry.get("metrics") or {}
    words: list[str] = []
    for name, limit in (entry.get("target") or {}).items():
        metric, value = find_metric(name, described), metrics.get(name)
        origin = source(report, name)
        figure = f": {metric.text(value)} {origin}" if value is not None and origin else ""
        met = "" if value is None else f", {_met(keeps(value, limit))}"
        words.append(f"{metric.label} <= {metric.text(limit)}{figure}{met}")
    return "; ".join(words) or "-"


def cost_of(network: Mapping[str, Any] | None, name: str) -> float | None:
    """Return a cost of a network of a report; None where it was not measured."""
    places: Sequence[Mapping[str, Any]] = [network or {}, (network or {}).get("metrics") or {}]
    values = (place.get(name) for place in places)
    return next((float(value) for value in values if isinstance(value, int | float)), None)


def _met(met: bool) -> str:
    return "met" if met else "NOT met"
