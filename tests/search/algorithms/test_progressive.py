"""The progressive loop: what it proposes, and how near it comes to the integer program."""

from __future__ import annotations

import dataclasses
import itertools
import statistics

import pytest

from search.algorithms.encoding.bit_encoding import BitEncoding
from search.algorithms.integer_program import MixedIntegerProgram
from search.algorithms.progressive import Progressive, ProgressiveSettings
from search.study.problem import Target
from tests.search.algorithms.bit_space import BitSpace, ByTable, bit_problem
from tests.search.algorithms.synthetic_space import drive, failed, measure


def run(space, problem, seed=0, fitness=None, **settings):
    return drive(Progressive(problem, ProgressiveSettings(**settings), seed), fitness or ByTable(space))


def trained(trials):
    return [trial for trial in trials if trial.proposal.fidelity == 1.0]


def excess(space, problem, **settings):
    """Return by how much the result's Omega exceeds that of the integer program at the same size."""
    last = trained(run(space, problem, **settings))[-1].proposal.candidate
    size = Target("size_bytes", space.costs(last)["size_bytes"])
    return space.omega(last) / MixedIntegerProgram(BitEncoding(problem)).solve([size]).loss - 1.0


def cases():
    for layers, seed, share in ((8, 0, 0.5), (20, 1, 0.5), (20, 2, 0.375), (20, 3, 0.3)):
        space = BitSpace(layers, seed)
        yield space, bit_problem(space, size_bytes=share)


@pytest.mark.slow
def test_ends_near_the_integer_programme_where_raw_omega_does_not():
    per_saving = [excess(space, problem) for space, problem in cases()]
    raw = [excess(space, problem, indicator="raw", candidates=8) for space, problem in cases()]
    assert statistics.fmean(per_saving) < 0.05
    assert statistics.fmean(raw) > 0.15
    assert statistics.fmean(raw) > 3 * statistics.fmean(per_saving)


def test_equal_saving_takes_the_steps_it_is_given():
    excesses = []
    for space, problem in cases():
        trials = run(space, problem, indicator="equal_saving", steps=8)
        assert len(trained(trials)) <= 1 + 8
        excesses.append(excess(space, problem, indicator="equal_saving", steps=8))
    assert statistics.fmean(excesses) < 0.1


def test_the_loop_starts_from_the_most_bits_and_only_lowers_them():
    space = BitSpace(10)
    trials = run(space, bit_problem(space, size_bytes=0.5))
    assert trials[0].proposal.candidate == space.most()
    steps = trained(trials)
    for before, after in itertools.pairwise(steps):
        pairs = zip(before.proposal.candidate.values.values(), after.proposal.candidate.values.values(), strict=True)
        assert all(high >= low for high, low in pairs)
        assert before.proposal.candidate != after.proposal.candidate


def test_each_step_judges_n_candidates_and_takes_the_one_of_least_rise_per_byte_saved():
    space = BitSpace(12)
    problem = bit_problem(space, size_bytes=0.5)
    trials = run(space, problem, candidates=6)
    limit = problem.targets[0].limit
    current, judged = space.most(), []
    for trial in trials[1:]:
        if trial.proposal.fidelity == 0.0:
            judged.append(trial.proposal.candidate)
            continue
        before = space.costs(current)["size_bytes"]

        def rate(candidate, before=before, current=current):
            saved = before - max(limit, space.costs(candidate)["size_bytes"])
            return (space.omega(candidate) - space.omega(current)) / saved

        assert 1 <= len(judged) <= 6
        assert trial.proposal.candidate == min(judged, key=rate)
        current, judged = trial.proposal.candidate, []


def test_with_training_every_step_starts_from_the_last_trained_trial():
    space = BitSpace(6)
    problem = dataclasses.replace(bit_problem(space, size_bytes=0.5), trains=True)
    algorithm = Progressive(problem, ProgressiveSettings(candidates=3), 0)
    trials, last = [], None
    while not algorithm.finished:
        batch = algorithm.ask(8)
        for proposal in batch:
            assert proposal.warm_start == last
            trials.append(measure(len(trials), proposal, ByTable(space)))
        for trial in trials[-len(batch) :]:
            algorithm.tell(trial)
        if trials[-1].proposal.fidelity == 1.0:
            last = trials[-1].number
            assert tuple(algorithm.warm_starts) == (() if algorithm.finished else (last,))
    assert trials[0].proposal.fidelity == 0.0
    assert problem.violation(space.costs(trials[-1].proposal.candidate)) == 0.0


def test_a_failed_training_gives_way_to_the_next_best():
    space = BitSpace(6)
    algorithm = Progressive(bit_problem(space, size_bytes=0.6), ProgressiveSettings(candidates=4), 0)
    trials, tried = [], []
    while not tried or len(tried) < 2:
        batch = algorithm.ask(8)
        for proposal in batch:
            number = len(trials)
            training = proposal.fidelity == 1.0 and number > 0
            tried.extend([proposal.candidate] if training else [])
            bad = training and len(tried) == 1
            trials.append(failed(number, proposal) if bad else measure(number, proposal, ByTable(space)))
        for trial in trials[-len(batch) :]:
            algorithm.tell(trial)
    judged = [trial.proposal.candidate for trial in trials if trial.proposal.fidelity == 0.0]
    assert tried[0] != tried[1]
    assert set(tried) <= set(judged)


@pytest.mark.slow
def test_refining_lowers_omega_within_the_target():
    space = BitSpace(8)
    problem = bit_problem(space, size_bytes=0.45)
    plain, refined = (trained(run(space, problem, refine=count))[-1] for count in (0, 12))
    assert space.omega(refined.proposal.candidate) <= space.omega(plain.proposal.candidate)
    assert problem.violation(space.costs(refined.proposal.candidate)) == 0.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"candidates": 0}, "candidates: "),
        ({"layers": 1.5}, "layers: "),
        ({"steps": 0}, "steps: "),
        ({"refine": -1}, "refine: "),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ProgressiveSettings(**settings)
