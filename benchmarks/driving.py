"""Driving a search without a run folder, as the benchmarks do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from search.algorithms.base import Algorithm
from search.executors.base import Job
from search.executors.trial_checkpoints import TrialCheckpoints
from search.executors.trial_evaluator import TrialEvaluator
from search.study.trial import Trial

BATCH = 64


def measured(
    algorithm: Algorithm[Any], evaluator: TrialEvaluator, checkpoints: TrialCheckpoints | None = None
) -> Iterator[Trial]:
    """Yield every trial of a whole search, each told to ``algorithm`` before the next is measured.

    Args:
        algorithm: What to try next.
        evaluator: How it is measured.
        checkpoints: Where trainings and their end states are kept, of candidates that are trained. All stay there.

    Raises:
        RuntimeError: A trial failed.
    """
    number = 0
    while not algorithm.finished:
        for proposal in algorithm.ask(BATCH):
            job = Job(number, proposal)
            if checkpoints is None:
                trial = evaluator.evaluate(job)
            else:
                trial = evaluator.evaluate(job, checkpoints.of(proposal), checkpoints.start(proposal))
                checkpoints.keep(trial)
            if trial.error:
                raise RuntimeError(trial.error)
            number += 1
            algorithm.tell(trial)
            yield trial
