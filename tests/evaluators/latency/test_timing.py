from __future__ import annotations

import multiprocessing
import time
from multiprocessing.queues import Queue

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluators.latency.timing import AT_A_TIME, NOT_COUNTED, Timing, alone, clock, time_in_turn


@given(st.lists(st.floats(min_value=0.001, max_value=1e3), min_size=1, max_size=200))
def test_the_interval_holds_the_median_and_lies_within_what_was_seen(values: list[float]) -> None:
    timing = Timing.of(values)
    assert min(values) <= timing.low <= timing.median <= timing.high <= max(values)
    assert timing.repetitions == len(values)
    assert timing == Timing.of(values[::-1])


def test_the_interval_has_the_ranks_of_the_binomial_distribution() -> None:
    timing = Timing.of([float(value) for value in range(1, 101)])
    assert timing.median == 50.5
    # 95 % of the time, between 40 and 60 of 100 values lie below the true median.
    assert (timing.low, timing.high) == (41.0, 61.0)


def test_the_interval_covers_the_true_median_as_often_as_it_says() -> None:
    import numpy as np

    rng = np.random.default_rng(0)
    samples = rng.exponential(size=(1000, 40))
    found = [Timing.of(list(row)) for row in samples]
    covered = np.mean([timing.low <= np.log(2.0) <= timing.high for timing in found])
    assert 0.93 < covered < 0.99


def test_a_few_runs_go_in_turn_and_the_first_of_them_is_not_counted() -> None:
    order: list[str] = []

    def run(name: str) -> float:
        order.append(name)
        return float(len(order))

    times = time_in_turn([lambda: run("a"), lambda: run("b")], warmup=2, repetitions=AT_A_TIME + 1, seconds=10.0)
    few, last = NOT_COUNTED + AT_A_TIME, NOT_COUNTED + 1
    assert "".join(order) == "aabb" + "a" * few + "b" * few + "a" * last + "b" * last
    assert times[0] == [*(float(4 + last + place) for place in range(AT_A_TIME)), float(4 + 2 * few + last)]
    assert len(times[1]) == AT_A_TIME + 1


def test_one_thing_alone_needs_no_run_that_is_not_counted() -> None:
    calls: list[int] = []
    time_in_turn([lambda: float(len(calls)) + (calls.append(1) or 0.0)], warmup=0, repetitions=7, seconds=10.0)
    assert len(calls) == 7


def test_no_more_runs_are_begun_when_time_is_up_but_a_few_there_always_are() -> None:
    times = time_in_turn([lambda: 1.0], warmup=0, repetitions=1000, seconds=1e-9)
    assert len(times[0]) == AT_A_TIME


def test_one_thread_is_timed_while_it_computes_and_more_by_the_wall_clock() -> None:
    assert clock(lambda: time.sleep(0.02), threads=1)() < 15.0
    assert clock(lambda: time.sleep(0.02), threads=2)() >= 20.0


def measure(name: str, seen: Queue[str]) -> None:
    with alone():
        seen.put(f"{name} in")
        time.sleep(0.2)
        seen.put(f"{name} out")


def test_one_measurement_at_a_time_is_made_on_a_machine() -> None:
    context = multiprocessing.get_context("fork")
    seen: Queue[str] = context.Queue()
    processes = [context.Process(target=measure, args=(name, seen)) for name in "ab"]
    for process in processes:
        process.start()
    found = [seen.get(timeout=30) for _ in range(4)]
    for process in processes:
        process.join()
    assert found in (["a in", "a out", "b in", "b out"], ["b in", "b out", "a in", "a out"])


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_runs_have_an_interval_too(count: int) -> None:
    timing = Timing.of([1.0, 2.0, 3.0][:count])
    assert timing.low == 1.0
    assert timing.high == float(count)
