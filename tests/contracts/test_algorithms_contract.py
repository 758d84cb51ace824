"""What every registered algorithm promises that searches keep-masks; those for bits only have a contract of their own."""

import dataclasses
import itertools
import json
import random

import numpy as np
import pytest

from search.algorithms import ALGORITHMS
from search.study.pareto import front, gains
from search.study.trial import Trial
from spaces.errors import SecateursError
from spaces.registry import lookup
from tests.paths import REPOSITORY
from tests.search.algorithms.synthetic_space import (
    MACS,
    TOP1,
    ImageByImage,
    Interacting,
    SyntheticSpace,
    drive,
    failed,
    measure,
    problem_of,
)

GOLDEN = REPOSITORY / "tests" / "golden"
SPACE = SyntheticSpace([12, 16, 16])
SMALL = {"genetic": {"population": 8, "generations": 5}, "random": {"evaluations": 27}, "optuna": {"evaluations": 27}}


@pytest.fixture(params=sorted(SMALL))
def name(request):
    return request.param


@pytest.fixture(params=["one objective", "a front"])
def problem(request):
    return problem_of(SPACE, 0.5, [TOP1] if request.param == "one objective" else [TOP1, MACS])


def make(name, problem, seed=0, **settings):
    algorithm = lookup(ALGORITHMS, name, "algorithm")
    return algorithm(problem, algorithm.Settings(**{**SMALL[name], **settings}), seed)


def proposals(trials):
    return [trial.proposal for trial in trials]


def test_settings_are_a_frozen_dataclass_that_forbids_unknown_keys(name):
    settings = lookup(ALGORITHMS, name, "algorithm").Settings
    assert dataclasses.is_dataclass(settings)
    assert settings.__dataclass_params__.frozen
    assert settings.__pydantic_config__ == {"extra": "forbid"}
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings().evaluations = 1


def test_every_candidate_is_legal_under_the_target_and_proposed_once(name, problem):
    trials = drive(make(name, problem), ImageByImage(problem, 400))
    seen = [(trial.proposal.candidate.fingerprint, trial.proposal.fidelity) for trial in trials]
    assert len(trials) >= 25
    assert len(set(seen)) == len(seen)
    for trial in trials:
        SPACE.validate(trial.proposal.candidate)
        assert 0.0 < trial.proposal.fidelity <= 1.0
        assert problem.violation(SPACE.costs(trial.proposal.candidate)) == 0.0


def test_asking_twice_for_one_equals_asking_once_for_two(name, problem):
    fitness = Interacting(problem)
    one, many = drive(make(name, problem), fitness, batch=1), drive(make(name, problem), fitness, batch=7)
    assert proposals(one) == proposals(many)


def test_tells_within_a_batch_do_not_change_what_is_asked(name, problem):
    fitness = Interacting(problem)
    late, early = make(name, problem), make(name, problem)
    asked = late.ask(8)
    stepwise = []
    for number in range(8):
        stepwise.extend(early.ask(1))
        early.tell(measure(number, stepwise[-1], fitness))
    assert stepwise == asked


def test_same_seed_same_trials_other_seed_others(name, problem):
    fitness = Interacting(problem)
    first, again, other = (proposals(drive(make(name, problem, seed), fitness)) for seed in (3, 3, 4))
    assert first == again
    assert {one.candidate.fingerprint for one in first} != {one.candidate.fingerprint for one in other}


def test_replay_goes_on_as_the_live_run(name, problem):
    fitness = ImageByImage(problem, 400)
    live = drive(make(name, problem), fitness)
    for cut in (9, len(live) - 1):
        asked, told = make(name, problem), make(name, problem)
        start = 0
        while start < cut:
            again = asked.ask(min(8, cut - start))
            recorded = live[start : start + len(again)]
            assert again == proposals(recorded)
            for trial in recorded:
                asked.tell(trial)
                told.tell(trial)
            start += len(again)
        for algorithm in (asked, told):
            assert not algorithm.finished
            assert proposals(drive(algorithm, fitness, first=cut)) == proposals(live[cut:])


def test_a_raised_budget_begins_with_the_same_trials(name, problem):
    fitness = ImageByImage(problem, 400)
    less, more = (drive(make(name, problem, evaluations=count), fitness) for count in (13, 27))
    assert len(less) == 13
    assert len(more) == 27
    assert proposals(more[:13]) == proposals(less)


def test_finishes_within_its_budget_and_then_asks_for_nothing(name, problem):
    algorithm = make(name, problem)
    trials = drive(algorithm, Interacting(problem))
    assert algorithm.finished
    assert algorithm.ask(5) == []
    assert algorithm.budget is not None
    assert 0 < len(trials) <= algorithm.budget


def test_an_exhausted_space_ends_the_search(name):
    problem = problem_of(SyntheticSpace([2, 2]), 1.0)
    budget = {"generations": None} if name == "genetic" else {"evaluations": 500}
    trials = drive(make(name, problem, **budget), Interacting(problem))
    assert len({trial.proposal.candidate.fingerprint for trial in trials}) == 9


def test_failed_trials_are_tolerated(name, problem):
    algorithm = make(name, problem)
    fitness = Interacting(problem)
    number = itertools.count()
    told: list[Trial] = []
    while not algorithm.finished:
        for proposal in algorithm.ask(4):
            at = next(number)
            told.append(failed(at, proposal) if at % 3 == 0 else measure(at, proposal, fitness))
            algorithm.tell(told[-1])
    assert front(told, problem)
    assert len(told) >= 25


@pytest.mark.parametrize("metrics", [None, {"top1": float("nan"), "macs": 1.0}])
def test_nothing_but_failures_still_ends(name, problem, metrics):
    algorithm = make(name, problem)
    asked = 0
    while not algorithm.finished:
        batch = algorithm.ask(8)
        for number, proposal in enumerate(batch, start=asked):
            bad = failed(number, proposal) if metrics is None else Trial(number, proposal, "complete", metrics)
            algorithm.tell(bad)
        asked += len(batch)
    assert 8 <= asked <= algorithm.budget


def test_global_random_state_is_neither_read_nor_moved(name, problem):
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002 - the global generator is what is watched
    before = random.getstate(), str(np.random.get_state())  # noqa: NPY002
    first = drive(make(name, problem), Interacting(problem))
    assert (random.getstate(), str(np.random.get_state())) == before  # noqa: NPY002
    random.seed(2)
    np.random.seed(2)  # noqa: NPY002
    assert proposals(drive(make(name, problem), Interacting(problem))) == proposals(first)


def test_an_impossible_target_names_what_can_be_reached(name):
    problem = problem_of(SPACE, 0.001)
    with pytest.raises(SecateursError, match=r"the smallest candidate has macs = 23;"):
        make(name, problem)


def golden_front(name):
    problem = problem_of(SPACE, 0.5, [TOP1, MACS])
    trials = drive(make(name, problem, seed=1), ImageByImage(problem, 400))
    return {
        "trials": len(trials),
        "front": [
            {"candidate": dict(trial.proposal.candidate.values), "gains": list(gains(trial.metrics, problem))}
            for trial in front(trials, problem)
        ],
    }


def test_golden_front(name):
    """Rewrite with ``python tests/contracts/test_algorithms_contract.py`` where a change of the search is meant."""
    path = GOLDEN / f"{name}.json"
    assert path.is_file(), f"every algorithm needs a golden front: {path.name} is missing"
    expected, found = json.loads(path.read_text()), golden_front(name)
    assert found["trials"] == expected["trials"]
    assert [one["candidate"] for one in found["front"]] == [one["candidate"] for one in expected["front"]]
    for one, other in zip(found["front"], expected["front"], strict=True):
        assert one["gains"] == pytest.approx(other["gains"], abs=1e-9)


def test_every_golden_front_has_an_algorithm():
    assert {path.stem for path in GOLDEN.glob("*.json")} == set(ALGORITHMS)


if __name__ == "__main__":
    for registered in SMALL:
        (GOLDEN / f"{registered}.json").write_text(json.dumps(golden_front(registered), indent=1) + "\n")
