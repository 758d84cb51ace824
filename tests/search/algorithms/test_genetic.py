import copy
import pickle
import random
import threading

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from search.algorithms.encoding.channel_encoding import ChannelEncoding
from search.algorithms.encoding.uniform import global_magnitude, uniform
from search.algorithms.genetic import GeneticAlgorithm
from search.algorithms.genetics.deap_draws import deap_draws_from
from search.algorithms.genetics.individual import Fitness, Individual, select_survivors
from search.algorithms.genetics.reproduction import Reproduction
from search.algorithms.genetics.settings import GeneticSettings
from search.algorithms.genetics.variation import FactorVariation
from search.algorithms.random import RandomSearch, RandomSettings
from search.study import pareto
from spaces.candidate import Candidate
from tests.search.algorithms.synthetic_space import MACS, TOP1, Interacting, SyntheticSpace, drive, problem_of
from tests.variants import few

MEDIUM = SyntheticSpace([16, 16, 24, 24])


def small(evaluations, **settings):
    return GeneticSettings(**{"population": 24, "generations": None, "evaluations": evaluations, "racing": None, **settings})


@pytest.mark.parametrize("encoding", few(["mask", "factor"]))
@pytest.mark.parametrize("objectives", [[TOP1], [TOP1, MACS]])
def test_starts_from_the_greedy_masks_and_beats_random_search(encoding, objectives):
    problem = problem_of(MEDIUM, 0.4, objectives)
    fitness = Interacting(problem, strength=2.0)
    settings = GeneticSettings(population=16, generations=20, encoding=encoding, racing=None)
    trials = drive(GeneticAlgorithm(problem, settings, 0), fitness, batch=16)
    first = {trial.proposal.candidate for trial in trials[:16]}
    assert {uniform(problem), global_magnitude(problem)} <= first
    reached = pareto.best(trials, problem).metrics["top1"]
    by_chance = drive(RandomSearch(problem, RandomSettings(len(trials)), 0), fitness, batch=16)
    assert reached > pareto.best(by_chance, problem).metrics["top1"]
    assert reached > max(fitness(make(problem), 1.0)["top1"] for make in (uniform, global_magnitude)) + 0.005


@pytest.mark.slow
def test_mask_encoding_goes_beyond_what_thresholds_can_reach():
    problem = problem_of(MEDIUM, 0.4)
    fitness = Interacting(problem, strength=2.0)
    best = {
        encoding: pareto.best(drive(GeneticAlgorithm(problem, small(500, encoding=encoding), 0), fitness), problem)
        for encoding in ("mask", "factor")
    }
    assert best["mask"].metrics["top1"] > best["factor"].metrics["top1"]


def test_factor_encoding_keeps_the_most_important_of_every_layer():
    problem = problem_of(MEDIUM, 0.4)
    encoding = ChannelEncoding(problem)
    trials = drive(GeneticAlgorithm(problem, small(100, encoding="factor"), 0), Interacting(problem))
    for trial in trials:
        for layer, mask in enumerate(encoding.masks(trial.proposal.candidate)):
            assert np.array_equal(mask, encoding.strongest(layer, int(mask.sum())))


def test_thresholds_and_masks_convert_into_each_other():
    encoding = ChannelEncoding(problem_of(MEDIUM, 0.4))
    variation = FactorVariation(encoding, 0.5, 0.5, several=False)
    for masks in (encoding.full(), encoding.smallest(), [encoding.strongest(layer, 7) for layer in range(4)]):
        decoded = variation.decode(variation.genes(masks))
        assert all(np.array_equal(a, b) for a, b in zip(decoded, masks, strict=True))


def test_a_front_without_target_spreads_over_all_costs():
    problem = problem_of(MEDIUM, None, [TOP1, MACS])
    trials = drive(GeneticAlgorithm(problem, small(320, population=16), 0), Interacting(problem), batch=16)
    dense = MEDIUM.costs(MEDIUM.dense())["macs"]
    shares = [trial.metrics["macs"] / dense for trial in pareto.front(trials, problem)]
    assert len(shares) >= 12
    assert min(shares) < 0.2
    assert max(shares) > 0.8


def test_rounding_to_a_multiple_is_kept_by_every_operator():
    space = SyntheticSpace([16, 24, 30], multiple=8, minimum=2)
    problem = problem_of(space, 0.5, [TOP1, MACS])
    for trial in drive(GeneticAlgorithm(problem, small(60), 0), Interacting(problem)):
        space.validate(trial.proposal.candidate)


def test_nothing_open_but_one_candidate_ends_at_once():
    problem = problem_of(SyntheticSpace([1, 1]), 1.0)
    trials = drive(GeneticAlgorithm(problem, GeneticSettings(racing=None), 0), Interacting(problem))
    assert len(trials) == 1


def test_the_first_trials_are_full_measurements_of_greedy_masks():
    problem = problem_of(MEDIUM, 0.4)
    asked = GeneticAlgorithm(problem, GeneticSettings(), 0).ask(6)
    assert [proposal.fidelity for proposal in asked] == [1.0] * 4 + [0.1] * 2
    assert asked[0].candidate == global_magnitude(problem)


def individual(violation, *gains):
    one = Individual([], [], Candidate({"layer0": str(gains)}), {})
    one.fitness = Fitness(violation, gains)
    return one


def test_constraint_domination():
    feasible, better, excessive, worse = (
        Fitness(0.0, (1.0, 1.0)),
        Fitness(0.0, (2.0, 1.0)),
        Fitness(0.1, (9.0, 9.0)),
        Fitness(0.2, (9.9, 9.9)),
    )
    assert better.dominates(feasible)
    assert feasible.dominates(excessive)
    assert excessive.dominates(worse)
    assert not feasible.dominates(Fitness(0.0, (0.5, 2.0)))
    assert better > feasible > excessive > worse


def test_individuals_travel():
    one = individual(0.5, 1.0, 2.0)
    for copied in (pickle.loads(pickle.dumps(one)), copy.deepcopy(one)):
        assert copied.fitness == one.fitness
        assert copied.fingerprint == one.fingerprint


def test_nsga2_survivors_hold_the_elite_and_the_extremes():
    crowd = [individual(0.0, 1.0 - i / 100, i / 100) for i in range(40)]
    infeasible = individual(0.1, 5.0, 5.0)
    kept = select_survivors([*crowd, infeasible], 10, elite=4)
    assert len(kept) == 10
    assert {id(one) for one in crowd[:4]} <= {id(one) for one in kept}
    assert id(crowd[39]) in {id(one) for one in kept}
    assert id(infeasible) not in {id(one) for one in kept}


def test_survivors_do_not_depend_on_the_order_they_come_in():
    rng = np.random.default_rng(0)
    pool = [individual(0.0, float(a), float(b)) for a, b in rng.integers(0, 5, size=(30, 2))]
    shuffled = [pool[index] for index in rng.permutation(30)]
    names = [[one.fitness.wvalues for one in select_survivors(order, 12, 3)] for order in (pool, shuffled)]
    assert names[0] == names[1]


def test_deap_draws_from_a_private_generator():
    from deap import tools

    state = random.getstate()
    drawn = []
    for seed in (5, 5, 6):
        with deap_draws_from(np.random.default_rng(seed)):
            drawn.append(tools.mutGaussian([0.0] * 8, 0.0, 1.0, 1.0)[0])
    assert drawn[0] == drawn[1] != drawn[2]
    with pytest.raises(RuntimeError), deap_draws_from(np.random.default_rng(5)):
        raise RuntimeError
    assert random.getstate() == state
    assert tools.mutation.random is random


@pytest.mark.parametrize("objectives", few([[TOP1], [TOP1, MACS]]))
def test_other_threads_that_draw_neither_change_a_search_nor_are_changed_by_it(objectives):
    problem, ended = problem_of(MEDIUM, 0.5, objectives), threading.Event()
    alone = [one.proposal for one in drive(GeneticAlgorithm(problem, small(96), 0), Interacting(problem))]
    random.seed(3)
    drawn = []

    def draw():
        while not ended.is_set():
            drawn.append(random.random())

    other = threading.Thread(target=draw)
    other.start()
    try:
        beside = [one.proposal for one in drive(GeneticAlgorithm(problem, small(96), 0), Interacting(problem))]
    finally:
        ended.set()
        other.join()
    assert beside == alone
    random.seed(3)
    assert drawn == [random.random() for _ in drawn]


def test_children_are_new_and_the_evaluation_factor_follows_success():
    problem = problem_of(MEDIUM, 0.4)
    reproduction = Reproduction(ChannelEncoding(problem), small(None), 0)
    made = reproduction.first()
    for one in made:
        one.fitness = Fitness(0.0, (1.0,))
    reproduction.visited.update(one.fingerprint for one in made)
    for generation in range(1, 8):
        children = reproduction.next(generation, made, 24)
        assert not {one.fingerprint for one in children} & reproduction.visited
        reproduction.visited.update(one.fingerprint for one in children)
        reproduction.reward_operators(children, [one for one in children if "factor 0.3" in one.origins])
    origins = [origin for one in reproduction.next(8, made, 24) for origin in one.origins if origin.startswith("factor")]
    assert origins.count("factor 0.3") > len(origins) / 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"population": 1}, "population: expected at least 2"),
        ({"generations": 0}, "generations: expected at least 1"),
        ({"elite": 40}, "elite: expected at most the population of 32"),
        ({"crossover": 1.5}, "crossover: expected a chance"),
        ({"seed_ratios": [0.0]}, "seed_ratios: expected shares"),
        ({"racing": {"fidelities": [0.5, 0.2]}}, "fidelities: expected ascending"),
        ({"racing": {"confidence": -1}}, "confidence: expected"),
        ({"encoding": "tree"}, "'mask' or 'factor'"),
        ({"popullation": 3}, "Unexpected"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        TypeAdapter(GeneticSettings).validate_python(settings)


def test_settings_come_from_plain_data():
    read = TypeAdapter(GeneticSettings).validate_python({"racing": {"fidelities": [0.1, 0.3]}, "seed_ratios": [0.5]})
    assert read.racing.fidelities == (0.1, 0.3)
    assert TypeAdapter(GeneticSettings).validate_python({"racing": None}).racing is None
