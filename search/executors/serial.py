"""Evaluate trials one after the other, in this process."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from search.executors.base import Event, Executor, Job, Result, Workload
from search.study.trial import Trial

if TYPE_CHECKING:
    from evaluators.training.checkpoint import FileCheckpoint
    from search.executors.trial_checkpoints import EndState


@dataclass(frozen=True)
class SerialSettings:
    """Settings of the serial executor: none."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}


class SerialExecutor(Executor[SerialSettings]):
    """Executor that evaluates jobs in the order of submission, each when its event is asked for.

    Args:
        workload: The evaluation to carry out.
        settings: None of its own.
    """

    Settings = SerialSettings

    def __init__(self, workload: Workload, settings: SerialSettings) -> None:
        super().__init__(workload, settings)
        self._jobs: deque[Job] = deque()

    @property
    def free(self) -> int:
        """1 while no job is queued, else 0."""
        return 0 if self._jobs else 1

    @property
    def workers(self) -> int:
        """1: this process."""
        return 1

    @property
    def busy(self) -> int:
        """1 while a job is queued, else 0."""
        return 1 if self._jobs else 0

    def submit(self, job: Job) -> None:
        """Queue a job."""
        self._jobs.append(job)

    def events(self) -> Iterator[Event]:
        """Evaluate the queued jobs in order, and yield a result for each."""
        checkpoints = self._workload.checkpoints
        while self._jobs:
            job = self._jobs[0]
            checkpoint = checkpoints.of(job.proposal) if checkpoints is not None else None
            start = checkpoints.start(job.proposal) if checkpoints is not None else None
            result = Result(self.evaluated(job, checkpoint, start))
            if self._jobs:
                self._jobs.popleft()
            yield result

    def evaluated(self, job: Job, checkpoint: FileCheckpoint | None, start: EndState | None) -> Trial:
        """Return the trial of a job."""
        return self._workload.evaluate(job, checkpoint, start)

    def cancel(self) -> None:
        """Drop the queued jobs."""
        self._jobs.clear()
