"""Targets beside the networks of a report: each in its unit, and whether it is met."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evaluators.metrics import Metric, find_metric
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
    """Return the target on the cost ``name`` in its unit, and whether it is met: ``target <= 12.4 M met``."""
    metric, limit = limits_on_costs(report)[name]
    return f"target <= {metric.text(limit)} {_met(bool(report['targets'][name].get('met')))}"


def target_headings(report: Mapping[str, Any]) -> list[str]:
    """Return the heading of every target on a cost: ``MACs <= 12.4 M``."""
    return [f"{metric.label} <= {metric.text(limit)}" for metric, limit in limits_on_costs(report).values()]


def target_cells(network: Mapping[str, Any], report: Mapping[str, Any]) -> list[str]:
    """Return a network's cost under every target of :func:`target_headings`, and whether it keeps the limit."""
    cells = []
    for name, (metric, limit) in limits_on_costs(report).items():
        value = cost_of(network, name)
        cells.append("-" if value is None else f"{metric.text(value)}, {_met(value <= limit * (1.0 + 1e-9))}")
    return cells


def search_targets(entry: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    """Return every target of a search, and whether the candidate that it delivered keeps it; ``-`` where it has none."""
    described, metrics = described_metrics(report), entry.get("metrics") or {}
    words: list[str] = []
    for name, limit in (entry.get("target") or {}).items():
        metric, value = find_metric(name, described), metrics.get(name)
        met = "" if value is None else f", {_met(value <= limit * (1.0 + 1e-9))}"
        words.append(f"{metric.label} <= {metric.text(limit)}{met}")
    return "; ".join(words) or "-"


def cost_of(network: Mapping[str, Any] | None, name: str) -> float | None:
    """Return a cost of a network of a report; None where it was not measured."""
    places: Sequence[Mapping[str, Any]] = [network or {}, (network or {}).get("metrics") or {}]
    values = (place.get(name) for place in places)
    return next((float(value) for value in values if isinstance(value, int | float)), None)


def _met(met: bool) -> str:
    return "met" if met else "NOT met"
