"""The table of all trials of a search."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evaluators.metrics import find_metric
from search.output.numbers import format_percent
from search.report.view import described_metrics

MOST_TRIALS = 1000
"""Trials of a search that the page shows: the last ones."""


@dataclass(frozen=True)
class TrialTable:
    """All trials of a search, as cells with the number that sorts each of them.

    Attributes:
        stage: The stage.
        number: Number of all trials.
        heads: Headings.
        rows: Cells of every trial shown, as (text, number); the number is None for one that sorts last.
        chosen: Place in ``rows`` of the trial that was delivered, or None.
    """

    stage: str
    number: int
    heads: Sequence[str]
    rows: Sequence[Sequence[tuple[str, float | None]]]
    chosen: int | None


def trial_table(entry: Mapping[str, Any], report: Mapping[str, Any]) -> TrialTable | None:
    """Return the table of an entry of ``searches``; None for fewer than two trials."""
    trials: Sequence[Mapping[str, Any]] = entry.get("trials") or []
    if len(trials) < 2:
        return None
    shown, described = trials[-MOST_TRIALS:], described_metrics(report)
    names = dict.fromkeys([*(entry.get("objectives") or {}), *(name for trial in shown for name in trial.get("metrics") or {})])
    hidden = set() if report.get("bits") or "bit_operations" in (entry.get("objectives") or {}) else {"bit_operations"}
    metrics = {name: find_metric(name, described) for name in names if name not in hidden}
    partial = any(trial.get("fidelity", 1.0) != 1.0 for trial in shown)
    several = any("evaluations" in trial for trial in shown)
    heads = ["trial", *(metric.label for metric in metrics.values()), *(["measured"] if partial else [])]
    heads += [*(["evaluations"] if several else []), "target", "fingerprint"]
    rows = []
    for trial in shown:
        number = trial.get("trial", trial.get("number", -1))
        cells: list[tuple[str, float | None]] = [(str(number), float(number))]
        for name, metric in metrics.items():
            value = (trial.get("metrics") or {}).get(name)
            known = isinstance(value, int | float) and math.isfinite(value)
            cells.append((metric.text(value), float(value)) if known and value is not None else ("-", None))
        if partial:
            cells.append((format_percent(trial.get("fidelity", 1.0)), float(trial.get("fidelity", 1.0))))
        if several:
            cells.append((str(trial.get("evaluations", 1)), float(trial.get("evaluations", 1))))
        state = "failed" if trial.get("state") == "failed" else "kept" if trial.get("feasible") else "not kept"
        cells += [(state, float(state == "kept")), (str(trial.get("fingerprint", "")), None)]
        rows.append(cells)
    places = [index for index, trial in enumerate(shown) if trial.get("trial") == entry.get("chosen")]
    return TrialTable(str(entry.get("stage", "search")), len(trials), heads, rows, places[0] if places else None)
