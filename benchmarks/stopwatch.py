"""Wall-clock and CPU time of repeated steps."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar
from unittest import mock

import numpy as np

T = TypeVar("T")


class Stopwatch:
    """Wall-clock and CPU seconds of every timed call, by name."""

    def __init__(self) -> None:
        self.wall: dict[str, list[float]] = {}
        self.cpu: dict[str, list[float]] = {}

    def time(self, name: str, function: Callable[..., T], *arguments: object) -> T:
        """Return what ``function`` returns on ``arguments``."""
        wall, cpu = time.perf_counter(), time.process_time()
        result = function(*arguments)
        self.cpu.setdefault(name, []).append(time.process_time() - cpu)
        self.wall.setdefault(name, []).append(time.perf_counter() - wall)
        return result

    @contextmanager
    def around(self, **places: tuple[Any, str]) -> Iterator[None]:
        """Time every call of the attributes ``(owner, name)`` for the time of the block."""
        with ExitStack() as stack:
            for label, (owner, name) in places.items():
                timed = self._timed(label, getattr(owner, name))
                stack.enter_context(mock.patch.object(owner, name, timed))
            yield

    def _timed(self, label: str, function: Callable[..., T]) -> Callable[..., T]:
        return lambda *arguments: self.time(label, function, *arguments)

    def milliseconds(self) -> dict[str, Any]:
        """Return median and quartiles of every name, on both clocks."""
        clocks = {"wall_ms": self.wall, "cpu_ms": self.cpu}
        return {name: {clock: _spread(times[name]) for clock, times in clocks.items()} for name in self.wall}

    def ratio(self, above: str, below: str) -> dict[str, float]:
        """Return the ratio of two medians on both clocks."""
        clocks = {"wall": self.wall, "cpu": self.cpu}
        return {name: statistics.median(times[above]) / statistics.median(times[below]) for name, times in clocks.items()}

    def rest(self, name: str, whole: str, parts: Sequence[str]) -> None:
        """Book what the last ``parts`` left of the last ``whole`` as ``name``."""
        for times in (self.wall, self.cpu):
            times.setdefault(name, []).append(times[whole][-1] - sum(times[part][-1] for part in parts))


def _spread(seconds: Sequence[float]) -> dict[str, float]:
    low, middle, high = np.percentile(np.array(seconds) * 1e3, [25, 50, 75]).round(4).tolist()
    return {"median": middle, "q25": low, "q75": high}
