"""The executor: where trials are evaluated."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

from search.trial import Proposal, Trial


@dataclass(frozen=True)
class Job:
    """A numbered proposal on its way to a worker."""

    number: int
    proposal: Proposal


@dataclass(frozen=True)
class Result:
    """A finished trial; other events are progress, checkpoint and lost."""

    trial: Trial


Event = Result


class Executor(ABC):
    """Evaluates jobs somewhere and reports what happens as events."""

    @property
    @abstractmethod
    def free(self) -> int:
        """How many more jobs can be started at once."""

    @abstractmethod
    def submit(self, job: Job) -> None:
        """Queue a job."""

    @abstractmethod
    def events(self) -> Iterator[Event]:
        """Yield events until no submitted job is left unfinished."""

    def cancel(self) -> None:
        """Drop every job that is not finished."""

    def close(self) -> None:
        """Release workers."""
