"""The contract kit over every registered algorithm that searches keep-masks; those for bits only have a file of their own."""

import json
from dataclasses import fields

import pytest

from search.algorithms import ALGORITHMS
from search.algorithms.testing import (
    Case,
    check_batches,
    check_determinism,
    check_failures,
    check_proposals,
    check_raised_budget,
    check_replay,
    small_settings,
)
from search.study.pareto import front, gains
from spaces.errors import SecateursError
from spaces.registry import lookup
from spaces.testing import check_settings
from tests.paths import REPOSITORY
from tests.search.algorithms.synthetic_space import MACS, TOP1, ImageByImage, Interacting, SyntheticSpace, problem_of

GOLDEN = REPOSITORY / "tests" / "golden"
SPACE = SyntheticSpace([12, 16, 16])
WIDE = SyntheticSpace([12, 16, 16, 20])
"""A space in which samplers seldom repeat a candidate, so that a search takes a fraction of a second."""
OBJECTIVES = {"one objective": [TOP1], "a front": [TOP1, MACS]}


def case(name, problem, measure=None, **options):
    kind = lookup(ALGORITHMS, name, "algorithm")
    known = {one.name for one in fields(kind.Settings)}
    settings = small_settings(kind, **{option: value for option, value in options.items() if option in known})
    return Case(kind, problem, settings, measure or ImageByImage(problem, 400))


def searches_masks(name):
    try:
        case(name, problem_of(SPACE, 0.5)).make()
    except SecateursError:
        return False
    return True


NAMES = [name for name in sorted(ALGORITHMS) if searches_masks(name)]
ONCE = [name for name in NAMES if name != "evolution"]
"""Algorithms whose trials are a candidate each; those of evolution are a generation each, and have tests of their own."""


@pytest.fixture(params=ONCE)
def name(request):
    return request.param


@pytest.fixture(params=sorted(OBJECTIVES))
def problem(request):
    return problem_of(SPACE, 0.5, OBJECTIVES[request.param])


@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_settings_are_frozen_and_refuse_unknown_keys(name):
    check_settings(lookup(ALGORITHMS, name, "algorithm").Settings)


@pytest.mark.parametrize("check", [check_proposals, check_batches, check_determinism, check_replay, check_failures])
@pytest.mark.parametrize("objectives", sorted(OBJECTIVES))
@pytest.mark.parametrize("name", NAMES)
def test_the_contract_is_kept(check, name, objectives):
    check(case(name, problem_of(WIDE, 0.5, OBJECTIVES[objectives])))


def test_every_candidate_is_under_the_target_and_proposed_once(name, problem):
    trials = case(name, problem).run()
    seen = [(trial.proposal.candidate.fingerprint, trial.proposal.fidelity) for trial in trials]
    assert len(trials) >= 25
    assert len(set(seen)) == len(seen)
    for trial in trials:
        assert trial.proposal.fidelity > 0.0
        assert problem.violation(SPACE.costs(trial.proposal.candidate)) == 0.0


def test_another_seed_makes_other_candidates(name):
    problem = problem_of(WIDE, 0.5)
    made = case(name, problem, Interacting(problem))
    first, other = ({one.proposal.candidate.fingerprint for one in made.run(seed)} for seed in (3, 4))
    assert first != other


@pytest.mark.parametrize("objectives", sorted(OBJECTIVES))
def test_a_raised_budget_begins_with_the_same_trials(name, objectives):
    problem = problem_of(WIDE, 0.5, OBJECTIVES[objectives])
    less, more = (case(name, problem, evaluations=count) for count in (13, 27))
    check_raised_budget(less, more)
    assert [len(one.run()) for one in (less, more)] == [13, 27]


def test_an_exhausted_space_ends_the_search(name):
    problem = problem_of(SyntheticSpace([2, 2]), 1.0)
    trials = case(name, problem, Interacting(problem), generations=None, evaluations=500).run()
    assert len({trial.proposal.candidate.fingerprint for trial in trials}) == 9


@pytest.mark.parametrize("name", NAMES)
def test_an_impossible_target_names_what_can_be_reached(name):
    with pytest.raises(SecateursError, match=r"the smallest candidate has macs = 23;"):
        case(name, problem_of(SPACE, 0.001)).make()


def golden_front(name):
    problem = problem_of(SPACE, 0.5, [TOP1, MACS])
    trials = case(name, problem).run(seed=1)
    return {
        "trials": len(trials),
        "front": [
            {"candidate": dict(trial.proposal.candidate.values), "gains": list(gains(trial.metrics, problem))}
            for trial in front(trials, problem)
        ],
    }


@pytest.mark.parametrize("name", NAMES)
def test_golden_front(name):
    """Rewrite with ``python tests/contracts/test_algorithms_contract.py`` where a change of the search is meant."""
    path = GOLDEN / f"{name}.json"
    assert path.is_file(), f"every algorithm needs a golden front: {path.name} is missing"
    expected, found = json.loads(path.read_text()), golden_front(name)
    assert found["trials"] == expected["trials"]
    assert [one["candidate"] for one in found["front"]] == [one["candidate"] for one in expected["front"]]
    for one, other in zip(found["front"], expected["front"], strict=True):
        assert one["gains"] == pytest.approx(other["gains"], abs=1e-9)


def test_every_golden_front_has_an_algorithm_and_most_algorithms_search_masks():
    assert {path.stem for path in GOLDEN.glob("*.json")} == set(ALGORITHMS)
    assert set(NAMES) >= {"genetic", "random", "optuna"}


if __name__ == "__main__":
    for registered in NAMES:
        (GOLDEN / f"{registered}.json").write_text(json.dumps(golden_front(registered), indent=1) + "\n")
