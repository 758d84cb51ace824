"""Resources that the pipeline gives to a stage: folder, task, device, log, notes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from evaluators.task import Task
from search.output.atomic import write_json
from search.output.progress import Log
from search.run.best import Best
from search.run.network import Network

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

RESULT = "result"
DENSE = "dense_same_training"


def device_of(setting: str) -> torch.device:
    """Return the device that ``auto`` or a device's name stands for."""
    if setting != "auto":
        return torch.device(setting)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Stopwatch:
    """Wall-clock seconds of one step of a run, added up over its resumes.

    Args:
        path: JSON file of the seconds so far.
    """

    def __init__(self, path: Path) -> None:
        """Start from the seconds that earlier runs have written."""
        self._path = path
        self._before = self.read(path)
        self._start = self._saved = time.monotonic()

    @staticmethod
    def read(path: Path) -> float:
        """Return the seconds written at ``path``, 0 where there are none."""
        return float(json.loads(path.read_text())["seconds"]) if path.exists() else 0.0

    @property
    def seconds(self) -> float:
        """Seconds so far, over all resumes."""
        return self._before + time.monotonic() - self._start

    def save(self, every: float = 2.0) -> None:
        """Write the seconds to disk if that was last done at least ``every`` seconds ago."""
        if time.monotonic() - self._saved >= every:
            self._saved = time.monotonic()
            write_json(self._path, {"seconds": self.seconds})


@dataclass(frozen=True)
class StageRun:
    """What a stage may use.

    Attributes:
        name: The run's name.
        step: The stage's place and name, such as ``2-search``.
        variant: ``result``, or the baseline that passes through.
        folder: Where the stage may keep what it needs to go on after a kill.
        seed: The run's seed.
        task: Data, loss and score.
        build_task: Returns the task anew, in any process.
        device: Where networks run.
        execution: The configuration's settings of how trials are executed.
        reference: The network that entered the first compression stage; None before it.
        best: Writes ``best/``.
        storage: The run's Optuna storage; None while a pipeline is only checked.
        log: Progress.
        stopwatch: Seconds spent in the stage, over all resumes.
        notes: What the stage leaves for the report; JSON.
        found: Notes of the same stage's ``result``, for a baseline.
    """

    name: str
    step: str
    variant: str
    folder: Path
    seed: int
    task: Task
    build_task: Callable[[], Task]
    device: torch.device
    execution: Any
    reference: Network | None
    best: Best
    storage: BaseStorage | None
    log: Log
    stopwatch: Stopwatch
    notes: dict[str, Any] = field(default_factory=dict)
    found: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The step, and the baseline if it runs for one, for the log."""
        return self.step if self.variant == RESULT else f"{self.step} ({self.variant})"
