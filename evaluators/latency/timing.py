"""Timing: how long something takes, as a median with its interval, one measurement at a time on a machine."""

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
"""Does something once, and returns the milliseconds that it took."""

LEAST_REPETITIONS = 5
AT_A_TIME = 20
NOT_COUNTED = 5


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one run.

    Attributes:
        median: The median of all runs.
        low: Lower end of a 95 % interval of the median.
        high: Its upper end.
        repetitions: How many runs were timed.
    """

    median: float
    low: float
    high: float
    repetitions: int

    @staticmethod
    def of(milliseconds: Sequence[float]) -> Timing:
        """Return the median and its interval by order statistics, which assumes nothing of the distribution.

        The ranks are ``n / 2 -+ 1.96 * sqrt(n) / 2``, the normal approximation of the binomial distribution of how many of
        ``n`` values lie below the true median (Conover, Practical Nonparametric Statistics, 1999, section 3.2).
        """
        ordered = sorted(milliseconds)
        count = len(ordered)
        middle = 0.5 * (ordered[(count - 1) // 2] + ordered[count // 2])
        reach = 1.96 * math.sqrt(count) / 2.0
        low = max(0, math.floor(count / 2.0 - reach))
        high = min(count - 1, math.ceil(count / 2.0 + reach))
        return Timing(middle, ordered[low], ordered[high], count)


def clock(call: Callable[[], object], threads: int = 1) -> Run:
    """Return ``call`` as a run that is timed: with one thread in time that it computes, with more by the wall clock.

    On a quiet machine the two are the same. On another, what only waits for its turn is not slower for it.
    """
    now = time.thread_time if threads == 1 else time.perf_counter

    def run() -> float:
        began = now()
        call()
        return (now() - began) * 1e3

    return run


def time_in_turn(runs: Sequence[Run], warmup: int, repetitions: int, seconds: float) -> list[list[float]]:
    """Return the milliseconds of every run: a few of each in turn, so that what disturbs one disturbs all alike.

    The first of these are not counted: they find the processor's cache full of the others' data.

    Args:
        runs: What is timed.
        warmup: Runs of each that are not counted, before all others.
        repetitions: Runs of each that are.
        seconds: After so many seconds for each no more are begun, once there are a few.
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
    """Wait until no other measurement of this user is under way on this machine, and keep others waiting meanwhile."""
    from filelock import FileLock

    with FileLock(Path(tempfile.gettempdir()) / f"secateurs-latency-{getpass.getuser()}.lock"):
        yield
