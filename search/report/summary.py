"""Summary of a finished run on screen: before and after, remarks, and paths."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from evaluators.metrics import Metric, find_metric
from search.output.numbers import format_count, format_percent, shows, times
from search.output.unbroken import FigureTable
from search.report.judging import caveats
from search.report.view import described_metrics, error_of, primary_of, score_metric, score_of
from search.run.failures import failures_of

_WHOLE_TABLE = 92
"""Columns from which the table has room for both ways to tell a change beside the targets."""


@dataclass(frozen=True)
class Row:
    """A row of the table of a finished run.

    Attributes:
        label: The score or cost.
        before: Its value of the network that the run began with, in its unit; ``-`` where it has none.
        after: Its value of the result.
        change: The difference, in words.
        limit: The target on it and whether that is met; empty where there is none.
        share: What is left of a cost, as a share of what it was; None for a score, and where a value is missing.
    """

    label: str
    before: str
    after: str
    change: str
    limit: str = ""
    share: float | None = None


def summary_rows(report: Mapping[str, Any], brief: bool) -> list[Row]:
    """Return the score, the usual costs and every target of a run from its report.json.

    Args:
        report: The content of report.json.
        brief: Tell a change in one way instead of two.
    """
    before, after = report.get("reference") or {}, report.get("result") or {}
    targets, rows = report.get("targets") or {}, []
    first, last = (score_of(network, primary_of(report)) for network in (before, after))
    if first is not None and last is not None and first[0] == last[0]:
        metric = score_metric(first[0], report)
        was, became = (
            metric.with_error(value, error_of(network, name)) for network, (name, value) in ((before, first), (after, last))
        )
        rows.append(Row(f"{metric.label} (test)", was, became, metric.change(first[1], last[1])))
    described = described_metrics(report)
    for name in dict.fromkeys(("macs", "parameters", "size_bytes", *targets)):
        if "before" in targets.get(name, {}):
            rows.append(_kept_score(find_metric(name, described), targets[name]))
            continue
        small, large, metric = _cost(after, name), _cost(before, name), find_metric(name, described)
        limit = _limit(metric, targets[name]) if name in targets else ""
        if large is not None and small is not None:
            share = small / large if large else None
            change = _change(large, small, brief)
            rows.append(Row(metric.label, metric.text(large), metric.text(small), change, limit, share))
        elif limit:
            rows.append(Row(metric.label, "-", "-" if small is None else metric.text(small), "-", limit))
    return rows


def _kept_score(metric: Metric, target: Mapping[str, Any]) -> Row:
    """Return the row of a score that has a limit, on the split that it was judged on."""
    before, value = target["before"], target["value"]
    limit = _limit(metric, target) if metric.direction == "minimize" else _limit(metric, target).replace("<=", ">=", 1)
    became = metric.with_error(value, target.get("error"))
    return Row(f"{metric.label} (search)", metric.text(before), became, metric.change(before, value), limit)


def summary_table(report: Mapping[str, Any], name: str, width: int) -> FigureTable:
    """Return the table of a finished run, for a screen of ``width`` columns.

    Args:
        report: The content of report.json.
        name: Name of the run, where the report has none.
        width: Columns of the screen.
    """
    targets = report.get("targets") or {}
    brief = bool(targets) and width < _WHOLE_TABLE
    heads = ("", "before", "after", "change", *(["target"] if targets else []))
    table = FigureTable(str(report.get("name", name)), heads, left=(0, 4))
    for row in summary_rows(report, brief):
        table.add_row([row.label, row.before, row.after, row.change, *([row.limit] if targets else [])])
    return table


def target_line(report: Mapping[str, Any]) -> str:
    """Return a line on the targets of a run, and whether they are met; empty where it has none.

    A verdict that the search's own figures contradict, or that another measurement may change, has a line of its own.
    """
    target = report.get("target")
    if not target:
        return ""
    line = f"target {target_text(target)}: {'met' if report.get('target_met') else 'NOT met'}"
    return "\n".join([line, *(f"warning: {text}" for text in caveats(report))])


def show_summary(report: Mapping[str, Any], folder: Path, console: Console) -> None:
    """Print the result of a run from its report.json."""
    console.print(summary_table(report, folder.name, console.width))
    if line := target_line(report):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
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
    if not shows(large, small):
        return "the same" if small == large else f"{(small / large - 1.0) * 100:+.2g} %"
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
