"""Serial execution: trials one after the other, in this process."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from search.executors.base import Event, Executor, Job, Result, Workload


@dataclass(frozen=True)
class SerialSettings:
    """The serial executor has no settings of its own."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}


class SerialExecutor(Executor):
    """Evaluates jobs in the order they were submitted, each when its event is asked for.

    Args:
        workload: How a trial is evaluated.
        settings: None of its own.
    """

    Settings = SerialSettings

    def __init__(self, workload: Workload, settings: SerialSettings) -> None:
        self._workload = workload
        self._jobs: deque[Job] = deque()

    @property
    def free(self) -> int:
        return 0 if self._jobs else 1

    @property
    def workers(self) -> int:
        return 1

    @property
    def busy(self) -> int:
        return 1 if self._jobs else 0

    def submit(self, job: Job) -> None:
        self._jobs.append(job)

    def events(self) -> Iterator[Event]:
        checkpoints = self._workload.checkpoints
        while self._jobs:
            job = self._jobs[0]
            checkpoint = checkpoints.of(job.proposal) if checkpoints is not None else None
            start = checkpoints.start(job.proposal) if checkpoints is not None else None
            result = Result(self._workload.evaluate(job, checkpoint, start))
            if self._jobs:
                self._jobs.popleft()
            yield result

    def cancel(self) -> None:
        self._jobs.clear()
