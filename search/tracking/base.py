"""The interface of trackers: the events of a run, in the order in which they happen."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

SettingsT = TypeVar("SettingsT")


@dataclass(frozen=True)
class TrackedRun:
    """Facts about a run that a tracker is told at its beginning.

    Attributes:
        name: Name of the run.
        run_id: Identifier of the run, the same after a resume.
        folder: The run folder.
        resumed: True if the run goes on with an earlier one.
        config: The whole configuration as plain data, without passwords.
    """

    name: str
    run_id: str
    folder: Path
    resumed: bool
    config: Mapping[str, Any]


class Tracker(ABC, Generic[SettingsT]):
    """Sink of a run's events. What a tracker raises switches it off, with a warning, and never ends the run.

    Events of what a resumed run reads from its record are not repeated: a tracker goes on with the entry that has the run's
    identifier. A run that is killed between a record and its event leaves that event out.

    Args:
        settings: Options of the tracker.
    """

    Settings: ClassVar[type]

    def __init__(self, settings: SettingsT) -> None:
        """Keep the settings; nothing is opened yet."""
        self.settings = settings

    @abstractmethod
    def begin(self, run: TrackedRun) -> None:
        """Open the entry of a run, or the one that it goes on with."""

    def stage(self, label: str) -> None:
        """Take the beginning of a stage; ``label`` is its place and name, ``2-search``, and the baseline that it runs for."""

    @abstractmethod
    def epoch(self, label: str, number: int, values: Mapping[str, float]) -> None:
        """Take an epoch of the training of a stage.

        Args:
            label: The stage.
            number: Epochs that are done, from 1.
            values: Numbers by name, such as ``loss``.
        """

    @abstractmethod
    def trial(self, label: str, number: int, values: Mapping[str, float]) -> None:
        """Take a trial of a search that was measured.

        Args:
            label: The stage.
            number: Number of the trial, from 0.
            values: Its metrics by name.
        """

    @abstractmethod
    def result(self, values: Mapping[str, float], files: Sequence[Path]) -> None:
        """Take what came out.

        Args:
            values: Numbers by name: ``top1``, ``macs`` and the like of the result, ``reference/...``, and of every baseline.
            files: The report and the weights.
        """

    @abstractmethod
    def close(self, failed: bool) -> None:
        """Close the entry; ``failed`` is True if the run ended by an error or was stopped."""
