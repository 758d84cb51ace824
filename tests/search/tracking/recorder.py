"""Trackers of a person's own: one that writes its events down, one that fails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search.tracking.base import TrackedRun, Tracker

EVENTS: list[tuple[Any, ...]] = []


@dataclass(frozen=True)
class Settings:
    pass


class Recorder(Tracker[Settings]):
    """Writes events into :data:`EVENTS`."""

    Settings = Settings

    def begin(self, run: TrackedRun) -> None:
        EVENTS.append(("begin", run.name, run.run_id, run.resumed, run.config["storage"]))

    def stage(self, label: str) -> None:
        EVENTS.append(("stage", label))

    def epoch(self, label: str, number: int, values: Mapping[str, float]) -> None:
        EVENTS.append(("epoch", label, number, dict(values)))

    def trial(self, label: str, number: int, values: Mapping[str, float]) -> None:
        EVENTS.append(("trial", label, number, dict(values)))

    def result(self, values: Mapping[str, float], files: Sequence[Path]) -> None:
        EVENTS.append(("result", dict(values), [path.name for path in files]))

    def close(self, failed: bool) -> None:
        EVENTS.append(("close", failed))


class Failing(Recorder):
    """Fails at the first epoch."""

    def epoch(self, label: str, number: int, values: Mapping[str, float]) -> None:
        raise OSError("the server is gone")
