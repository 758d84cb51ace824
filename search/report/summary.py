"""Summary of a finished run on screen: before and after, remarks, and paths."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from search.output.numbers import format_bytes, format_count, format_percent, points, times


def show_summary(report: Mapping[str, Any], folder: Path, console: Console) -> None:
    """Print the result of a run from its report.json."""
    before, after = report.get("reference") or {}, report.get("result") or {}
    table = Table(title=str(report.get("name", folder.name)), title_justify="left")
    for column in ("", "before", "after", "change"):
        table.add_column(column, justify="left" if not column else "right")
    if before.get("top1") is not None and after.get("top1") is not None:
        change = f"{points(after['top1'] - before['top1'])} points"
        table.add_row("top-1 (test)", percent2(before["top1"]), percent2(after["top1"]), change)
    elif before.get("loss") is not None and after.get("loss") is not None:
        table.add_row("loss (test)", f"{before['loss']:.4f}", f"{after['loss']:.4f}", f"{after['loss'] - before['loss']:+.4f}")
    for key, words, unit in (
        ("macs", "MACs", format_count),
        ("parameters", "parameters", format_count),
        ("size_bytes", "size", format_bytes),
    ):
        first, last = before.get(key), after.get(key)
        if first is not None and last is not None:
            table.add_row(words, unit(first), unit(last), f"{times(first, last)} smaller, {format_percent(last / first)} left")
    console.print(table)
    target = report.get("target")
    if target:
        met = "met" if report.get("target_met") else "NOT met"
        console.print(f"target {target_text(target)}: {met}", markup=False, highlight=False)
    for remark in report.get("remarks") or ():
        console.print(f"note: {remark}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"network: {folder / 'best'}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"report:  {folder / 'report.html'}", markup=False, highlight=False, soft_wrap=True)


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
