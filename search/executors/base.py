"""Interface of executors, which evaluate trials and report events."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

from search.study.trial import Proposal, Trial

if TYPE_CHECKING:
    from evaluators.training.checkpoint import Checkpoint as TrainingCheckpoint
    from evaluators.training.checkpoint import FileCheckpoint
    from search.executors.training_group import PackedWork
    from search.executors.trial_checkpoints import EndState

S = TypeVar("S")


@dataclass(frozen=True)
class Job:
    """Numbered proposal on its way to a worker."""

    number: int
    proposal: Proposal


class Event:
    """Report of an executor to its caller.

    Class attributes:
        level: Level of :attr:`line` in the standard library's logging.
    """

    level: ClassVar[int] = logging.INFO

    @property
    def finished(self) -> Trial | None:
        """The trial of a job that is finished; None for an event that finishes no job."""
        return None

    @property
    def line(self) -> str:
        """Text for the log, without a line end; empty for an event that is not logged."""
        return ""


@dataclass(frozen=True)
class Result(Event):
    """Finished trial."""

    trial: Trial

    @property
    def finished(self) -> Trial:
        """The trial."""
        return self.trial


@dataclass(frozen=True)
class Saved(Event):
    """Saved training of a job: a second evaluation goes on from there."""

    number: int


@dataclass(frozen=True)
class Lost(Event):
    """Loss of a worker during a job, which is evaluated again by another.

    Attributes:
        number: The job's number.
        attempt: Number of workers lost with this job so far.
        reason: Cause of the loss in a few words.
    """

    level = logging.WARNING

    number: int
    attempt: int
    reason: str

    @property
    def line(self) -> str:
        """Job, reason and number of workers lost with the job."""
        return f"trial {self.number}: its worker was lost ({self.reason}), {self.attempt} so far; evaluated again"


@dataclass(frozen=True)
class Notice(Event):
    """Line for the log."""

    text: str

    @property
    def line(self) -> str:
        """The text."""
        return self.text


@dataclass(frozen=True)
class Idle(Event):
    """Second without any other event, at which the caller can look at the clock."""


class Evaluate(Protocol):
    """Function that evaluates jobs. An error in a job gives a failed trial, never an exception."""

    def __call__(self, job: Job, checkpoint: TrainingCheckpoint | None = None, start: EndState | None = None) -> Trial:
        """Return the measured trial.

        Args:
            job: The proposal to measure, with its number.
            checkpoint: Saved state of the job's training, read first and written after each epoch.
            start: End state of the trial in `proposal.warm_start`. Ignored if `checkpoint` exists.
        """
        ...


class SavedTrainings(Protocol):
    """Files of trainings under way, and of what they start from."""

    def of(self, proposal: Proposal) -> FileCheckpoint:
        """Return the checkpoint of a proposal's training."""
        ...

    def start(self, proposal: Proposal) -> EndState | None:
        """Return what a proposal's training starts from; None for nothing but its candidate, or where it has begun."""
        ...


@dataclass(frozen=True)
class Workload:
    """Evaluation that an executor carries out, and its resources.

    Attributes:
        evaluate: Evaluates jobs in this process.
        pack: Returns, for a device, a picklable factory of ``evaluate`` for another process.
        checkpoints: Saved trainings of trials; None for trials that do not train.
        threads: Torch threads of a trial.
        device: The configuration's device.
        pack_together: Returns, for a device, a picklable factory of the same evaluation for one of several processes that
            train a network together; None for an evaluation that does not train.
    """

    evaluate: Evaluate
    pack: Callable[[str], Callable[[], Evaluate]]
    checkpoints: SavedTrainings | None = None
    threads: int = 1
    device: str = "auto"
    pack_together: Callable[[str], PackedWork] | None = None


class Executor(ABC, Generic[S]):
    """Evaluator of jobs that reports events.

    Starts nothing before the first call of a method or property.

    Args:
        workload: Evaluation to carry out.
        settings: Options, an instance of ``Settings``.

    Class attributes:
        Settings: Frozen dataclass of the options that the configuration may give.
    """

    Settings: ClassVar[type[Any]]

    def __init__(self, workload: Workload, settings: S) -> None:
        """Keep workload and settings."""
        self._workload = workload
        self._settings = settings

    @classmethod
    def check(cls, settings: S, threads: int) -> None:
        """Check the settings before anything is computed.

        Raises:
            SecateursError: Nothing can be evaluated with these settings.
        """

    @property
    @abstractmethod
    def free(self) -> int:
        """Number of further jobs that can be started at once."""

    @property
    @abstractmethod
    def workers(self) -> int:
        """Number of jobs that can be evaluated at the same time, now."""

    @property
    @abstractmethod
    def busy(self) -> int:
        """Number of workers that are evaluating a job."""

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
