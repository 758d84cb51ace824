"""The trials of a search as the report holds them."""

from __future__ import annotations

from typing import Any

from search.study.pareto import violation
from search.study.problem import Problem
from search.study.trial import Trial


def front_point(trial: Trial, problem: Problem) -> dict[str, Any]:
    """Return a trial as a point of the front: number, fingerprint and the value of each objective."""
    values = {objective.metric: trial.metrics[objective.metric] for objective in problem.objectives}
    return {"trial": trial.number, "fingerprint": trial.proposal.candidate.fingerprint, **values}


def trial_row(trial: Trial, problem: Problem) -> dict[str, Any]:
    """Return a trial as a row: what was proposed, what came of it, and whether it keeps the targets of ``problem``."""
    return {
        "trial": trial.number,
        "fingerprint": trial.proposal.candidate.fingerprint,
        "fidelity": trial.proposal.fidelity,
        "state": trial.state,
        "metrics": dict(trial.metrics),
        "feasible": trial.state == "complete" and violation(trial, problem) == 0.0,
        **_compared(trial),
        **({"error": trial.error} if trial.error else {}),
    }


def _compared(trial: Trial) -> dict[str, int]:
    """Return the number of candidates that were measured for a trial, where that is a generation of several."""
    steps = trial.proposal.notes.get("steps") or ()
    return {"evaluations": sum(len(step["candidates"]) for step in steps)} if steps else {}
