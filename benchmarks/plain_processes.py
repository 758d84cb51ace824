"""Evaluations in plain processes that share nothing: what the machine itself makes of a second one."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Sequence

from search.executors.base import Evaluate, Job
from search.study.trial import Trial

_evaluate: Evaluate | None = None


def _prepare(factory: Callable[[], Evaluate]) -> None:
    global _evaluate
    _evaluate = factory()


def _one(job: Job) -> Trial:
    if _evaluate is None:
        raise RuntimeError("the process was not prepared")
    return _evaluate(job, None)


def seconds_in(processes: int, factory: Callable[[], Evaluate], jobs: Sequence[Job]) -> float:
    """Return the seconds that ``processes`` take for ``jobs`` together, once each has evaluated something."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes, _prepare, (factory,)) as pool:
        pool.map(_one, [jobs[0]] * (2 * processes), chunksize=1)
        start = time.perf_counter()
        trials = list(pool.imap_unordered(_one, jobs))
        seconds = time.perf_counter() - start
    failed = next((trial.error for trial in trials if trial.error), "")
    if failed:
        raise RuntimeError(failed)
    return seconds
