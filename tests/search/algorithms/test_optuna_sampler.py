"""Optuna's samplers: better than chance, within targets, the same again, and rung by rung where they halve."""

import math
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest

from search.algorithms.encoding.uniform import uniform
from search.algorithms.halving import HalvingSettings
from search.algorithms.optuna_sampler import OptunaSampler, OptunaSamplerSettings
from search.algorithms.random import RandomSearch, RandomSettings
from search.study import pareto
from search.study.problem import Objective, Problem, Target
from search.study.trial import Proposal, Trial
from spaces.base import SearchSpace
from spaces.candidate import Candidate
from spaces.domains import Choice, Domain, Mask, Real
from spaces.errors import SecateursError
from tests.search.algorithms.bit_space import BitSpace, bit_problem, measured
from tests.search.algorithms.synthetic_space import MACS, TOP1, ImageByImage, Interacting, SyntheticSpace, drive, problem_of

SAMPLERS = ["tpe", pytest.param("gp", marks=pytest.mark.slow), "nsga2"]
LOSS = Objective("loss", "minimize")


class Mixed(SearchSpace):
    """Every kind of decision; the larger each is, the more it costs. The best is bits 4, rate 0.01, kind b, two channels."""

    @property
    def domains(self):
        return {
            "bits": Choice((8, 2, 4)),
            "rate": Real(1e-4, 1.0, log=True),
            "kind": Choice(("a", "b", "c")),
            "channels": Mask(4),
            "settled": Choice((7,)),
        }

    def costs(self, candidate):
        values = candidate.values
        return {"macs": float(values["bits"]) * str(values["channels"]).count("1")}

    def prepare(self, model, candidate):
        raise NotImplementedError

    def convert(self, prepared):
        raise NotImplementedError

    def transformation(self, candidate):
        raise NotImplementedError


def loss(candidate, fidelity):
    values = candidate.values
    away = abs(values["bits"] - 4) / 2 + abs(math.log10(values["rate"]) + 2) + (values["kind"] != "b")
    away += abs(str(values["channels"]).count("1") - 2) + (1.0 - fidelity) * (values["kind"] == "c")
    return {"loss": away, "macs": Mixed().costs(candidate)["macs"], "heat": 10 * values["rate"]}


def mixed(targets=(), **fields):
    return Problem(Mixed(), [LOSS], list(targets), {}, **fields)


def best_loss(sampler, seed, targets=(), evaluations=64):
    problem = mixed(targets)
    trials = drive(OptunaSampler(problem, OptunaSamplerSettings(sampler, evaluations), seed), loss)
    return pareto.best(trials, problem).metrics["loss"], trials


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_it_beats_chance_on_decisions_of_every_kind(sampler):
    seeds = range(3)
    ours = np.mean([best_loss(sampler, seed)[0] for seed in seeds])
    chance = np.mean([best_loss("random", seed)[0] for seed in seeds])
    assert ours < min(chance, 0.35), (ours, chance)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.slow
def test_it_finds_better_masks_than_a_uniform_ratio(sampler):
    for seed in (0,):
        problem = problem_of(SyntheticSpace([12, 16, 16]), 0.5, seed=seed)
        fitness = Interacting(problem, seed)
        trials = drive(OptunaSampler(problem, OptunaSamplerSettings(sampler, 48), seed), fitness)
        assert pareto.best(trials, problem).metrics["top1"] > fitness(uniform(problem), 1.0)["top1"]
        loads = [trial.metrics["macs"] / problem.targets[0].limit for trial in trials]
        assert max(loads) <= 1.0
        assert np.mean(loads) > 0.9  # The target is used up.


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_a_front_spreads_over_the_costs(sampler):
    problem = problem_of(SyntheticSpace([12, 16, 16]), 1.0, [TOP1, MACS])
    trials = drive(OptunaSampler(problem, OptunaSamplerSettings(sampler, 48), 0), Interacting(problem))
    front = pareto.front(trials, problem)
    shares = [trial.metrics["macs"] / problem.targets[0].limit for trial in front]
    assert len(front) >= 5
    assert min(shares) < 0.25 < 0.75 < max(shares)


@pytest.mark.parametrize("sampler", ["tpe", "gp", "nsga2"])
def test_a_known_cost_never_exceeds_its_target(sampler):
    _, trials = best_loss(sampler, 1, [Target("macs", 6.0)], 12)
    assert len(trials) == 12
    assert max(trial.metrics["macs"] for trial in trials) <= 6.0


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_measured_cost_is_learnt_to_keep_its_target(sampler):
    target = Target("heat", 0.05)  # The best rate is twice as hot.
    found, trials = best_loss(sampler, 0, [target])
    kept = [target.violation(trial.metrics) == 0.0 for trial in trials]
    assert np.mean(kept[-24:]) > np.mean(kept[:10])
    assert found < 1.0


def test_starts_come_first_and_only_once():
    start = Candidate({"bits": 4, "rate": 0.5, "kind": "a", "channels": "1100", "settled": 7})
    dear = Candidate({**start.values, "bits": 8, "channels": "1111"})
    algorithm = OptunaSampler(mixed([Target("macs", 10.0)], starts=[start, dear, start]), OptunaSamplerSettings(), 0)
    asked = [proposal.candidate for proposal in algorithm.ask(8)]
    assert asked[0] == start
    assert dear not in asked
    assert asked.count(start) == 1


def test_a_finite_space_is_searched_to_its_end():
    class Few(Mixed):
        @property
        def domains(self) -> dict[str, Domain]:
            return {"bits": Choice((2, 4, 8)), "channels": Mask(4)}

    problem = Problem(Few(), [Objective("macs", "maximize")], [Target("macs", 16.0)], {})
    algorithm = OptunaSampler(problem, OptunaSamplerSettings(evaluations=100), 0)
    trials = drive(algorithm, lambda candidate, fidelity: Few().costs(candidate))
    assert len(trials) == 4 + 4 + 2
    assert algorithm.finished


HALVING = OptunaSamplerSettings(evaluations=30, halving=HalvingSettings((0.25, 0.5)))


def test_rungs_halve_and_go_on_from_the_rung_before():
    trials = drive(OptunaSampler(mixed(trains=True), HALVING, 0), loss)
    assert [trial.proposal.fidelity for trial in trials] == [*[0.25] * 8, *[0.5] * 4, *[1.0] * 2] * 2
    for trial in trials:
        start = trial.proposal.warm_start
        assert (start is None) == (trial.proposal.fidelity == 0.25)
        if start is not None:
            before = trials[start].proposal
            assert before.candidate == trial.proposal.candidate
            assert before.fidelity == trial.proposal.fidelity / 2
    first = sorted(trials[:8], key=lambda trial: trial.metrics["loss"])
    assert {trial.proposal.warm_start for trial in trials[8:12]} == {trial.number for trial in first[:4]}


def test_end_states_are_needed_until_the_next_rung_is_closed():
    algorithm = OptunaSampler(mixed(trains=True), HALVING, 0)
    number, told, needed = 0, [], set()
    while not algorithm.finished:
        for proposal in algorithm.ask(3):
            assert proposal.warm_start is None or proposal.warm_start in needed
            told.append(Trial(number, proposal, "complete", loss(proposal.candidate, proposal.fidelity)))
            number += 1
        algorithm.tell(told.pop(0))
        needed = set(algorithm.warm_starts)
        assert {t.proposal.warm_start for t in told} - {None} <= needed
    assert not needed


def test_without_training_nothing_is_warm_started():
    trials = drive(OptunaSampler(mixed(), HALVING, 0), loss)
    assert {trial.proposal.warm_start for trial in trials} == {None}


@pytest.mark.parametrize("settings", [HALVING, replace(HALVING, halving=None), OptunaSamplerSettings("nsga2", 30)])
def test_replay_goes_on_as_the_live_run(settings):
    problem = mixed([Target("macs", 10.0)], trains=True)
    live = drive(OptunaSampler(problem, settings, 5), loss, batch=3)
    for cut in (5, 13, 20):
        again = OptunaSampler(problem, settings, 5)
        for trial in live[:cut]:
            again.tell(trial)
        rest = drive(again, loss, batch=7, first=cut)
        assert [trial.proposal for trial in rest] == [trial.proposal for trial in live[cut:]]


def test_a_rung_without_any_result_is_given_up():
    algorithm = OptunaSampler(mixed(trains=True), HALVING, 0)
    for number, proposal in enumerate(algorithm.ask(8)):
        algorithm.tell(Trial(number, proposal, "failed", {}, error="no"))
    assert {proposal.fidelity for proposal in algorithm.ask(8)} == {0.25}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"evaluations": 0}, "evaluations: expected at least 1"),
        ({"population": 1}, "population: expected at least 2"),
        ({"sampler": "gp", "halving": HalvingSettings()}, "halving: expected sampler tpe"),
        ({"evaluations": 13, "halving": HalvingSettings()}, "evaluations: expected at least 14"),
    ],
)
def test_wrong_settings_say_what_is_right(settings, words):
    with pytest.raises(ValueError, match=words):
        OptunaSamplerSettings(**settings)
    with pytest.raises(ValueError, match="fidelities: expected rising"):
        HalvingSettings((0.5, 0.25))


def test_halving_needs_one_objective_and_decisions_must_be_known():
    with pytest.raises(SecateursError, match="halving compares candidates by one objective"):
        OptunaSampler(problem_of(SyntheticSpace([4]), 0.5, [TOP1, MACS]), HALVING, 0)

    class Odd(Domain):
        def contains(self, value):
            return True

        def sample(self, rng):
            return 0

        @property
        def describe(self):
            return "anything"

    class Strange(Mixed):
        @property
        def domains(self):
            return {"odd": Odd()}

    with pytest.raises(SecateursError, match="'odd' is anything: expected options, numbers or keep-masks"):
        OptunaSampler(Problem(Strange(), [LOSS], [], {}), OptunaSamplerSettings(), 0)


def test_masks_are_measured_to_the_end_after_halving():
    problem = problem_of(SyntheticSpace([12, 16, 16]), 0.5)
    trials = drive(OptunaSampler(problem, HALVING, 0), ImageByImage(problem, 400))
    full = [trial for trial in trials if trial.proposal == Proposal(trial.proposal.candidate)]
    assert len(full) == 4


class Tight(BitSpace):
    """Bits, of which it is known which are the cheapest."""

    def cheapest(self) -> Candidate:
        return Candidate({name: min(domain.options) for name, domain in self.domains.items()})


def test_where_chance_finds_nothing_within_the_targets_the_smallest_candidate_is_tried() -> None:
    space = Tight(12, activations=(4, 6, 8))
    lowest = space.costs(space.cheapest())
    whole = space.costs(space.most())
    problem = bit_problem(space, **{metric: value / whole[metric] * (1 + 1e-9) for metric, value in lowest.items()})
    algorithm = OptunaSampler(problem, OptunaSamplerSettings(evaluations=4, batch=2), 0)
    (proposal,) = algorithm.ask(4)
    assert proposal.candidate == space.cheapest()
    algorithm.tell(measured(0, proposal, space))
    assert algorithm.finished


def test_its_random_control_has_as_many_evaluations_and_the_same_rungs():
    bits, masks = BitSpace(3), SyntheticSpace([4, 4])
    own = OptunaSamplerSettings("tpe", 64, batch=8, startup=5, halving=HalvingSettings())
    name, options = OptunaSampler.random_control(own, bits, 40)
    assert (name, OptunaSamplerSettings(**options)) == ("optuna", replace(own, sampler="random", evaluations=40))
    name, options = OptunaSampler.random_control(own, bits, own.bracket - 1)
    assert (name, OptunaSamplerSettings(**options)) == ("optuna", OptunaSamplerSettings("random", own.bracket - 1))
    assert OptunaSampler.random_control(own, masks, 40) == ("random", {"evaluations": 40})


def test_the_random_control_of_another_algorithm_is_random_search_where_that_fits():
    for space in (SyntheticSpace([4, 4]), Mixed(), Leveled(3)):
        assert RandomSearch.random_control(RandomSettings(), space, 9) == ("random", {"evaluations": 9})
    name, options = RandomSearch.random_control(RandomSettings(), BitSpace(3), 9)
    assert (name, OptunaSamplerSettings(**options)) == ("optuna", OptunaSamplerSettings("random", 9))


class Leveled(BitSpace):
    """A space whose decisions are made by level."""

    levels: ClassVar = {}
