"""Trials on a real Ray cluster: the same ones as without, whoever is lost on the way."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from evaluators.task import Task
from evaluators.tasks.settings import build_task
from search.algorithms.base import Algorithm
from search.executors.base import Event, Job, Lost, Notice, Result, Saved, Workload
from search.executors.ray import RayExecutor
from search.executors.ray_cluster import ClusterError, Share, connect
from search.executors.ray_settings import RaySettings
from search.executors.serial import SerialExecutor, SerialSettings
from search.executors.trial_evaluator import TrialEvaluator
from search.stages.search.asynchronous_loop import AsynchronousLoop
from search.study.problem import Objective, Problem
from search.study.trial import Proposal, Trial
from spaces.base import SearchSpace
from spaces.candidate import Candidate
from spaces.domains import Choice, Domain
from spaces.errors import SecateursError
from tests.processes import processes
from tests.search.executors.digits_search import (
    TASK,
    kill_workers,
    make_evaluator,
    make_problem,
    make_workload,
    search,
    timeless,
)
from tests.search.executors.formula import Formula
from tests.search.executors.rising_trials import (
    STEPS,
    Rising,
    Rungs,
    steps,
    training_evaluator,
    training_problem,
    training_workload,
)

PLACES = 4


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """Start one cluster for all tests here, in a process that has imported Ray before, as a user's own program may have."""
    import ray

    settings = RaySettings(workers=PLACES)
    connect(settings, Share.of(settings, threads=1))
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def evaluator() -> TrialEvaluator:
    return make_evaluator(pause=0.02)


@pytest.fixture(scope="module")
def serial(evaluator: TrialEvaluator, tmp_path_factory: pytest.TempPathFactory) -> list[Trial]:
    """Return the trials of the search in this process."""
    folder = tmp_path_factory.mktemp("serial")
    return search(folder, make_problem(evaluator), SerialExecutor(make_workload(evaluator, folder), SerialSettings()))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_any_number_of_workers_gives_the_same_trials(
    evaluator: TrialEvaluator, serial: list[Trial], tmp_path: Path, workers: int
) -> None:
    executor = RayExecutor(make_workload(evaluator, tmp_path), RaySettings(workers=workers))
    found = search(tmp_path, make_problem(evaluator), executor)
    assert timeless(found) == timeless(serial)
    assert sum(trial.state == "complete" for trial in found) >= 20


class Losing(RayExecutor):
    """Loses its workers while they are known to be at work, until that has cost it ``kills`` jobs."""

    kills = 1

    def events(self) -> Iterator[Event]:
        for event in super().events():
            self.kills -= isinstance(event, Lost)
            if self.kills > 0 and any(worker.begun and worker.jobs for worker in self._pool.workers):
                kill_workers()
            yield event


@pytest.mark.parametrize("kills", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_lost_workers_change_nothing(evaluator: TrialEvaluator, serial: list[Trial], tmp_path: Path, kills: int) -> None:
    lines: list[str] = []
    executor = Losing(make_workload(evaluator, tmp_path), RaySettings(workers=2))
    executor.kills = kills
    found = search(tmp_path, make_problem(evaluator), executor, log=lines.append)
    assert executor.kills <= 0
    assert timeless(found) == timeless(serial)
    assert any("its worker was lost" in line and "process died" in line for line in lines), lines


def evaluated(executor: RayExecutor, names: list[str]) -> tuple[list[Trial], list[object]]:
    for number, name in enumerate(names):
        executor.submit(Job(number, Proposal(Candidate({"name": name}))))
    events = list(executor.events())
    return [event.trial for event in events if isinstance(event, Result)], list(events)


@pytest.fixture
def formula() -> Iterator[Callable[..., RayExecutor]]:
    made: list[RayExecutor] = []

    def make(**settings: int) -> RayExecutor:
        workload = Workload(Formula().evaluate, lambda device: Formula())
        made.append(RayExecutor(workload, RaySettings(**settings)))
        return made[-1]

    yield make
    for executor in made:
        executor.close()


@pytest.mark.parametrize("name", ["deadly", "quits"])
def test_a_trial_that_always_loses_its_worker_fails_and_the_rest_goes_on(
    formula: Callable[..., RayExecutor], name: str
) -> None:
    trials, events = evaluated(formula(workers=2, retries=1), ["a", "b", name, "c", "d", "e"])
    assert sorted(trial.number for trial in trials) == list(range(6))
    failed = [trial for trial in trials if trial.state == "failed"]
    assert [trial.number for trial in failed] == [2]
    # A worker may be gone before the driver hears that it has begun: such a loss is not the trial's, but it is counted.
    told = re.fullmatch(r"WorkerLostError: (\d+) workers were lost with this trial, the last because .*", failed[0].error)
    assert told is not None, failed[0].error
    assert int(told[1]) >= 2
    assert [event.attempt for event in events if isinstance(event, Lost) and event.number == 2] in ([], [1])


def test_workers_import_no_torch_of_their_own_and_share_the_work(formula: Callable[..., RayExecutor]) -> None:
    executor = formula(workers=2)
    trials, _ = evaluated(executor, ["slow", "slow", *["quick"] * 200])
    assert {trial.metrics["torch"] for trial in trials} == {0.0}
    assert len({trial.metrics["pid"] for trial in trials}) == 2
    assert sorted(trial.number for trial in trials) == list(range(202))


def test_workers_are_as_many_as_fit(formula: Callable[..., RayExecutor]) -> None:
    executor = formula()
    told: list[object] = []
    deadline = time.monotonic() + 120
    while executor.workers < PLACES and time.monotonic() < deadline:
        told += evaluated(executor, ["quick"])[1]
    trials, events = evaluated(executor, ["slow"] * PLACES)
    assert len({trial.metrics["pid"] for trial in trials}) == PLACES == executor.workers == executor.free
    assert any(isinstance(event, Notice) and "4 of 4 workers ready" in event.text for event in [*told, *events])
    executor.close()
    assert not executor.workers


def test_workers_join_when_a_node_does(formula: Callable[..., RayExecutor], monkeypatch: pytest.MonkeyPatch) -> None:
    places = 1
    monkeypatch.setattr("search.executors.ray_pool.room", lambda share: places)
    executor = formula()
    evaluated(executor, ["quick"])
    assert executor.workers == 1
    places = 2
    deadline = time.monotonic() + 120
    while executor.workers < 2 and time.monotonic() < deadline:
        evaluated(executor, ["quick"])
    trials, _ = evaluated(executor, ["slow", "slow"])
    assert len({trial.metrics["pid"] for trial in trials}) == 2 == executor.workers


def test_more_workers_than_fit_is_an_error(formula: Callable[..., RayExecutor]) -> None:
    with pytest.raises(ClusterError, match=r"5 workers of 1 CPUs each do not fit on the cluster.*room for 4"):
        formula(workers=5).submit(Job(0, Proposal(Candidate({"name": "a"}))))


def test_cancelled_jobs_give_no_result(formula: Callable[..., RayExecutor]) -> None:
    executor = formula(workers=1)
    evaluated(executor, ["a"])
    for number in range(3):
        executor.submit(Job(number, Proposal(Candidate({"name": "slow"}))))
    executor.cancel()
    started = time.monotonic()
    assert [event for event in executor.events() if isinstance(event, Result)] == []
    assert time.monotonic() - started < 1.0
    trials, _ = evaluated(executor, ["b"])
    assert [trial.number for trial in trials] == [0]


def test_a_worker_with_other_data_is_an_error_that_says_so(
    evaluator: TrialEvaluator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.executors.ray_pool.GIVE_UP_AFTER", 1)

    def other() -> Task:
        data = replace(TASK.data, settings=replace(TASK.data.settings, search_size=200))
        return build_task(replace(TASK, data=data))

    workload = make_workload(evaluator, tmp_path, build=other)
    with pytest.raises(SecateursError, match="another model or other data than the driver"):
        search(tmp_path, make_problem(evaluator), RayExecutor(workload, RaySettings(workers=1)))


class Names(SearchSpace):
    """Names, which stand for no networks."""

    @property
    def domains(self) -> Mapping[str, Domain]:
        return {"name": Choice(("slow", *(f"quick {number}" for number in range(12))))}

    def prepare(self, model: nn.Module, candidate: Candidate) -> nn.Module:
        raise NotImplementedError

    def convert(self, prepared: nn.Module) -> nn.Module:
        raise NotImplementedError

    def transformation(self, candidate: Candidate) -> dict[str, Any]:
        raise NotImplementedError


class Counting(Algorithm):
    """Proposes names, the first of which is slow to evaluate."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.asked = self.told = 0

    def ask(self, limit: int) -> list[Proposal]:
        numbers = range(self.asked, min(self.asked + limit, self.total))
        self.asked += len(numbers)
        return [Proposal(Candidate({"name": "slow" if number == 0 else f"quick {number}"})) for number in numbers]

    def tell(self, trial: Trial) -> None:
        self.told += 1

    @property
    def finished(self) -> bool:
        return self.told == self.total

    @property
    def budget(self) -> int | None:
        return self.total


def test_asynchronous_nobody_waits_for_a_straggler(formula: Callable[..., RayExecutor], tmp_path: Path) -> None:
    found = search(
        tmp_path,
        Problem(Names(), [Objective("top1", "maximize")], [], {}),
        formula(workers=2),
        AsynchronousLoop,
        algorithm=Counting(12),
    )
    assert [trial.number for trial in found] == list(range(12))
    names = [trial.proposal.candidate.values["name"] for trial in found]
    assert names[-1] == "slow"
    assert len(set(names)) == 12


def test_the_cluster_is_seen_from_this_machine_only() -> None:
    ours = {os.getpid(), *processes("")}
    inodes = set()
    for pid in ours:
        for link in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                inodes.add(str(link.readlink()))
            except OSError:
                continue
    listening = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            if state == "0A" and f"socket:[{rest[5]}]" in inodes:
                listening.append(local.partition(":")[0])
    assert listening
    loopback = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
    assert set(listening) <= loopback


def test_trials_get_the_threads_that_the_driver_was_told(evaluator: TrialEvaluator, tmp_path: Path) -> None:
    here = torch.get_num_threads()
    try:
        make_workload(evaluator, tmp_path, threads=here + 1).pack("cpu")()
        assert torch.get_num_threads() == here + 1
    finally:
        torch.set_num_threads(here)


@pytest.mark.slow
def test_a_lost_workers_training_goes_on_elsewhere(tmp_path: Path) -> None:
    whole, cut = training_evaluator(tmp_path / "whole.log"), training_evaluator(tmp_path / "cut.log", seconds=0.02)
    jobs = [Job(number, proposal) for number, proposal in enumerate(Rising(training_problem(whole)).waiting[:2])]
    executor = RayExecutor(training_workload(cut, tmp_path), RaySettings(workers=1))
    found: list[Trial] = []
    killed = False
    for job in jobs:
        executor.submit(job)
    for event in executor.events():
        if isinstance(event, Saved) and not killed:
            kill_workers()
            killed = True
        if isinstance(event, Result):
            found.append(event.trial)
    executor.close()
    assert killed
    assert timeless(found) == timeless([whole.evaluate(job) for job in jobs])
    first, second = steps(tmp_path / "cut.log").values()
    # The first epoch was kept; what was made of the second one when its worker died, was made again.
    assert first[:STEPS] == list(range(1, STEPS + 1))
    assert first[-2 * STEPS :] == list(range(STEPS + 1, 3 * STEPS + 1))
    assert second == list(range(1, 3 * STEPS + 1))


@pytest.mark.slow
def test_rungs_on_workers_that_are_lost_are_the_rungs_without(tmp_path: Path) -> None:
    folder, whole = tmp_path / "serial", training_evaluator(tmp_path / "whole.log")
    serial = SerialExecutor(training_workload(whole, folder), SerialSettings())
    expected = search(folder, training_problem(whole), serial, algorithm=Rungs(training_problem(whole)))
    cut = training_evaluator(tmp_path / "cut.log", seconds=0.01)
    executor = RayExecutor(training_workload(cut, tmp_path), RaySettings(workers=2))
    killed: list[int] = []

    def kill(trials: list[Trial]) -> None:
        # While the second rung is under way, which starts from end states that the driver has.
        if not killed:
            killed.append(len(trials))
            kill_workers()

    found = search(tmp_path, training_problem(cut), executor, algorithm=Rungs(training_problem(cut)), on_batch=kill)
    assert killed == [3]
    assert timeless(found) == timeless(expected)
