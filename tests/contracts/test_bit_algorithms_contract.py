"""What every registered algorithm for bit-widths promises."""

import dataclasses
import json
import random

import numpy as np
import pytest

from search.algorithms import ALGORITHMS
from search.study.pareto import best, front, gains
from search.study.trial import Trial
from spaces.errors import SecateursError
from spaces.registry import lookup
from tests.paths import REPOSITORY
from tests.search.algorithms.bit_space import OMEGA, SIZE, BitSpace, ByTable, bit_problem
from tests.search.algorithms.synthetic_space import SyntheticSpace, drive, failed, measure, problem_of

GOLDEN = REPOSITORY / "tests" / "golden"
SPACE = BitSpace(6, bits=(2, 3, 4, 8), activations=(4, 8))
SMALL = {"integer_program": {"budgets": 6}, "progressive": {"candidates": 4, "layers": 0.3, "refine": 1}}


@pytest.fixture(params=sorted(SMALL))
def name(request):
    return request.param


@pytest.fixture(params=["one objective", "a front"])
def problem(request):
    objectives = [OMEGA] if request.param == "one objective" else [OMEGA, SIZE]
    return bit_problem(SPACE, objectives, size_bytes=0.5, bit_operations=0.5)


def make(name, problem, seed=0, **settings):
    algorithm = lookup(ALGORITHMS, name, "algorithm")
    return algorithm(problem, algorithm.Settings(**{**SMALL[name], **settings}), seed)


def proposals(trials):
    return [trial.proposal for trial in trials]


def test_every_candidate_is_legal_and_the_last_in_full_keeps_the_targets(name, problem):
    algorithm = make(name, problem)
    trials = drive(algorithm, ByTable(SPACE))
    assert algorithm.finished
    assert algorithm.ask(5) == []
    assert 0 < len(trials) <= algorithm.budget
    for trial in trials:
        SPACE.validate(trial.proposal.candidate)
        assert trial.proposal.fidelity in (0.0, 1.0)
    chosen = best(trials, problem)
    assert problem.violation(SPACE.costs(chosen.proposal.candidate)) == 0.0


def test_asking_twice_for_one_equals_asking_once_for_two(name, problem):
    one, many = (drive(make(name, problem), ByTable(SPACE), batch=size) for size in (1, 7))
    assert proposals(one) == proposals(many)


def test_tells_within_a_batch_do_not_change_what_is_asked(name, problem):
    late, early = make(name, problem), make(name, problem)
    asked = late.ask(4)
    stepwise = []
    for number in range(len(asked)):
        stepwise.extend(early.ask(1))
        early.tell(measure(number, stepwise[-1], ByTable(SPACE)))
    assert stepwise == asked


def test_replay_goes_on_as_the_live_run(name, problem):
    live = drive(make(name, problem), ByTable(SPACE, moves=0.2))
    for cut in (1, len(live) // 2, len(live) - 1):
        told = make(name, problem)
        for trial in live[:cut]:
            told.tell(trial)
        assert proposals(drive(told, ByTable(SPACE, moves=0.2), first=cut)) == proposals(live[cut:])


def test_failed_trials_are_tolerated(name, problem):
    algorithm, told = make(name, problem), []
    while not algorithm.finished:
        for proposal in algorithm.ask(4):
            number = len(told)
            bad = number % 3 == 1
            told.append(failed(number, proposal) if bad else measure(number, proposal, ByTable(SPACE)))
            algorithm.tell(told[-1])
    assert front(told, problem)


@pytest.mark.parametrize("metrics", [None, {"omega": float("nan"), "size_bytes": 1.0}])
def test_nothing_but_failures_still_ends(name, problem, metrics):
    algorithm, asked = make(name, problem), 0
    while not algorithm.finished:
        batch = algorithm.ask(8)
        for number, proposal in enumerate(batch, start=asked):
            bad = failed(number, proposal) if metrics is None else Trial(number, proposal, "complete", metrics)
            algorithm.tell(bad)
        asked += len(batch)
    assert 0 < asked <= algorithm.budget


def test_global_random_state_is_neither_read_nor_moved(name, problem):
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002 - the global generator is what is watched
    before = random.getstate(), str(np.random.get_state())  # noqa: NPY002
    first = drive(make(name, problem), ByTable(SPACE))
    assert (random.getstate(), str(np.random.get_state())) == before  # noqa: NPY002
    random.seed(2)
    np.random.seed(2)  # noqa: NPY002
    assert proposals(drive(make(name, problem), ByTable(SPACE))) == proposals(first)


def test_an_impossible_target_names_what_can_be_reached(name):
    with pytest.raises(SecateursError, match=r"the smallest candidate has size_bytes = \d+; expected a target of at least"):
        make(name, bit_problem(SPACE, size_bytes=0.1))


def test_what_is_missing_is_said(name):
    problem = dataclasses.replace(bit_problem(SPACE, size_bytes=0.5), tables={})
    with pytest.raises(SecateursError, match=r"expected `omega` in search\.evaluate"):
        make(name, problem)
    with pytest.raises(SecateursError, match="expected a choice of numbers of bits"):
        make(name, problem_of(SyntheticSpace([4, 4]), 0.5))
    with pytest.raises(SecateursError, match=r"expected (a target|one) on a cost"):
        make(name, bit_problem(SPACE))


def golden_front(name):
    problem = bit_problem(SPACE, [OMEGA, SIZE], size_bytes=0.5)
    trials = drive(make(name, problem, seed=1), ByTable(SPACE))
    return {
        "trials": len(trials),
        "front": [
            {"candidate": dict(trial.proposal.candidate.values), "gains": list(gains(trial.metrics, problem))}
            for trial in front(trials, problem)
        ],
    }


def test_golden_front(name):
    """Rewrite with ``python tests/contracts/test_bit_algorithms_contract.py`` where a change of the search is meant."""
    expected, found = json.loads((GOLDEN / f"{name}.json").read_text()), golden_front(name)
    assert found["trials"] == expected["trials"]
    assert [one["candidate"] for one in found["front"]] == [one["candidate"] for one in expected["front"]]
    for one, other in zip(found["front"], expected["front"], strict=True):
        assert one["gains"] == pytest.approx(other["gains"], rel=1e-9)


if __name__ == "__main__":
    for registered in SMALL:
        (GOLDEN / f"{registered}.json").write_text(json.dumps(golden_front(registered), indent=1) + "\n")
