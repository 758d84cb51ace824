"""The contract kit over every registered algorithm that searches bit-widths only."""

import dataclasses
import json

import pytest

from search.algorithms import ALGORITHMS
from search.algorithms.testing import (
    Case,
    check_batches,
    check_determinism,
    check_failures,
    check_proposals,
    check_replay,
    small_settings,
)
from search.study.pareto import front, gains
from spaces.errors import SecateursError
from spaces.registry import lookup
from tests.contracts.test_algorithms_contract import searches_masks
from tests.paths import REPOSITORY
from tests.search.algorithms.bit_space import OMEGA, SIZE, BitSpace, ByTable, bit_problem
from tests.search.algorithms.synthetic_space import SyntheticSpace, problem_of

GOLDEN = REPOSITORY / "tests" / "golden"
SPACE = BitSpace(6, bits=(2, 3, 4, 8), activations=(4, 8))
NAMES = [name for name in sorted(ALGORITHMS) if not searches_masks(name)]
OBJECTIVES = {"one objective": [OMEGA], "a front": [OMEGA, SIZE]}


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


@pytest.fixture(params=sorted(OBJECTIVES))
def problem(request):
    return bit_problem(SPACE, OBJECTIVES[request.param], size_bytes=0.5, bit_operations=0.5)


def case(name, problem, moves=0.0):
    kind = lookup(ALGORITHMS, name, "algorithm")
    return Case(kind, problem, small_settings(kind), ByTable(SPACE, moves=moves))


@pytest.mark.parametrize("check", [check_proposals, check_batches, check_determinism, check_replay, check_failures])
@pytest.mark.parametrize("moves", [0.0, 0.2])
def test_the_contract_is_kept(check, moves, name, problem):
    check(case(name, problem, moves))


def test_candidates_are_measured_as_they_are_or_in_full(name, problem):
    assert {trial.proposal.fidelity for trial in case(name, problem).run()} <= {0.0, 1.0}


def test_an_impossible_target_names_what_can_be_reached(name):
    with pytest.raises(SecateursError, match=r"the smallest candidate has size_bytes = \d+; expected a target of at least"):
        case(name, bit_problem(SPACE, size_bytes=0.1)).make()


def test_what_is_missing_is_said(name):
    problem = dataclasses.replace(bit_problem(SPACE, size_bytes=0.5), tables={})
    with pytest.raises(SecateursError, match=r"expected `omega` in search\.evaluate"):
        case(name, problem).make()
    with pytest.raises(SecateursError, match="expected a choice of numbers of bits"):
        case(name, problem_of(SyntheticSpace([4, 4]), 0.5)).make()
    with pytest.raises(SecateursError, match=r"expected (a target|one) on a cost"):
        case(name, bit_problem(SPACE)).make()


def golden_front(name):
    problem = bit_problem(SPACE, [OMEGA, SIZE], size_bytes=0.5)
    trials = case(name, problem).run(seed=1)
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
    for registered in NAMES:
        (GOLDEN / f"{registered}.json").write_text(json.dumps(golden_front(registered), indent=1) + "\n")
