"""Readers of report.json for tables and figures; every part of the file may be missing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from evaluators.metrics import METRICS, Metric, find_metric, metric_from_json

Json = Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """A line of a table: a name, and its cells as text."""

    name: str
    cells: Sequence[str]
    strong: bool = False


@dataclass(frozen=True)
class TrialPoint:
    """A trial in the plane of the main cost and the main score.

    Attributes:
        number: The trial.
        cost: Its cost, in the metric's unit.
        score: Its score on the search split, before retraining.
        feasible: Whether it keeps all targets.
        evaluations: Candidates measured up to it, itself included.
    """

    number: int
    cost: float
    score: float
    feasible: bool
    evaluations: int = 0


@dataclass(frozen=True)
class SearchView:
    """One search, as figures show it.

    Attributes:
        stage: The stage's name.
        score: Name of the main score.
        score_metric: Description of the main score.
        maximize: Whether a higher score is better.
        cost: Name of the main cost.
        cost_metric: Description of the main cost.
        limit: Limit on the main cost in its unit, or None.
        points: Fully measured trials in number order.
        front: The Pareto front, by rising cost.
        chosen: Number of the trial that was delivered, or None.
        evaluated: Number of trials of any kind.
        generations: True where a trial is a generation: its parent's score, on inputs of its own.
    """

    stage: str
    score: str
    score_metric: Metric
    maximize: bool
    cost: str
    cost_metric: Metric
    limit: float | None
    points: Sequence[TrialPoint]
    front: Sequence[TrialPoint]
    chosen: int | None
    evaluated: int
    generations: bool = False

    @property
    def chosen_point(self) -> TrialPoint | None:
        """The delivered trial."""
        return next((point for point in (*self.points, *self.front) if point.number == self.chosen), None)

    def better(self, first: float, second: float) -> bool:
        """Return whether score ``first`` is better than ``second``."""
        return first > second if self.maximize else first < second


def search_view(search: Json, described: Mapping[str, Metric] | None = None) -> SearchView | None:
    """Return the figures' view of one entry of ``searches``; None where its trials have no score and cost."""
    trials = [trial for trial in search.get("trials") or [] if isinstance(trial.get("metrics"), Mapping)]
    target = search.get("target") if isinstance(search.get("target"), Mapping) else {}
    objectives = search.get("objectives")
    directions: dict[str, str] = dict(objectives) if isinstance(objectives, Mapping) else {}
    metrics: dict[str, None] = {name: None for trial in trials for name in trial["metrics"]}
    known = {name: find_metric(name, described) for name in (*metrics, *directions, *METRICS)}
    score = next((name for name, way in directions.items() if way == "maximize"), None)
    score = score or next((name for name in (*directions, *METRICS) if name in metrics and not known[name].is_cost), None)
    others = [*(target or {}), *(name for name in directions if name != score), "macs"]
    cost = next((name for name in others if name in metrics and name != score), None)
    if score is None or cost is None:
        return None
    limits = {name: value for name, value in (target or {}).items() if isinstance(value, int | float)}
    counts = accumulate(trial.get("evaluations", 1) for trial in trials)
    points = [
        TrialPoint(_number(trial), trial["metrics"][cost], trial["metrics"][score], _feasible(trial, limits), count)
        for trial, count in zip(trials, counts, strict=True)
        if trial.get("fidelity", 1.0) >= 1.0 and _finite(trial["metrics"], score, cost)
    ]
    measured = {point.number: point for point in points}
    listed = [measured[_number(entry)] for entry in search.get("pareto") or [] if _number(entry) in measured]
    return SearchView(
        stage=str(search.get("stage") or search.get("name") or "search"),
        score=score,
        score_metric=known[score],
        maximize=directions.get(score, known[score].direction) == "maximize",
        cost=cost,
        cost_metric=known[cost],
        limit=limits.get(cost),
        points=points,
        front=sorted(listed, key=lambda point: point.cost),
        chosen=next((int(search[key]) for key in ("chosen", "best_trial", "best") if isinstance(search.get(key), int)), None),
        evaluated=len(search.get("trials") or []),
        generations=any("evaluations" in trial for trial in trials),
    )


def search_views(report: Json) -> list[SearchView]:
    """Return the views of all searches of a report, in order, without those that have no score and cost."""
    described = described_metrics(report)
    return [view for entry in report.get("searches") or [] if (view := search_view(entry, described)) is not None]


def _number(entry: Json) -> int:
    return int(entry.get("trial", entry.get("number", -1)))


def _finite(metrics: Json, *names: str) -> bool:
    return all(isinstance(metrics.get(name), int | float) and math.isfinite(metrics[name]) for name in names)


def _feasible(trial: Json, limits: Mapping[str, float]) -> bool:
    if isinstance(trial.get("feasible"), bool):
        return bool(trial["feasible"])
    return all(trial["metrics"].get(name, 0) <= limit for name, limit in limits.items())


def primary_of(report: Json) -> str | None:
    """Return the name of the task's primary score; None for a report of an earlier version, which does not name it."""
    return report.get("score")


def score_of(network: Json | None, primary: str | None = None) -> tuple[str, float] | None:
    """Return the name and value of a network's main score on the test split: the first of :func:`scores_of`.

    A network without the ``primary`` score, such as one whose measurement failed, has none in its place.
    """
    found = scores_of(network or {}, primary)
    if primary is not None:
        return (primary, found[primary]) if primary in found else None
    return next(iter(found.items()), None)


def scores_of(network: Json, primary: str | None = None) -> dict[str, float]:
    """Return a network's scores on the test split by name: the ``primary`` one, then top1, others, and the loss."""
    own = {name: value for name, value in (network.get("metrics") or {}).items() if name != "loss"}
    found = {"top1": network.get("top1"), **own, "loss": network.get("loss")}
    if primary in found:
        found = {primary: found[primary], **found}
    return {str(name): float(value) for name, value in found.items() if isinstance(value, int | float)}


def error_of(network: Json | None, name: str) -> float | None:
    """Return the standard error of a network's score on the test split; None where it is not known."""
    found: float | None = ((network or {}).get("standard_errors") or {}).get(name)
    return found


def trained_behind(report: Json) -> bool:
    """Return whether the result was trained after the last search; in a run without one, whether it was trained at all."""
    last = max((_place(str(entry.get("stage"))) for entry in report.get("searches") or []), default=-1)
    return any(_place(str(entry.get("stage"))) > last for entry in report.get("histories") or [])


def _place(stage: str) -> int:
    """Return the place of a stage in its pipeline, ``2`` of ``2-search``; 0 where the name has none."""
    number = stage.partition("-")[0]
    return int(number) if number.isdecimal() else 0


WORDS = {
    "uniform": "uniform ratio",
    "global_magnitude": "global magnitude",
    "integer_program": "integer program",
    "greedy_divergence": "greedy by divergence",
    "random": "random search",
    "dense_same_training": "dense, same training",
    "measured": "measured loss",
    "adam": "Adam's second moment",
    "fisher": "empirical Fisher",
    "hutchinson": "Hessian traces",
    "train": "training",
    "sparse_training": "sparse training",
    "search": "search",
    "retrain": "retraining",
    "export": "export",
}


def words(name: str) -> str:
    """Return a key in plain words; ``2-search`` becomes ``search``."""
    plain = name.partition("-")[2] if name.partition("-")[0].isdigit() else name
    return WORDS.get(plain) or find_metric(plain).label


def network_words(role: str, report: Json) -> str:
    """Return the role of a network in plain words, which fit the method: ``this result``, ``uniform bits``."""
    if role == "result":
        return "this result"
    if role == "uniform" and report.get("bits"):
        return "uniform ratio and bits" if report.get("layers") else "uniform bits"
    return words(role)


def described_metrics(report: Json) -> dict[str, Metric]:
    """Return the metrics that ``report`` describes; entries that are no description are left out."""
    entries = report.get("metrics_described")
    found = {}
    for name, entry in entries.items() if isinstance(entries, Mapping) else ():
        with suppress(ValueError, AttributeError):
            found[str(name)] = metric_from_json(entry)
    return found


def score_metric(name: str, report: Json) -> Metric:
    """Return the description of a task's score; a share where ``report`` has none."""
    described = described_metrics(report)
    if name in described or name in METRICS:
        return find_metric(name, described)
    return Metric("fraction", "maximize").named(name)
