"""The time that a run took, stage by stage and in all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from search.report.view import words


def stage_rows(report: Mapping[str, Any]) -> list[tuple[str, float, str, str]]:
    """Return, per stage: name, time as a share of the longest stage's, time in words, and time of its baselines in words."""
    entries = [entry for entry in report.get("stages") or [] if isinstance(entry.get("seconds"), int | float)]
    longest = max((entry["seconds"] for entry in entries), default=0.0) or 1.0
    rows = []
    for entry in entries:
        beside = sum((entry.get("baseline_seconds") or {}).values())
        share = entry["seconds"] / longest
        rows.append((words(str(entry.get("name", ""))), share, seconds_text(entry["seconds"]) or "-", seconds_text(beside)))
    return rows


def whole_cost(report: Mapping[str, Any]) -> str:
    """Return the cost of the whole run in words: evaluations, epochs, time."""
    searches = report.get("searches") or []
    evaluations = sum(len(entry.get("trials") or []) for entry in searches)
    workers = sum(entry.get("worker_seconds") or 0.0 for entry in searches)
    epochs = sum(len(entry.get("epochs") or []) for entry in report.get("histories") or [])
    own = sum(entry.get("seconds") or 0.0 for entry in report.get("stages") or [])
    beside = sum(sum((entry.get("baseline_seconds") or {}).values()) for entry in report.get("stages") or [])
    parts = [f"{_number(evaluations, 'evaluation')} ({seconds_text(workers)} of workers' time)"] if evaluations else []
    parts += [f"{_number(epochs, 'epoch')} of training"] if epochs else []
    parts += [f"{seconds_text(own)} in all"] if own else []
    parts += [f"and {seconds_text(beside)} for the baselines"] if beside else []
    profile = _steps_profile(report)
    return ", ".join(parts) + (f"; {profile}" if parts and profile else "")


def _steps_profile(report: Mapping[str, Any]) -> str:
    """Return the parts of the result's training steps as shares of their time in words; nothing without a training."""
    parts: dict[str, float] = {}
    for history in report.get("histories") or []:
        for name, seconds in (history.get("seconds") or {}).items():
            parts[str(name)] = parts.get(str(name), 0.0) + (seconds if isinstance(seconds, int | float) else 0.0)
    whole = sum(parts.values())
    if whole <= 0:
        return ""
    shares = ", ".join(f"{words(name)} {100 * seconds / whole:.0f} %" for name, seconds in parts.items())
    return f"training steps: {shares}"


def seconds_text(value: float) -> str:
    """Return a length of time in words; nothing for none."""
    if value <= 0:
        return ""
    return f"{value:.1f} s" if value < 100 else f"{value / 60:.1f} min" if value < 7200 else f"{value / 3600:.1f} h"


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
