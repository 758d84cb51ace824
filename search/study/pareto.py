"""Rank trials: the Pareto front, and the trial to deliver."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from search.study.problem import Problem
from search.study.trial import Trial


def complete_trials(trials: Iterable[Trial], problem: Problem) -> list[Trial]:
    """Return the trials that are complete, at full fidelity and with finite objectives, in number order."""
    return sorted(
        (
            trial
            for trial in trials
            if trial.state == "complete" and trial.proposal.fidelity == 1.0 and is_finite(trial.metrics, problem)
        ),
        key=lambda trial: trial.number,
    )


def is_finite(metrics: Mapping[str, float], problem: Problem) -> bool:
    """Return True where every objective was measured and is a finite number."""
    return all(math.isfinite(metrics.get(objective.metric, math.nan)) for objective in problem.objectives)


def gains(metrics: Mapping[str, float], problem: Problem) -> tuple[float, ...]:
    """Return all objectives with the sign that makes larger better."""
    return tuple(objective.gain(metrics) for objective in problem.objectives)


def violation(trial: Trial, problem: Problem) -> float:
    """Return the summed relative excess of a trial over the targets, 0 if it keeps them all.

    A target's metric that was not measured is taken from the space's analytic costs.
    """
    if any(target.metric not in trial.metrics for target in problem.targets):
        return problem.violation({**problem.space.costs(trial.proposal.candidate), **trial.metrics})
    return problem.violation(trial.metrics)


def dominates(first: Sequence[float], second: Sequence[float]) -> bool:
    """Return True where ``first`` is nowhere worse than ``second`` and somewhere better; larger is better."""
    return all(a >= b for a, b in zip(first, second, strict=True)) and tuple(first) != tuple(second)


def front(trials: Iterable[Trial], problem: Problem) -> list[Trial]:
    """Return the non-dominated trials, by falling first objective; of equal ones the lowest number.

    Feasible trials first: while there is one, those that exceed a target do not count; while there is none, only
    those of the least violation do.
    """
    counted = complete_trials(trials, problem)
    if not counted:
        return []
    violations = [violation(trial, problem) for trial in counted]
    least = min(violations)
    by_gains: dict[tuple[float, ...], Trial] = {}
    for trial, exceeded in zip(counted, violations, strict=True):
        if exceeded == least:
            by_gains.setdefault(gains(trial.metrics, problem), trial)
    ordered = sorted(by_gains, reverse=True)
    # A point can only be dominated by one that sorts before it.
    kept: list[tuple[float, ...]] = []
    for point in ordered:
        if not any(dominates(other, point) for other in kept):
            kept.append(point)
    return [by_gains[point] for point in kept]


def best(trials: Iterable[Trial], problem: Problem) -> Trial | None:
    """Return the trial to deliver, or None where none counts.

    Least violation first (0 is feasible), then the best first objective, then the lowest cost (of the targets'
    metrics, as shares of their limits), then the other objectives, then the lowest number.
    """
    counted = complete_trials(trials, problem)
    return min(counted, key=lambda trial: _order(trial, problem), default=None)


def ranked(trials: Iterable[Trial], problem: Problem) -> list[Trial]:
    """Return the trials that count in the order of :func:`best`, the one to deliver first."""
    return sorted(complete_trials(trials, problem), key=lambda trial: _order(trial, problem))


def _order(trial: Trial, problem: Problem) -> tuple[float, ...]:
    metrics = trial.metrics
    if any(target.metric not in metrics for target in problem.targets):
        metrics = {**problem.space.costs(trial.proposal.candidate), **metrics}
    first, *others = gains(metrics, problem)
    cost = sum(metrics[target.metric] / target.limit for target in problem.targets)
    return (problem.violation(metrics), -first, cost, *(-gain for gain in others), trial.number)
