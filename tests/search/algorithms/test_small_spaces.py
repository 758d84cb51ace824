"""Spaces small enough to enumerate: the search must find the true optimum and the true front."""

import pytest

from search.algorithms.encoding.channel_encoding import ChannelEncoding
from search.algorithms.encoding.uniform import uniform
from search.algorithms.genetic import GeneticAlgorithm
from search.algorithms.genetics.settings import GeneticSettings
from search.study import pareto
from search.study.trial import Proposal, Trial
from tests.search.algorithms.synthetic_space import MACS, TOP1, Interacting, SyntheticSpace, drive, problem_of
from tests.variants import few

DOZEN = SyntheticSpace([4, 4, 4])


def enumerated(problem, fitness):
    encoding = ChannelEncoding(problem)
    candidates = [encoding.candidate(masks) for masks in encoding.enumerate()]
    return [Trial(i, Proposal(one), "complete", fitness(one, 1.0)) for i, one in enumerate(candidates)]


def small(evaluations, **settings):
    return GeneticSettings(**{"population": 24, "generations": None, "evaluations": evaluations, "racing": None, **settings})


@pytest.mark.parametrize("seed", few(range(4)))
def test_finds_the_true_optimum_of_a_dozen_bits(seed):
    problem = problem_of(DOZEN, 0.5, seed=seed)
    fitness = Interacting(problem, seed, strength=3.0)
    optimum = pareto.best(enumerated(problem, fitness), problem)
    assert optimum.metrics["top1"] > fitness(uniform(problem), 1.0)["top1"]
    trials = drive(GeneticAlgorithm(problem, small(400), seed), fitness, batch=24)
    assert pareto.best(trials, problem).metrics == optimum.metrics


@pytest.mark.parametrize(("target", "seed"), [(0.5, 0), (0.5, 1), (0.5, 2), (None, 0), (None, 1), (None, 2)])
@pytest.mark.slow
def test_nsga2_finds_the_true_front_of_a_dozen_bits(seed, target):
    problem = problem_of(DOZEN, target, [TOP1, MACS], seed=seed)
    fitness = Interacting(problem, seed, strength=3.0)
    true = {pareto.gains(one.metrics, problem) for one in pareto.front(enumerated(problem, fitness), problem)}
    trials = drive(GeneticAlgorithm(problem, small(700), seed), fitness, batch=24)
    assert len(true) >= 8
    assert {pareto.gains(one.metrics, problem) for one in pareto.front(trials, problem)} == true


def test_a_small_space_is_swept_to_its_end():
    problem = problem_of(SyntheticSpace([3, 3, 3]), 0.5)
    fitness = Interacting(problem, strength=3.0)
    feasible = [one for one in enumerated(problem, fitness) if problem.violation(one.metrics) == 0.0]
    trials = drive(GeneticAlgorithm(problem, small(None), 0), fitness, batch=24)
    assert {one.proposal.candidate for one in trials} == {one.proposal.candidate for one in feasible}
