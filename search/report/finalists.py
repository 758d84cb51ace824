"""The table of finalists: their scores before and after every part of their training, and how far the search's order held."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evaluators.metrics import Metric, find_metric
from search.report.view import Row, described_metrics, primary_of, score_metric
from search.study.rank_correlation import rank_correlation

Table = tuple[Sequence[str], Sequence[Row]]
"""Headings and rows."""


def finalist_table(entry: Mapping[str, Any], report: Mapping[str, Any]) -> Table | None:
    """Return the finalists of a search, and a row of rank correlations; None for fewer than two.

    The correlation is Spearman's, between the search's objective and the score at that time, over the finalists that reached
    it: 1 for the same order. It takes three finalists.

    Args:
        entry: An entry of ``searches``.
        report: The report that it stands in.
    """
    finalists: list[Mapping[str, Any]] = list(entry.get("finalists") or [])
    if len(finalists) < 2:
        return None
    described = described_metrics(report)
    objectives: Mapping[str, str] = entry.get("objectives") or {}
    objective = next(iter(objectives), None)
    searched = _searched(entry, objective)
    name = primary_of(report) or "top1"
    score: Metric = score_metric(name, report)
    times = list(dict.fromkeys(steps for one in finalists for steps in _scores(one)))
    heads = [
        "finalist",
        "steps trained",
        *([] if objective is None else [f"search: {find_metric(objective, described).label}"]),
    ]
    heads += [f"{score.label} {_when(steps)}" for steps in times]
    rows = []
    for one in finalists:
        before = searched.get(one.get("trial"))
        own = [] if objective is None else ["-" if before is None else find_metric(objective, described).text(before)]
        scores = _scores(one)
        cells = [score.text(scores[steps]) if steps in scores else "-" for steps in times]
        error = [str(one["error"])] if one.get("error") else []
        trained = "-" if one.get("steps") is None else str(one["steps"])
        label = "uniform start" if one.get("trial") is None else f"trial {one['trial']}"
        chosen = one.get("trial") is not None and one.get("trial") == entry.get("chosen")
        rows.append(Row(label, [trained, *own, *(error or cells)], strong=chosen))
    if objective is not None and len(finalists) > 2:
        sign = 1.0 if (objectives[objective] == "maximize") == (score.direction == "maximize") else -1.0
        values = []
        for steps in times:
            pairs = [(searched.get(one.get("trial")), _scores(one).get(steps)) for one in finalists]
            known = [(first, second) for first, second in pairs if first is not None and second is not None]
            value = rank_correlation([sign * first for first, _ in known], [second for _, second in known])
            values.append("-" if value is None else f"{value:.2f} of {len(known)}")
        rows.append(Row("rank correlation with the search", ["", "", *values]))
    return heads, rows


def _searched(entry: Mapping[str, Any], objective: str | None) -> dict[Any, float | None]:
    """Return the objective of every trial by its number."""
    return {trial.get("trial"): (trial.get("metrics") or {}).get(objective) for trial in entry.get("trials") or []}


def _scores(finalist: Mapping[str, Any]) -> dict[int | None, float]:
    """Return the scores of a finalist by steps trained; under None the one after its whole training, where rungs are none."""
    rungs: dict[int | None, float] = {
        int(steps): float(score) for steps, score in finalist.get("scores") or [] if None not in (steps, score)
    }
    if rungs:
        return rungs
    last = finalist.get("search_score")
    return {} if last is None else {None: float(last)}


def _when(steps: int | None) -> str:
    return "after training" if steps is None else "before training" if steps == 0 else f"after {steps} steps"
