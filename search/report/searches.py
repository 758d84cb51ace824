"""The tables of the searches of a report: a row per search, its integer programs, its sensitivities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from search.output.numbers import format_percent, metric_value
from search.report.durations import seconds_text
from search.report.targets import search_targets
from search.report.view import Row, words


def search_row(entry: Mapping[str, Any], report: Mapping[str, Any]) -> Row:
    """Return the row of a search: its trials, the front, the one that was delivered, time, targets, and what ended it."""
    trials = entry.get("trials") or []
    full = sum(trial.get("fidelity", 1.0) >= 1.0 and trial.get("state") != "failed" for trial in trials)
    front = str(len(entry.get("pareto") or []))
    chosen = "-" if entry.get("chosen") is None else str(entry["chosen"])
    cells = (
        str(len(trials)),
        str(full),
        str(entry.get("failed") or 0),
        front,
        chosen,
        seconds_text(entry.get("worker_seconds") or 0.0) or "-",
        search_targets(entry, report),
        str(entry.get("ended_by") or "-"),
    )
    return Row(str(entry.get("stage", "search")), cells)


def sensitivity_tables(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tables of rank correlations between kinds of sensitivity and the measured loss."""
    found = entry["sensitivity"]
    kinds = list(found["rows"][0]["predicted"]) if found["rows"] else []
    rows = [
        Row(
            row["decision"],
            (
                str(row["bits"]),
                *(f"{row['predicted'][kind]:.2e}" for kind in kinds),
                f"{row['measured']:.2e} ± {row['standard_error']:.1e}",
            ),
        )
        for row in found["rows"]
    ]
    correlations = {(one["first"], one["second"], one["over"]): one["value"] for one in found["correlations"]}
    pairs = [
        Row(
            f"{words(first)} and {words(second)}", tuple(_correlation(correlations.get((first, second, over))) for over in OVER)
        )
        for first, second in dict.fromkeys((first, second) for first, second, _ in correlations)
    ]
    return {
        "stage": str(entry.get("stage", "search")),
        "kind": f"{found['kind']} ({found['moments']})" if found.get("moments") else found["kind"],
        "samples": found["samples"],
        "kinds": kinds,
        "rows": rows,
        "pairs": pairs,
        "negative": list(found["negative"]),
    }


OVER = ("weights", "all")
"""Sets of decisions that rank correlations are taken over."""


def _correlation(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def program_rows(entry: Mapping[str, Any]) -> list[Row]:
    """Return a row per integer program that a search solved."""
    return [
        Row(
            ", ".join(f"{words(metric)} <= {metric_value(metric, limit)}" for metric, limit in one["limits"].items()),
            (
                words("omega" if "omega" in one else "divergence"),
                f"{one.get('omega', one.get('divergence', float('nan'))):.4g}",
                f"{one['bound']:.4g}" if one.get("exact", True) and "bound" in one else "-",
                format_percent(one["gap"]),
                one["fingerprint"],
            ),
        )
        for one in (entry.get("algorithm") or {}).get("programmes") or []
    ]
