"""The executor: where trials are evaluated."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from search.study.trial import Proposal, Trial

if TYPE_CHECKING:
    from evaluators.training.checkpoint import Checkpoint as TrainingCheckpoint
    from search.executors.trial_checkpoints import EndState, TrialCheckpoints


@dataclass(frozen=True)
class Job:
    """A numbered proposal on its way to a worker."""

    number: int
    proposal: Proposal


@dataclass(frozen=True)
class Result:
    """A finished trial."""

    trial: Trial


@dataclass(frozen=True)
class Saved:
    """The training of a job is kept up to here: whoever evaluates it again goes on from there."""

    number: int


@dataclass(frozen=True)
class Lost:
    """A worker was lost while it evaluated a job, which is evaluated again elsewhere.

    Attributes:
        number: The job's number.
        attempt: How often that has happened to this job now.
        reason: What became of the worker.
    """

    number: int
    attempt: int
    reason: str


@dataclass(frozen=True)
class Notice:
    """Something for the log."""

    text: str


@dataclass(frozen=True)
class Idle:
    """Nothing has happened for a moment: time to look at the clock."""


Event = Result | Saved | Lost | Notice | Idle


class Evaluate(Protocol):
    """Evaluates jobs. What goes wrong in a job makes it a failed trial, never an exception."""

    def __call__(self, job: Job, checkpoint: TrainingCheckpoint | None = None, start: EndState | None = None) -> Trial:
        """Return the measured trial.

        Args:
            job: What to measure.
            checkpoint: Where a training is kept, and gone on from.
            start: What a training starts from whose proposal names another trial for that, unless it has begun already.
        """
        ...


@dataclass(frozen=True)
class Workload:
    """What an executor is made for.

    Attributes:
        evaluate: Evaluates jobs in this process.
        pack: Returns, for a device, something that can be sent to another process, and called there gives its ``evaluate``.
        checkpoints: Where the trainings of trials are kept; None for trials without.
        threads: Torch threads of a trial.
        device: The configuration's device.
    """

    evaluate: Evaluate
    pack: Callable[[str], Callable[[], Evaluate]]
    checkpoints: TrialCheckpoints | None = None
    threads: int = 1
    device: str = "auto"


class Executor(ABC):
    """Evaluates jobs somewhere and reports what happens as events.

    Made as ``Executor(workload, settings)`` with the frozen dataclass ``Settings`` of its class; starts nothing before it is
    asked for something.
    """

    @classmethod
    def check(cls, settings: Any, threads: int) -> None:
        """Find what is wrong before anything is computed.

        Raises:
            SecateursError: Nothing can be evaluated with these settings.
        """

    @property
    @abstractmethod
    def free(self) -> int:
        """How many more jobs can be started at once."""

    @property
    @abstractmethod
    def workers(self) -> int:
        """How many jobs can be evaluated at the same time, now."""

    @property
    @abstractmethod
    def busy(self) -> int:
        """How many workers evaluate something."""

    @abstractmethod
    def submit(self, job: Job) -> None:
        """Queue a job; also while :meth:`events` is under way."""

    @abstractmethod
    def events(self) -> Iterator[Event]:
        """Yield events until no submitted job is left unfinished."""

    def cancel(self) -> None:
        """Drop every job that is not finished."""

    def close(self) -> None:
        """Release workers."""
