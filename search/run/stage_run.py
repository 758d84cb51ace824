"""Resources that the pipeline gives to a stage: folder, task, device, log, notes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
from pydantic import Field
from typing_extensions import TypedDict

from evaluators.task import Task
from evaluators.training.checkpoint import FileCheckpoint
from search.output.log_records import PACKAGE
from search.output.progress import Log
from search.run.best import Best
from search.run.built import BuiltOnce
from search.run.network import Network
from search.run.record_file import RecordFile, Tell
from search.tracking.trackers import Trackers
from spaces.errors import SecateursError
from spaces.files.json_file import write_record

if TYPE_CHECKING:
    from evaluators.training.settings import TrainingSettings
    from search.config.loading import Execution
    from search.run.run_storage import RunStorage

RESULT = "result"
DENSE = "dense_same_training"
SECONDS = "seconds.json"
"""File of a step's stopwatch."""


def device_of(setting: str) -> torch.device:
    """Return the device that ``auto`` or a device's name stands for.

    Raises:
        SecateursError: PyTorch finds no such device on this machine.
    """
    if setting == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, index = setting.partition(":")
    there = 1 if kind == "cpu" else int(torch.backends.mps.is_available()) if kind == "mps" else 0
    if kind in ("cuda", "xpu"):
        there = torch.get_device_module(kind).device_count()
    if int(index or 0) >= there:
        raise SecateursError(
            f"execution.device: {setting} is not there: PyTorch finds {there} {kind} devices on this machine; "
            "expected auto or cpu"
        )
    return torch.device(setting)


class Seconds(TypedDict):
    """Content of the file of a stopwatch."""

    seconds: Annotated[float, Field(ge=0.0, le=1e12)]


class Stopwatch:
    """Wall-clock seconds of one step of a run, added up over its resumes.

    Args:
        path: JSON file of the seconds so far.
        tell: Takes a line about a damaged file.
    """

    def __init__(self, path: Path, tell: Tell = PACKAGE.warning) -> None:
        """Start from the seconds that earlier runs have written."""
        self._path = path
        self.before = self.read(path, tell)
        """Seconds of the runs before this one."""
        self._start = self._saved = time.monotonic()

    @staticmethod
    def read(path: Path, tell: Tell = PACKAGE.warning) -> float:
        """Return the seconds written at ``path``, 0 where there are none."""
        found = RecordFile(path, Seconds, "the time of this step counts from 0", tell).read()
        return 0.0 if found is None else found["seconds"]

    @property
    def seconds(self) -> float:
        """Seconds so far, over all resumes."""
        return self.before + time.monotonic() - self._start

    def save(self, every: float = 2.0) -> None:
        """Write the seconds to disk if that was last done at least ``every`` seconds ago."""
        if time.monotonic() - self._saved >= every:
            self._saved = time.monotonic()
            write_record(self._path, {"seconds": self.seconds})


@dataclass(frozen=True, kw_only=True)
class StageContext:
    """Facts that a stage reads of the pipeline around it, in a run and in a dry run alike.

    Attributes:
        step: The stage's place and name, such as ``2-search``.
        seed: The run's seed.
        task: Data, loss and score.
        device: Device of the networks.
        execution: The configuration's settings of the execution of trials.
        reference: The network that entered the first compression stage; None before it.
        log: Progress.
        folder: Folder of the files that the stage goes on from after a kill; None where it keeps none.
        built: Spaces and contexts of this process, each built once for one network.
        following: Training of the stage directly behind, where that goes on with a training that this stage has begun.
        trackers: Told of epochs and trials.
    """

    step: str
    seed: int
    task: Task
    device: torch.device
    execution: Execution
    reference: Network | None
    log: Log
    folder: Path | None = None
    built: BuiltOnce = field(default_factory=BuiltOnce)
    following: TrainingSettings | None = None
    trackers: Trackers = field(default_factory=Trackers)

    @property
    def label(self) -> str:
        """The step in words, for the log."""
        return self.step

    def warn(self, text: str) -> None:
        """Log a line that a person should look at."""
        self.log.write(f"{self.label}: {text}", logging.WARNING)

    def tell(self, text: str) -> None:
        """Log a line that a check before the run has shown already: in log.txt only."""
        self.log.write(f"{self.label}: {text}", logging.DEBUG)


@dataclass(frozen=True, kw_only=True)
class DryRun(StageContext):
    """Resources of :meth:`search.stages.base.Stage.check`, which writes nothing.

    Attributes:
        smaller: True behind a stage that removes something, so that a target may be out of reach for reasons of that stage.
        passed: A line per check that passed, for a person.
        timed: True where the check also times, on this machine, what the stage will do.
        seconds: What the stage will do, and the estimated seconds of each.
    """

    smaller: bool = False
    passed: list[str] = field(default_factory=list)
    timed: bool = False
    seconds: list[tuple[str, float]] = field(default_factory=list)

    def tell(self, text: str) -> None:
        """Add a line on a check that passed, to be shown."""
        self.passed.append(f"{self.step}: {text}")


@dataclass(frozen=True, kw_only=True)
class StageRun(StageContext):
    """Resources of a stage that runs.

    Attributes:
        name: The run's name.
        variant: ``result``, or the baseline that passes through.
        entered: Key of the network that enters: hash of everything that it depends on.
        folder: Folder of the files that the stage goes on from after a kill.
        build_task: Returns the task anew, in any process.
        best: Writer of ``best/``.
        storage: The storage of the run's studies.
        stopwatch: Seconds spent in the stage, over all resumes.
        notes: Data that the stage leaves for the report.
        found: Notes of the same stage's ``result``, for a baseline.
        begun: Training that the stage before has begun on the network that enters; None for the first stage.
    """

    name: str
    variant: str
    entered: str
    folder: Path
    build_task: Callable[[], Task]
    best: Best
    storage: RunStorage
    stopwatch: Stopwatch
    notes: dict[str, Any] = field(default_factory=dict)
    found: Mapping[str, Any] = field(default_factory=dict)
    begun: FileCheckpoint | None = None

    @property
    def label(self) -> str:
        """The step, and the baseline if it runs for one, for the log."""
        return self.step if self.variant == RESULT else f"{self.step} ({self.variant})"

    def training(self, *names: str) -> FileCheckpoint:
        """Return the checkpoint of a training, by its path in the stage's folder; a damaged one is told, and trained anew."""
        path = self.folder.joinpath(*names)
        return FileCheckpoint(path, lambda text: self.warn(f"{text}: it is trained from its start"))

    def go_on(self, name: str) -> None:
        """Make the training that the stage before has begun this stage's own, unless that is begun.

        A begun training is the first part of what this stage would train: where it is lost, the same is trained again.
        """
        own = self.training(name)
        if self.begun is not None and self.begun.path.exists() and not own.path.exists():
            self.begun.path.replace(own.path)
