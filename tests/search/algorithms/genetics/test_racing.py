import itertools

import numpy as np
import pytest

from search.algorithms.encoding.channel_encoding import ChannelEncoding
from search.algorithms.encoding.sampling import random_masks
from search.algorithms.genetic import GeneticAlgorithm
from search.algorithms.genetics.individual import Fitness, Individual
from search.algorithms.genetics.racing import Race, RacingSettings
from search.algorithms.genetics.settings import GeneticSettings
from search.algorithms.genetics.subset_error import SubsetError
from search.study import pareto
from tests.search.algorithms.synthetic_space import MACS, TOP1, ImageByImage, SyntheticSpace, drive, problem_of
from tests.search.study.hypervolume import hypervolume

SPACE = SyntheticSpace([8, 8, 16, 16])
IMAGES = {"samples": {"search": 4000}}


def search(problem, racing, seed, generations=14):
    fitness = ImageByImage(problem, 4000, seed)
    settings = GeneticSettings(population=24, generations=generations, racing=racing)
    trials = drive(GeneticAlgorithm(problem, settings, seed), fitness, batch=24)
    return trials, fitness.effort


@pytest.mark.parametrize("objectives", [[TOP1], [TOP1, MACS]], ids=["one objective", "front"])
@pytest.mark.slow
def test_racing_reaches_the_same_end_with_two_fifths_of_the_effort(objectives):
    efforts, scores, volumes = [], [], []
    for seed in range(3):
        problem = problem_of(SPACE, 0.4, objectives, seed, IMAGES)
        full, whole = search(problem, None, seed)
        raced, spent = search(problem, RacingSettings(), seed)
        efforts.append(spent / whole)
        scores.append([pareto.best(trials, problem).metrics["top1"] for trials in (full, raced)])
        corner = (0.0, -problem.targets[0].limit)
        points = [[pareto.gains(one.metrics, problem) for one in pareto.front(trials, problem)] for trials in (full, raced)]
        volumes.append([hypervolume(each, corner) for each in points] if len(objectives) > 1 else [1.0, 1.0])
    assert np.mean(efforts) <= 0.42
    assert max(efforts) <= 0.5
    # The same on average: two searches of one kind that differ in their seed alone differ by 0.02 and 3 %.
    full_score, raced_score = np.mean(scores, axis=0)
    assert raced_score >= full_score - 0.015
    full_volume, raced_volume = np.mean(volumes, axis=0)
    assert raced_volume >= 0.97 * full_volume


@pytest.mark.slow
def test_spending_the_saved_effort_without_racing_is_worse():
    problems = [problem_of(SPACE, 0.4, [TOP1], seed, IMAGES) for seed in range(3)]
    raced, cut = [], []
    for seed, problem in enumerate(problems):
        raced.append(pareto.best(search(problem, RacingSettings(), seed)[0], problem).metrics["top1"])
        cut.append(pareto.best(search(problem, None, seed, generations=5)[0], problem).metrics["top1"])
    assert np.mean(raced) > np.mean(cut) + 0.005


def test_rungs_end_before_survivors_go_up():
    problem = problem_of(SPACE, 0.4, tables=IMAGES)
    trials, _ = search(problem, RacingSettings((0.1, 0.3)), 0, generations=3)
    rungs = [trial.proposal.fidelity for trial in trials]
    changes = [after for before, after in itertools.pairwise(rungs) if before != after]
    assert rungs[:4] == [1.0] * 4
    assert changes == [0.1, 0.3, 1.0] * 3
    by_fidelity = {share: {t.proposal.candidate for t in trials if t.proposal.fidelity == share} for share in (0.1, 0.3, 1.0)}
    assert by_fidelity[1.0] < by_fidelity[0.3] < by_fidelity[0.1]


def members(count, seed=0):
    problem = problem_of(SPACE, 0.4, [TOP1, MACS], tables=IMAGES)
    encoding = ChannelEncoding(problem)
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        masks = random_masks(encoding, rng, "random")
        candidate = encoding.candidate(masks)
        made.append(Individual(masks, masks, candidate, SPACE.costs(candidate)))
    return problem, made


def promoted(race, made, scores, population=()):
    metrics = [{"top1": score, **one.exact} for one, score in zip(made, scores, strict=True)]
    return race.promoted(0.1, made, metrics, population)


def test_before_pairs_are_known_a_binomial_bound_decides():
    _, made = members(8)
    single = problem_of(SPACE, 0.4, [TOP1], tables=IMAGES)
    race = Race(single, RacingSettings((0.1,), 2.0, keep=1.0), depth=2, elite=1)
    # 400 images at 0.8: a deviation of 0.019, so a margin of 0.054 between two.
    scores = [0.80, 0.79, 0.77, 0.74, 0.60, 0.5, 0.4, 0.1]
    assert promoted(race, made, scores) == made[:4]
    unknown = Race(single, RacingSettings((0.1,), 2.0, keep=1.0), depth=2, elite=1)
    assert promoted(unknown, made, [-3.0 * score for score in scores]) == made


def test_of_a_metric_that_accumulates_no_spread_is_assumed():
    _, made = members(4)
    single = problem_of(SPACE, 0.4, [TOP1], tables={**IMAGES, "accumulated": {"top1": np.array(True)}})
    race = Race(single, RacingSettings((0.1,), 2.0, keep=1.0), depth=1, elite=1)
    assert promoted(race, made, [0.9, 0.5, 0.1, 0.0]) == made


def test_at_least_the_elite_of_the_first_generation_goes_up():
    _, made = members(6)
    single = problem_of(SPACE, 0.4, [TOP1], tables=IMAGES)
    race = Race(single, RacingSettings((0.1,), 0.0), depth=1, elite=3)
    assert promoted(race, made, [0.1, 0.9, 0.3, 0.8, 0.2, 0.7]) == [made[1], made[3], made[5]]
    assert race.promoted(0.1, [], [], []) == []


def test_a_front_drops_what_is_confidently_dominated_at_its_exact_cost():
    problem, made = members(3)
    for one, macs in zip(made, (100.0, 200.0, 300.0), strict=True):
        one.exact["macs"] = macs
    held = members(1, seed=9)[1][0]
    held.fitness = Fitness(0.0, (0.8, -150.0))
    race = Race(problem, RacingSettings((0.1,), 2.0, keep=1.0), depth=1, elite=1)
    # The first is cheaper than what is held, the second is near it in score, the third is neither.
    assert promoted(race, made, [0.2, 0.77, 0.5], [held]) == made[:2]


def test_an_offset_of_the_subset_itself_is_learned():
    _, made = members(40)
    single = problem_of(SPACE, 0.4, [TOP1], tables=IMAGES)
    race = Race(single, RacingSettings((0.1,), 2.0, keep=1.0), depth=1, elite=1)
    for one in made[:20]:
        race.observe(0.1, one, {"top1": 0.5}, {"top1": 0.6})
    held = members(1, seed=9)[1][0]
    held.fitness = Fitness(0.0, (0.7,))
    assert promoted(race, made[20:23], [0.61, 0.59, 0.2], [held]) == [made[20]]


def test_relatives_foretell_the_error_of_a_subset():
    rng = np.random.default_rng(0)
    directions = rng.normal(size=60)
    parents = rng.random((10, 60)) < 0.5
    children = np.repeat(parents, 8, axis=0) ^ (rng.random((80, 60)) < 0.03)
    truth = 0.01 + 0.01 * ((2.0 * children - 1.0) @ directions) / np.sqrt(60)
    order = rng.permutation(80)
    model = SubsetError()
    for index in order[:60]:
        model.observe(children[index], float(truth[index]))
    expected, deviation = model.predict([children[index] for index in order[60:]])
    left = truth[order[60:]] - expected
    assert np.abs(left).mean() < 0.6 * np.abs(truth[order[60:]] - truth[order[:60]].mean()).mean()
    assert 0.4 < np.std(left / deviation) < 2.0


def test_unrelated_errors_are_a_mean_and_a_deviation():
    rng = np.random.default_rng(0)
    model = SubsetError()
    values = 0.02 + 0.01 * rng.normal(size=60)
    for value in values:
        model.observe(rng.random(40) < 0.5, float(value))
    expected, deviation = model.predict([rng.random(40) < 0.5 for _ in range(5)])
    assert expected == pytest.approx(values.mean(), abs=0.004)
    assert deviation == pytest.approx(values.std(), rel=0.3)


def test_equal_differences_leave_no_margin_and_no_error():
    model = SubsetError()
    rng = np.random.default_rng(0)
    for _ in range(10):
        model.observe(rng.random(12) < 0.5, 0.25)
    expected, deviation = model.predict([np.ones(12, dtype=bool)])
    assert expected == pytest.approx(0.25)
    assert deviation == pytest.approx(0.0, abs=1e-9)


def test_with_one_objective_a_share_goes_up_those_of_least_loss_first():
    _, made = members(10)
    single = problem_of(SPACE, 0.4, [TOP1], tables=IMAGES)
    held = members(1, seed=9)[1]
    race = Race(single, RacingSettings((0.1,), 1e6, keep=0.2), depth=1, elite=1)
    scores = [{"top1": 0.8, "loss": 1.0 + (7 * place) % 10} for place in range(10)]
    assert race.promoted(0.1, made, scores, held) == [made[0], made[3]]
    without = [{"top1": 0.5 + 0.01 * place} for place in range(10)]
    assert race.promoted(0.1, made, without, held) == made[8:]
    everybody = Race(single, RacingSettings((0.1,), 1e6, keep=1.0), depth=1, elite=1)
    assert everybody.promoted(0.1, made, scores, held) == made
