"""The model of what levels cost: what it expects before and after measurements, what it forgets, and what it can't compare."""

from __future__ import annotations

import numpy as np
import pytest

from search.algorithms.encoding.level_model import LevelModel
from tests.search.algorithms.mixed_space import MixedSpace, mixed_problem
from tests.search.algorithms.synthetic_space import SyntheticSpace, problem_of

SPACE = SyntheticSpace([12, 16, 16, 20])
PROBLEM = problem_of(SPACE, 0.5)
TOPS = np.array([len(levels) for levels in PROBLEM.levels.values()])
ELASTICITIES = np.array([-3.0, -1.0, 0.5, -0.2])


def genomes(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, TOPS, size=(count, len(TOPS)))


def errors(some: np.ndarray) -> np.ndarray:
    """Return the importance that is gone, of every decision, as a share of the mean sum over decisions."""
    found = []
    for place, (name, levels) in enumerate(PROBLEM.levels.items()):
        gone = np.array(
            [sum(v for v, flag in zip(PROBLEM.tables["importance"][name], m, strict=True) if flag == "0") for m in levels]
        )
        found.append(gone[some[:, place]])
    shares = np.stack(found, axis=1)
    return shares / shares.sum(axis=1).mean()


def taught(count: int, noise: float, elasticities: np.ndarray = ELASTICITIES, batches: int = 10) -> LevelModel:
    rng, model = np.random.default_rng(1), LevelModel(PROBLEM)
    for batch in range(batches):
        some = genomes(count, batch)
        relative = errors(some) @ elasticities + noise * rng.standard_normal(count)
        # Inputs that are harder have larger losses; gains are taken as shares of their mean.
        model.learn(some, (batch + 1.0) * (relative - relative.mean() - 1.0), 1.0)
    return model


def expected(model: LevelModel, some: np.ndarray, draws: int = 300) -> np.ndarray:
    return model.expect(some, draws, np.random.default_rng(2))


def test_before_anything_is_measured_the_least_error_is_expected_to_be_the_best():
    some = genomes(50)
    mean = expected(LevelModel(PROBLEM), some, 20_000).mean(axis=0)
    assert np.corrcoef(mean, -errors(some).sum(axis=1))[0, 1] > 0.99


def test_what_is_measured_corrects_it_decision_by_decision():
    some = genomes(50, 99)
    mean = expected(taught(40, 0.01), some).mean(axis=0)
    truth = errors(some) @ ELASTICITIES
    assert np.corrcoef(mean, truth)[0, 1] > 0.99
    assert np.corrcoef(mean, -errors(some).sum(axis=1))[0, 1] < 0.95


def test_draws_vary_more_where_less_is_known():
    some = genomes(20, 99)
    spread = [
        expected(model, some).std(axis=0).mean() for model in (taught(40, 0.1), taught(4, 0.1, batches=2), taught(40, 2.0))
    ]
    assert spread[0] < spread[1]
    assert spread[0] < spread[2]


def test_it_follows_what_has_changed():
    model, some = taught(40, 0.01), genomes(50, 99)
    for batch in range(60):
        model.forget()
        few = genomes(8, 100 + batch)
        relative = errors(few) @ -ELASTICITIES
        model.learn(few, relative - relative.mean() - 1.0, 1.0)
    assert np.corrcoef(expected(model, some).mean(axis=0), errors(some) @ -ELASTICITIES)[0, 1] > 0.9


@pytest.mark.parametrize("gains", [[], [1.0], [-1.0, 0.0, 1.0]], ids=["none", "one", "no mean"])
def test_what_can_not_be_compared_teaches_nothing(gains: list[float]) -> None:
    model, some = LevelModel(PROBLEM), genomes(20)
    before = expected(model, some)
    model.learn(genomes(len(gains)), np.array(gains), 1.0)
    assert np.array_equal(expected(model, some), before)


@pytest.mark.parametrize("omega", [True, False])
def test_bits_are_expected_to_cost_what_omega_says_else_evenly(omega: bool) -> None:
    problem = mixed_problem(MixedSpace([4, 4]), omega=omega)
    levels = list(problem.levels.items())
    (first, second, *_) = [place for place, (_, some) in enumerate(levels) if not isinstance(some[0], str)]
    whole = np.array([len(some) - 1 for _, some in levels])
    without = [whole.copy(), whole.copy()]
    without[0][first] = without[1][second] = 0
    low, high, most = LevelModel(problem).expect(np.stack([*without, whole]), 20_000, np.random.default_rng(0)).mean(axis=0)
    assert most > max(low, high)
    if omega:
        names = [levels[place][0] for place in (first, second)]
        dearer = max(problem.tables["omega"][name][min(problem.tables["omega"][name])] for name in names)
        assert (low < high) == (problem.tables["omega"][names[0]][min(problem.tables["omega"][names[0]])] == dearer)
    else:
        assert low == pytest.approx(high, rel=0.05)
