"""Every algorithm for keep-masks also searches channels and bits together, under several targets at once."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.algorithms import ALGORITHMS
from search.algorithms.encoding.channel_encoding import ChannelEncoding, UnreachableTargetError
from search.algorithms.encoding.parameters import Shares, parameters_of
from search.algorithms.encoding.repair import fit_to_targets
from search.algorithms.encoding.uniform import global_magnitude, uniform
from search.algorithms.mixed_starts import mixed_starts, optimal_bits
from search.study.pareto import best, front
from search.study.problem import Problem
from search.study.trial import Trial
from spaces.candidate import Candidate
from spaces.domains import Mask
from spaces.registry import lookup
from tests.search.algorithms.mixed_space import SIZE, TOP1, MixedSpace, Saturating, mixed_problem
from tests.search.algorithms.synthetic_space import drive
from tests.variants import few

SPACE = MixedSpace([8, 12, 16])
SHARES = {"size_bytes": 0.4, "bit_operations": 0.15}
SMALL = {"genetic": {"population": 8, "generations": 4}, "random": {"evaluations": 24}, "optuna": {"evaluations": 24}}


def make(name: str, problem: Problem, seed: int = 0, **options: Any) -> Any:
    algorithm = lookup(ALGORITHMS, name, "algorithm")
    return algorithm(problem, algorithm.Settings(**{**SMALL[name], **options}), seed)


@pytest.mark.parametrize("omega", few([True, False]))
@pytest.mark.parametrize("objectives", [(TOP1,), (TOP1, SIZE)])
@pytest.mark.parametrize("name", sorted(SMALL))
def test_candidates_are_legal_keep_every_target_and_follow_from_the_seed(name: str, objectives: Any, omega: bool) -> None:
    problem = mixed_problem(SPACE, objectives, omega, **SHARES)
    fitness = Saturating(problem)
    trials = drive(make(name, problem), fitness)
    seen = [(trial.proposal.candidate.fingerprint, trial.proposal.fidelity) for trial in trials]
    assert len(trials) >= 20
    assert len(set(seen)) == len(seen)
    for trial in trials:
        SPACE.validate(trial.proposal.candidate)
        assert problem.violation(SPACE.costs(trial.proposal.candidate)) == 0.0
    again = drive(make(name, problem), fitness, batch=3)
    assert [trial.proposal for trial in again] == [trial.proposal for trial in trials]
    kept = {tuple(str(v).count("1") for v in t.proposal.candidate.values.values() if isinstance(v, str)) for t in trials}
    bits = {tuple(v for v in t.proposal.candidate.values.values() if isinstance(v, int)) for t in trials}
    assert len(kept) > 5
    assert len(bits) > 5
    assert front(trials, problem)


@pytest.mark.slow
def test_the_genetic_search_is_ahead_of_its_starts_and_of_chance() -> None:
    problem = mixed_problem(SPACE, **SHARES)
    fitness = Saturating(problem)
    found = {}
    for name in ("genetic", "random"):
        options = {"evaluations": 150, **({"generations": None, "racing": None} if name == "genetic" else {})}
        trials = drive(make(name, replace(problem, starts=mixed_starts(problem)), **options), fitness)
        chosen = best(trials, problem)
        assert chosen is not None
        found[name] = chosen.metrics["top1"]
    starts = max(fitness(candidate, 1.0)["top1"] for candidate in mixed_starts(problem))
    assert found["genetic"] > starts
    assert found["genetic"] > found["random"]


def test_masks_and_candidates_stand_for_each_other() -> None:
    encoding = ChannelEncoding(mixed_problem(SPACE, **SHARES))
    assert encoding.mixed
    assert not encoding.prefixes
    rng = np.random.default_rng(0)
    for _ in range(20):
        candidate = SPACE.sample(rng)
        assert encoding.candidate(encoding.masks(candidate)) == candidate
    small = ChannelEncoding(mixed_problem(MixedSpace([2, 3], (4, 8))))
    made = [small.candidate(masks).fingerprint for masks in small.enumerate()]
    assert len(set(made)) == len(made) == small.size() == 3 * 7 * 2**4


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.05, 1.0), st.floats(0.03, 1.0), st.booleans())
def test_repair_keeps_targets_that_can_be_kept_and_fills_them(
    seed: int, size: float, operations: float, per_cost: bool
) -> None:
    rng = np.random.default_rng(seed)
    try:
        encoding = ChannelEncoding(mixed_problem(SPACE, size_bytes=size, bit_operations=operations))
    except UnreachableTargetError:
        return
    masks = [rng.random(domain.length) < 0.7 for domain in encoding.domains]
    scores = [encoding.scores[i] if encoding.is_level(i) else rng.random(d.length) for i, d in enumerate(encoding.domains)]
    found = fit_to_targets(encoding, masks, scores, limit=1.0, per_cost=per_cost)
    candidate = encoding.candidate(found)
    SPACE.validate(candidate)
    assert encoding.load_of(candidate) <= 1.0
    # No decision can have a step more.
    for name, domain in SPACE.domains.items():
        value = candidate.values[name]
        more = (
            str(value).replace("0", "1", 1) if isinstance(domain, Mask) else next((b for b in (2, 3, 4, 8) if b > value), value)
        )
        if more != value:
            assert encoding.load_of(Candidate({**candidate.values, name: more})) > 1.0


def test_what_saves_nothing_of_the_exceeded_target_is_left_alone() -> None:
    """Bytes are exceeded and bit operations are not: inputs keep their bits."""
    encoding = ChannelEncoding(mixed_problem(SPACE, size_bytes=0.4, bit_operations=1.0))
    found = encoding.candidate(fit_to_targets(encoding, encoding.full(), encoding.scores, limit=1.0, per_cost=True, fill=False))
    assert {value for name, value in found.values.items() if name.endswith(".activation")} == {8}
    assert encoding.load_of(found) <= 1.0


def test_bits_for_given_channels_are_the_best_ones() -> None:
    space = MixedSpace([4, 6], (2, 4, 8))
    problem = mixed_problem(space, size_bytes=0.6, bit_operations=0.3)
    masks = {"layer0": "1110", "layer1": "110110"}
    found = optimal_bits(problem, masks)
    assert found is not None
    assert {name: found.values[name] for name in masks} == masks

    def omega(values: Any) -> float:
        return sum(entries[values[name]] for name, entries in problem.tables["omega"].items())

    legal = []
    for bits in itertools.product((2, 4, 8), repeat=4):
        values = {**masks, **dict(zip(space.bits, bits, strict=True))}
        if problem.violation(space.costs(Candidate(values))) == 0.0:
            legal.append(omega(values))
    assert omega(found.values) == pytest.approx(min(legal), rel=2e-3)
    assert optimal_bits(mixed_problem(space, size_bytes=0.01), masks) is None


def test_starts_keep_the_targets_and_come_first() -> None:
    problem = mixed_problem(SPACE, **SHARES)
    starts = mixed_starts(problem)
    assert len(starts) >= 4
    kept = [sum(str(v).count("1") for v in one.values.values() if isinstance(v, str)) for one in starts]
    assert max(kept) > 1.5 * min(kept)
    assert all(problem.violation(SPACE.costs(one)) == 0.0 for one in starts)
    given = replace(problem, starts=starts)
    for name in ("genetic", "optuna"):
        first = make(name, given).ask(2)
        assert [proposal.candidate for proposal in first] == starts[:2]
    assert mixed_starts(mixed_problem(SPACE)) == []


def test_baselines_keep_every_target() -> None:
    problem = mixed_problem(SPACE, **SHARES)
    for baseline in (uniform, global_magnitude):
        costs = SPACE.costs(baseline(problem))
        assert problem.violation(costs) == 0.0
        assert max(costs[target.metric] / target.limit for target in problem.targets) > 0.9
    with pytest.raises(UnreachableTargetError):
        uniform(mixed_problem(SPACE, size_bytes=0.4, bit_operations=1e-4))


def test_a_sampler_draws_a_share_for_every_decision() -> None:
    space = MixedSpace([8, 12], (4, 8))
    space._domains["layer0.weight"] = type(space.bits["layer0.weight"])((8,))
    problem = mixed_problem(space, size_bytes=0.5)
    parameters = parameters_of(problem)
    assert isinstance(parameters, Shares)
    assert set(parameters.distributions) == set(space.domains) - {"layer0.weight"}
    candidate = parameters.candidate(dict.fromkeys(parameters.distributions, 0.5))
    space.validate(candidate)
    assert problem.violation(space.costs(candidate)) == 0.0
    assert parameters.values(candidate).keys() == parameters.distributions.keys()


def test_bits_alone_are_searched_by_the_genetic_search_too() -> None:
    from tests.search.algorithms.bit_space import BitSpace, ByTable, bit_problem

    space = BitSpace(6, activations=(4, 8))
    problem = bit_problem(space, size_bytes=0.5, bit_operations=0.3)
    trials: list[Trial] = drive(make("genetic", problem, generations=None, evaluations=80), ByTable(space))
    chosen = best(trials, problem)
    assert chosen is not None
    assert problem.violation(chosen.metrics) == 0.0
    assert chosen.metrics["omega"] < space.omega(uniform(problem))
