"""Summary of a finished run on screen: before and after, remarks, and paths."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from evaluators.metrics import Metric, find_metric
from search.output.numbers import format_count, format_percent, times
from search.report.view import described_metrics, error_of, primary_of, score_metric, score_of
from search.run.failures import failures_of

_WHOLE_TABLE = 92
"""Columns from which the table has room for both ways to tell a change beside the targets."""


def show_summary(report: Mapping[str, Any], folder: Path, console: Console) -> None:
    """Print the result of a run from its report.json."""
    before, after = report.get("reference") or {}, report.get("result") or {}
    table = Table(title=str(report.get("name", folder.name)), title_justify="left")
    targets = report.get("targets") or {}
    brief = bool(targets) and console.width < _WHOLE_TABLE
    for column in ("", "before", "after", "change", *(["target"] if targets else [])):
        table.add_column(column, justify="left" if column in ("", "target") else "right")
    first, last = (score_of(network, primary_of(report)) for network in (before, after))
    if first is not None and last is not None and first[0] == last[0]:
        metric = score_metric(first[0], report)
        change = metric.change(first[1], last[1])
        values = (
            metric.with_error(value, error_of(network, name)) for network, (name, value) in ((before, first), (after, last))
        )
        table.add_row(f"{metric.label} (test)", *values, change)
    described = described_metrics(report)
    for name in dict.fromkeys(("macs", "parameters", "size_bytes", *targets)):
        small, large, metric = _cost(after, name), _cost(before, name), find_metric(name, described)
        limit = [_limit(metric, targets[name])] if name in targets else []
        if large is not None and small is not None:
            table.add_row(metric.label, metric.text(large), metric.text(small), _change(large, small, brief), *limit)
        elif limit:
            table.add_row(metric.label, "-", "-" if small is None else metric.text(small), "-", *limit)
    console.print(table)
    target = report.get("target")
    if target:
        met = "met" if report.get("target_met") else "NOT met"
        console.print(f"target {target_text(target)}: {met}", markup=False, highlight=False)
    for remark in report.get("remarks") or ():
        console.print(f"note: {remark}", markup=False, highlight=False, soft_wrap=True)
    for what, error in failures_of(report):
        console.print(f"could not be measured: {what}: {error}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"network: {folder / 'best'}", markup=False, highlight=False, soft_wrap=True)
    page = folder / "report.html"
    console.print(
        f"report:  {page if page.exists() else folder / 'report.json'}", markup=False, highlight=False, soft_wrap=True
    )


def _cost(network: Mapping[str, Any], name: str) -> float | None:
    """Return a cost of a network of a report; None where it was not measured."""
    value: float | None = network.get(name)
    return value if value is not None else (network.get("metrics") or {}).get(name)


def _change(large: float, small: float, brief: bool) -> str:
    if not large or not small:
        return "-"
    if small > large:
        return f"{times(small, large)} larger"
    smaller = f"{times(large, small)} smaller"
    return smaller if brief else f"{smaller}, {format_percent(small / large)} left"


def _limit(metric: Metric, target: Mapping[str, Any]) -> str:
    """Return a target in the metric's unit and whether it is met."""
    return f"<= {metric.text(target['limit'])}, {'met' if target['met'] else 'NOT met'}"


def percent2(share: float) -> str:
    """Return an accuracy in per cent with two decimals."""
    return f"{share * 100:.2f} %"


def target_text(target: Any) -> str:
    """Return a target as a person reads it."""
    if isinstance(target, Mapping):
        return ", ".join(
            f"{name} {limit}" if isinstance(limit, str) else f"{name} <= {format_count(limit)}"
            for name, limit in target.items()
        )
    return str(target)
