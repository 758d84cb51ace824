"""Time calls, as a median with its confidence interval, one measurement at a time on a machine."""

from __future__ import annotations

import getpass
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

Run = Callable[[], float]
"""Runs a program once, and returns the milliseconds of the run."""

LEAST_REPETITIONS = 5
AT_A_TIME = 20
NOT_COUNTED = 5


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one run.

    Attributes:
        median: The median of all runs.
        low: Lower end of a 95 % interval of the median.
        high: Upper end of the interval.
        repetitions: Number of timed runs.
    """

    median: float
    low: float
    high: float
    repetitions: int

    @staticmethod
    def of(milliseconds: Sequence[float]) -> Timing:
        """Return the median and its interval by order statistics, for any distribution of the values.

        The ranks are ``n / 2 -+ 1.96 * sqrt(n) / 2``, the normal approximation of the binomial distribution of the number
        of values, of ``n``, below the true median (Conover, Practical Nonparametric Statistics, 1999, section 3.2).
        """
        ordered = sorted(milliseconds)
        count = len(ordered)
        middle = 0.5 * (ordered[(count - 1) // 2] + ordered[count // 2])
        reach = 1.96 * math.sqrt(count) / 2.0
        low = max(0, math.floor(count / 2.0 - reach))
        high = min(count - 1, math.ceil(count / 2.0 + reach))
        return Timing(middle, ordered[low], ordered[high], count)


def clock(call: Callable[[], object], threads: int = 1) -> Run:
    """Return a run that times ``call``: with one thread by the thread's processor time, with more by the wall clock.

    On a quiet machine the two agree. On a busy one, processor time leaves out waiting for the processor.
    """
    now = time.thread_time if threads == 1 else time.perf_counter

    def run() -> float:
        began = now()
        call()
        return (now() - began) * 1e3

    return run


def time_in_turn(runs: Sequence[Run], warmup: int, repetitions: int, seconds: float) -> list[list[float]]:
    """Return the milliseconds of every run: a few of each in turn, so that a disturbance affects all alike.

    The first of each turn are not counted: they find the processor's cache full of the others' data.

    Args:
        runs: The runs to time.
        warmup: Uncounted runs of each, before all others.
        repetitions: Counted runs of each.
        seconds: Seconds for each run after which no further turn is begun.
    """
    for run in runs:
        for _ in range(warmup):
            run()
    found: list[list[float]] = [[] for _ in runs]
    end = time.monotonic() + seconds * len(runs)
    for done in range(0, repetitions, AT_A_TIME):
        if done and time.monotonic() >= end:
            break
        for times, run in zip(found, runs, strict=True):
            for _ in range(NOT_COUNTED if len(runs) > 1 else 0):
                run()
            times.extend(run() for _ in range(min(AT_A_TIME, repetitions - done)))
    return found


@contextmanager
def alone() -> Iterator[None]:
    """Hold the lock of measurements of this user on this machine inside the context."""
    from filelock import FileLock

    with FileLock(Path(tempfile.gettempdir()) / f"secateurs-latency-{getpass.getuser()}.lock"):
        yield
