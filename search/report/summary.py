"""Summary of a finished run on screen: before and after, remarks, and paths."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from evaluators.metrics import find_metric
from search.output.numbers import format_count, format_percent, times
from search.report.view import described_metrics, score_metric, score_of
from search.run.failures import failures_of


def show_summary(report: Mapping[str, Any], folder: Path, console: Console) -> None:
    """Print the result of a run from its report.json."""
    before, after = report.get("reference") or {}, report.get("result") or {}
    table = Table(title=str(report.get("name", folder.name)), title_justify="left")
    for column in ("", "before", "after", "change"):
        table.add_column(column, justify="left" if not column else "right")
    first, last = score_of(before), score_of(after)
    if first is not None and last is not None and first[0] == last[0]:
        metric = score_metric(first[0], report)
        change = metric.change(first[1], last[1])
        table.add_row(f"{metric.label} (test)", metric.text(first[1]), metric.text(last[1]), change)
    described = described_metrics(report)
    for name in ("macs", "parameters", "size_bytes"):
        small, large, metric = after.get(name), before.get(name), find_metric(name, described)
        if large is not None and small is not None:
            change = f"{times(large, small)} smaller, {format_percent(small / large)} left"
            table.add_row(metric.label, metric.text(large), metric.text(small), change)
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
