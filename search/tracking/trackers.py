"""All trackers of a run as one, which can't harm the run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from search.output.log_records import PACKAGE
from search.tracking.base import TrackedRun, Tracker
from spaces.errors import error_line


@dataclass
class Trackers:
    """Trackers that are told of every event; by default none.

    Attributes:
        open: The trackers that work.
        tell: Takes a line about one that failed, and is told no more.
    """

    open: list[Tracker[Any]] = field(default_factory=list)
    tell: Callable[[str], None] = PACKAGE.warning

    @contextmanager
    def following(self, run: TrackedRun) -> Iterator[None]:
        """Tell of the beginning and of the end of a run around the context."""
        self._each(lambda tracker: tracker.begin(run))
        failed = True
        try:
            yield
            failed = False
        finally:
            self._each(lambda tracker: tracker.close(failed))

    def stage(self, label: str) -> None:
        """Tell of the beginning of a stage."""
        self._each(lambda tracker: tracker.stage(label))

    def epoch(self, label: str, number: int, values: Mapping[str, float]) -> None:
        """Tell of an epoch of a stage's training."""
        self._each(lambda tracker: tracker.epoch(label, number, _finite(values)))

    def trial(self, label: str, number: int, values: Mapping[str, float]) -> None:
        """Tell of a trial that was measured."""
        self._each(lambda tracker: tracker.trial(label, number, _finite(values)))

    def result(self, report: Mapping[str, Any], folder: Path) -> None:
        """Tell what came out, by the content of a report.json, with the files in the run folder that people want to keep."""
        rows = {"": report["result"], "reference/": report["reference"]}
        rows |= {f"{name}/": row for name, row in (report.get("baselines") or {}).items()}
        values = {f"{prefix}{name}": value for prefix, row in rows.items() for name, value in _numbers(row)}
        files = [folder / name for name in ("report.html", "report.json", "best/weights.safetensors", "best/architecture.json")]
        self._each(lambda tracker: tracker.result(_finite(values), [path for path in files if path.exists()]))

    def _each(self, told: Callable[[Tracker[Any]], None]) -> None:
        for tracker in list(self.open):
            try:
                told(tracker)
            except Exception as error:
                self.open.remove(tracker)
                name = type(tracker).__name__
                self.tell(f"the tracker {name} failed, and is told no more of this run: {error_line(error)}")


def _numbers(row: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield the numbers of a network's row in a report, the metrics of a task of one's own among them."""
    flat: Mapping[str, Any] = {**row, **(row.get("metrics") or {})}
    for name, value in flat.items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield name, float(value)


def _finite(values: Mapping[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items() if math.isfinite(value)}


def flattened(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield the dotted path and the text of every value of a configuration."""
    entries: Sequence[tuple[Any, Any]] = ()
    if isinstance(value, Mapping):
        entries = list(value.items())
    elif isinstance(value, list | tuple):
        entries = list(enumerate(value))
    else:
        yield path, str(value)
    for key, below in entries:
        yield from flattened(below, f"{path}.{key}" if path else str(key))
