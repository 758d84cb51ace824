import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.study.pareto import best, dominates, front, gains
from search.study.problem import Objective, Problem, Target
from search.study.trial import Proposal, Trial
from spaces.candidate import Candidate
from tests.search.algorithms.synthetic_space import MACS, TOP1, SyntheticSpace, problem_of
from tests.search.study.hypervolume import hypervolume

SPACE = SyntheticSpace([4])
PROBLEM = Problem(SPACE, [TOP1, MACS], [Target("macs", 10.0)], {})


def trial(number, top1, macs, fidelity=1.0, state="complete"):
    return Trial(number, Proposal(Candidate({"layer0": "1000"}), fidelity), state, {"top1": top1, "macs": macs})


def test_front_by_hand():
    trials = [trial(0, 0.5, 5), trial(1, 0.6, 7), trial(2, 0.55, 7), trial(3, 0.4, 4), trial(4, 0.4, 6), trial(5, 0.9, 11)]
    assert [one.number for one in front(trials, PROBLEM)] == [1, 0, 3]


def test_only_complete_trials_at_full_fidelity_with_finite_objectives_count():
    trials = [
        trial(0, 0.9, 5, fidelity=0.5),
        trial(1, 0.9, 5, state="failed"),
        trial(2, float("nan"), 5),
        Trial(3, Proposal(Candidate({"layer0": "1000"})), "failed", {}),
        trial(4, 0.1, 9),
    ]
    assert [one.number for one in front(trials, PROBLEM)] == [4]
    assert best(trials, PROBLEM).number == 4
    assert best(trials[:4], PROBLEM) is None
    assert front(trials[:4], PROBLEM) == []


def test_without_a_feasible_trial_the_least_violation_wins():
    trials = [trial(0, 0.9, 20), trial(1, 0.5, 12), trial(2, 0.7, 12)]
    assert [one.number for one in front(trials, PROBLEM)] == [2]
    assert best(trials, PROBLEM).number == 2


def test_best_takes_the_first_objective_then_the_lower_cost_then_the_lower_number():
    trials = [trial(3, 0.6, 9), trial(2, 0.6, 8), trial(1, 0.6, 8), trial(0, 0.5, 2)]
    assert best(trials, PROBLEM).number == 1
    assert best(list(reversed(trials)), PROBLEM).number == 1


def test_a_target_not_measured_is_taken_from_the_space():
    problem = Problem(SPACE, [TOP1], [Target("parameters", 5.0)], {})
    small, large = (
        Trial(number, Proposal(Candidate({"layer0": mask})), "complete", {"top1": top1})
        for number, mask, top1 in [(0, "1000", 0.1), (1, "1111", 0.9)]
    )
    assert best([small, large], problem) is small


def test_equal_points_are_on_the_front_once_whatever_the_order():
    trials = [trial(number, 0.5, 5) for number in range(4)]
    for order in itertools.permutations(trials):
        assert [one.number for one in front(order, PROBLEM)] == [0]


@given(st.lists(st.tuples(*[st.integers(0, 6)] * 3), min_size=1, max_size=25))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_front_equals_the_definition_for_three_objectives(points):
    names = ("a", "b", "c")
    problem = Problem(
        SPACE, [Objective(name, way) for name, way in zip(names, ("maximize", "minimize", "maximize"), strict=True)], [], {}
    )
    proposal = Proposal(Candidate({"layer0": "1000"}))
    trials = [
        Trial(i, proposal, "complete", dict(zip(names, map(float, point), strict=True))) for i, point in enumerate(points)
    ]
    values = {gains(one.metrics, problem) for one in trials}
    expected = {value for value in values if not any(dominates(other, value) for other in values)}
    found = [gains(one.metrics, problem) for one in front(trials, problem)]
    assert set(found) == expected
    assert len(found) == len(expected)


@given(st.lists(st.tuples(st.integers(-2, 8), st.integers(-2, 8)), max_size=12))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_hypervolume_counts_the_unit_squares_below_the_points(points):
    cells = {(x, y) for px, py in points for x in range(px) for y in range(py)}
    assert hypervolume(points, (0.0, 0.0)) == pytest.approx(len(cells))


def test_hypervolume_needs_two_coordinates():
    with pytest.raises(ValueError, match="two coordinates"):
        hypervolume([(1.0, 2.0, 3.0)], (0.0, 0.0))


def test_a_large_front_is_quick():
    rng = np.random.default_rng(0)
    trials = [trial(i, float(rng.random()), float(rng.random())) for i in range(3000)]
    assert 5 < len(front(trials, problem_of(SPACE, None, [TOP1, MACS]))) < 60
