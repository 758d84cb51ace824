"""Every registered executor keeps the interface that the shipped kit checks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from search.executors import EXECUTORS
from search.executors.base import Executor, Workload
from search.executors.ray import RayExecutor
from search.executors.ray_settings import RaySettings
from search.executors.serial import SerialExecutor, SerialSettings
from search.executors.testing import check_executor


def serial(workload: Workload) -> Executor[Any]:
    """Return a serial executor."""
    return SerialExecutor(workload, SerialSettings())


def ray(workload: Workload) -> Executor[Any]:
    """Return an executor of two workers on a cluster of this machine."""
    return RayExecutor(workload, RaySettings(workers=2))


MAKERS = {"serial": serial, "ray": ray}


@pytest.fixture(autouse=True)
def cluster() -> Iterator[None]:
    """End a cluster that a test started."""
    import ray as running

    yield
    running.shutdown()


def test_every_executor_is_checked() -> None:
    assert set(MAKERS) == set(EXECUTORS)


@pytest.mark.parametrize("name", [pytest.param("ray", marks=pytest.mark.slow), "serial"])
def test_it_passes_the_kit(name: str) -> None:
    check_executor(MAKERS[name])


def test_the_kit_sees_a_lost_result() -> None:
    class Forgetful(SerialExecutor):
        def events(self):  # type: ignore[no-untyped-def]
            for event in super().events():
                if event.trial.number != 4:
                    yield event

    with pytest.raises(AssertionError, match="expected a result of each of 8 jobs"):
        check_executor(lambda workload: Forgetful(workload, SerialSettings()))
