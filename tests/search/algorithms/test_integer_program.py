"""The integer program, against brute force."""

from __future__ import annotations

import itertools

import pytest

from search.algorithms.encoding.bit_encoding import BitEncoding, NotABitSpaceError
from search.algorithms.encoding.channel_encoding import UnreachableTargetError
from search.algorithms.integer_program import IntegerProgram, IntegerProgramSettings, MixedIntegerProgram, allocations
from search.study.problem import Problem, Target
from spaces.candidate import Candidate
from tests.search.algorithms.bit_space import OMEGA, SIZE, BitSpace, ByTable, bit_problem
from tests.search.algorithms.synthetic_space import drive


def brute_force(space: BitSpace, problem: Problem) -> float:
    """Return the least Omega of all candidates under the targets."""
    names = list(space.domains)
    best = float("inf")
    for bits in itertools.product(*(domain.options for domain in space.domains.values())):
        candidate = Candidate(dict(zip(names, bits, strict=True)))
        if space.omega(candidate) < best and problem.violation(space.costs(candidate)) == 0.0:
            best = space.omega(candidate)
    return best


def solve(problem: Problem, **settings: int) -> IntegerProgram:
    return IntegerProgram(problem, IntegerProgramSettings(**settings), seed=0)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("share", [0.3, 0.45, 0.7])
def test_equals_brute_force_on_six_layers_under_a_size(seed, share):
    space = BitSpace(6, seed, bits=(2, 3, 4, 8))
    problem = bit_problem(space, size_bytes=share)
    (solution,) = solve(problem).solutions
    assert solution.loss == pytest.approx(brute_force(space, problem), rel=1e-9)
    assert solution.loss == space.omega(solution.candidate)
    assert solution.gap == 0.0
    assert problem.violation(space.costs(solution.candidate)) == 0.0


@pytest.mark.parametrize("targets", [{"bit_operations": 0.3}, {"bit_operations": 0.4, "size_bytes": 0.5}])
def test_equals_brute_force_under_bit_operations_which_multiply_bits(targets):
    space = BitSpace(4, 2, bits=(2, 4, 8), activations=(4, 8))
    problem = bit_problem(space, **targets)
    (solution,) = solve(problem).solutions
    assert solution.loss == pytest.approx(brute_force(space, problem), rel=1e-9)
    assert problem.violation(space.costs(solution.candidate)) == 0.0


def test_a_limit_that_is_met_exactly_is_met():
    space = BitSpace(5, 3)
    candidate = Candidate({name: domain.options[len(domain.options) // 2] for name, domain in space.domains.items()})
    limit = space.costs(candidate)["size_bytes"]
    problem = Problem(space, [OMEGA], [Target("size_bytes", limit)], {"omega": space.table})
    (solution,) = solve(problem).solutions
    assert space.costs(solution.candidate)["size_bytes"] <= limit
    assert solution.loss <= space.omega(candidate)


def test_a_cost_among_the_objectives_asks_for_a_front():
    space = BitSpace(6)
    problem = bit_problem(space, [OMEGA, SIZE], size_bytes=0.5)
    algorithm = solve(problem, budgets=7)
    trials = drive(algorithm, ByTable(space))
    sizes, omegas = zip(*((trial.metrics["size_bytes"], trial.metrics["omega"]) for trial in trials), strict=True)
    assert 2 < len(trials) <= 7
    assert len(trials) == algorithm.budget
    assert list(sizes) == sorted(sizes, reverse=True)
    assert list(omegas) == sorted(omegas)
    least = Candidate({name: min(domain.options) for name, domain in space.domains.items()})
    assert sizes[-1] == space.costs(least)["size_bytes"]
    told = algorithm.notes["programmes"]
    assert [one["omega"] for one in told] == [pytest.approx(omega) for omega in omegas]
    assert all(one["gap"] == 0.0 for one in told)


def test_a_programme_that_is_cut_short_tells_its_gap_and_keeps_the_targets():
    space = BitSpace(40, 1, activations=(4, 6, 8))
    problem = bit_problem(space, size_bytes=0.45, bit_operations=0.4)
    (exact,) = solve(problem).solutions
    algorithm = IntegerProgram(problem, IntegerProgramSettings(gap=0.2), seed=0)
    (loose,) = algorithm.solutions
    assert exact.loss <= loose.loss <= exact.loss / (1 - 0.2)
    assert problem.violation(space.costs(loose.candidate)) == 0.0


def test_targets_out_of_reach_together_are_an_error():
    space = BitSpace(4, activations=(4, 8))
    problem = bit_problem(space, size_bytes=0.5)
    program = MixedIntegerProgram(BitEncoding(problem))
    smallest = space.costs(BitEncoding(problem).smallest())["bit_operations"]
    with pytest.raises(UnreachableTargetError, match="no choice of bits keeps all of size_bytes"):
        program.solve([Target("bit_operations", 0.99 * smallest)])


def test_starts_for_a_sampler_lie_between_the_target_and_half_way_down():
    space = BitSpace(10)
    problem = bit_problem(space, size_bytes=0.6)
    starts = allocations(problem, budgets=4)
    sizes = [space.costs(start)["size_bytes"] for start in starts]
    lowest = space.costs(BitEncoding(problem).smallest())["size_bytes"]
    assert len(starts) == 4
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] <= problem.targets[0].limit
    assert sizes[-1] <= (problem.targets[0].limit + lowest) / 2
    assert allocations(Problem(space, [OMEGA], [], {})) == []


def test_costs_that_are_no_sums_are_refused():
    class Entangled(BitSpace):
        def costs(self, candidate):
            first, second = candidate.values["layer0.weight"], candidate.values["layer1.weight"]
            return {**super().costs(candidate), "size_bytes": float(1000 * first * second)}

    with pytest.raises(NotABitSpaceError, match="size_bytes is no sum over layers"):
        solve(bit_problem(Entangled(3), bit_operations=0.5))


@pytest.mark.parametrize(
    ("settings", "message"), [({"budgets": 0}, "budgets: "), ({"gap": 1.0}, "gap: "), ({"nodes": 0}, "nodes: ")]
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        IntegerProgramSettings(**settings)
