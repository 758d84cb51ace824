"""Driving a search without a run folder, as the benchmarks do."""

from __future__ import annotations

from collections.abc import Iterator

from search.algorithms.base import Algorithm
from search.evaluation import Recipe
from search.executors.base import Job
from search.trial import Trial

BATCH = 64


def measured(algorithm: Algorithm, recipe: Recipe) -> Iterator[Trial]:
    """Yield every trial of a whole search, each told to ``algorithm`` before the next is measured.

    Raises:
        RuntimeError: A trial failed.
    """
    number = 0
    while not algorithm.finished:
        for proposal in algorithm.ask(BATCH):
            trial = recipe.evaluate(Job(number, proposal))
            if trial.error:
                raise RuntimeError(trial.error)
            number += 1
            algorithm.tell(trial)
            yield trial
