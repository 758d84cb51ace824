"""Check that an executor keeps its interface: a contract test for these and for your own.

Raises AssertionError with the broken promise, and returns None.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from search.executors.base import Evaluate, Executor, Job, Result, Workload
from search.study.trial import Proposal, Step, Trial
from spaces.candidate import Candidate
from spaces.testing import check_settings

if TYPE_CHECKING:
    from evaluators.training.checkpoint import Checkpoint
    from search.executors.trial_checkpoints import EndState

FAILING = 3
"""Number of the job that fails."""


def evaluate(job: Job, checkpoint: Checkpoint | None = None, start: EndState | None = None) -> Trial:
    """Return the trial of a job, ``square`` its number times itself; the job :data:`FAILING` fails."""
    if job.number == FAILING:
        return Trial(job.number, job.proposal, "failed", {}, 0.0, "ValueError: this job fails")
    return Trial(job.number, job.proposal, "complete", {"square": float(job.number**2)}, 0.0)


def made() -> Evaluate:
    """Return :func:`evaluate`, as the factory that goes to another process."""
    return evaluate


def check_executor(make: Callable[[Workload], Executor[Any]], jobs: int = 8, seconds: float = 120.0) -> None:
    """Check that every job gives one result, failed jobs too, that jobs may be added meanwhile, and that cancelled ones end.

    Args:
        make: Returns an executor of the class for a workload.
        jobs: Number of jobs.
        seconds: Time for all jobs; more is an error.
    """
    executor = make(Workload(evaluate, pack=lambda device: made))
    check_settings(type(executor).Settings)
    try:
        _check_results(executor, jobs, time.monotonic() + seconds)
        for number in range(jobs):
            executor.submit(_job(number))
        executor.cancel()
        assert not [event for event in executor.events() if isinstance(event, Result)], "cancel: a dropped job gave a result"
        assert executor.busy == 0, "cancel: expected no busy worker"
    finally:
        executor.close()


def _check_results(executor: Executor[Any], jobs: int, deadline: float) -> None:
    assert executor.workers >= 1, "workers: expected at least one"
    assert executor.free >= 1, "free: expected room for a job before the first"
    submitted = min(2, jobs)
    for number in range(submitted):
        executor.submit(_job(number))
    found: dict[int, Trial] = {}
    for event in executor.events():
        assert time.monotonic() < deadline, f"{len(found)} of {jobs} jobs were finished in time"
        assert executor.busy <= executor.workers, "busy: more workers than there are"
        if submitted < jobs:
            executor.submit(_job(submitted))
            submitted += 1
        if isinstance(event, Result):
            assert event.trial.number not in found, f"job {event.trial.number} gave two results"
            found[event.trial.number] = event.trial
    assert sorted(found) == list(range(jobs)), f"expected a result of each of {jobs} jobs, got those of {sorted(found)}"
    for number, trial in found.items():
        expected = evaluate(_job(number))
        assert (trial.state, dict(trial.metrics)) == (expected.state, dict(expected.metrics)), f"job {number}: another trial"
        assert trial.proposal == expected.proposal, f"job {number}: another proposal"
        assert bool(trial.error) == (number == FAILING), f"job {number}: expected an error of the failed job only"


def _job(number: int) -> Job:
    """Return a job; every second one is that of a step."""
    return Job(number, Proposal(Candidate({"number": number}), step=Step(8, number) if number % 2 else None))
