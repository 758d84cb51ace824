"""Evolution of levels: budgets, starting points, selection in steps, what a generation records, and the end of small spaces."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from search.algorithms.encoding.channel_encoding import ChannelEncoding
from search.algorithms.encoding.level_genome import LevelGenome
from search.algorithms.encoding.uniform import global_magnitude, uniform
from search.algorithms.evolution import Evolution, EvolutionSettings
from search.algorithms.integer_program import optimum
from search.algorithms.testing import Case, check_algorithm, drive, failed, measured, small_settings
from search.study.problem import Target
from spaces.errors import SecateursError
from tests.search.algorithms.bit_space import OMEGA, BitSpace, ByTable, bit_problem
from tests.search.algorithms.mixed_space import MixedSpace, mixed_problem
from tests.search.algorithms.synthetic_space import ImageByImage, Interacting, SyntheticSpace, problem_of

SPACE = SyntheticSpace([12, 16, 16, 20])


def case(problem=None, measure=None, **options):
    problem = problem_of(SPACE, 0.5) if problem is None else problem
    return Case(Evolution, problem, small_settings(Evolution, **options), measure or Interacting(problem))


def steps_of(made, seed=0):
    """Return the steps of a search, each a list of its proposals, and its recorded trials."""
    algorithm, steps, trials = made.make(seed), {}, []
    while not algorithm.finished:
        for proposal in algorithm.ask(4):
            if proposal.step is not None:
                steps.setdefault(proposal.step, []).append(proposal)
            else:
                trials.append(measured(len(trials), proposal, made.measure))
            algorithm.tell(measured(len(trials), proposal, made.measure) if proposal.step is not None else trials[-1])
    return steps, trials


def test_a_generation_is_children_on_few_images_then_survivors_beside_the_parent_on_more():
    steps, trials = steps_of(case(children=6, generations=3, steps=((8, 3), (16, 1))))
    sizes = [(step.images, step.form, len(proposals)) for step, proposals in steps.items()]
    assert sizes[1:-1] == [(8, "rough", 6), (16, "close", 4)] * 3
    assert sizes[0][:2] == (16, "close")
    assert sizes[-1][:2] == (64, "final")
    assert len({step.seed for step in steps}) == len(steps), "two steps have the same inputs"
    assert [trial.proposal.notes["kind"] for trial in trials] == ["start", "generation", "generation", "generation", "guard"]
    generation = list(steps.values())[1:3]
    assert trials[0].proposal.candidate == generation[1][0].candidate, "the parent is not measured anew"
    recorded = trials[1].proposal.notes["steps"]
    for step, proposals in zip(recorded, generation, strict=True):
        assert {row["fingerprint"] for row in step["candidates"]} == {one.candidate.fingerprint for one in proposals}
        assert [row["rank"] for row in step["candidates"]] == list(range(1, len(proposals) + 1))
        scores = [row["score"] for row in step["candidates"]]
        assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("switches", [1, 3])
def test_children_keep_every_target_and_use_the_budget(switches):
    problem = problem_of(SPACE, 0.5)
    whole = SPACE.costs(SPACE.dense())
    problem = dataclasses.replace(problem, targets=[*problem.targets, Target("parameters", 0.55 * whole["parameters"])])
    steps, _ = steps_of(case(problem, switches=switches))
    loads = []
    for proposals in list(steps.values())[1:]:
        for proposal in proposals:
            costs = SPACE.costs(proposal.candidate)
            assert problem.violation(costs) == 0.0
            loads.append(max(costs[target.metric] / target.limit for target in problem.targets))
    assert np.median(loads) > 0.9


def test_children_are_new_and_few_switches_from_the_parent():
    problem = problem_of(SPACE, 0.5)
    genomes = LevelGenome(problem, ChannelEncoding(problem))
    parent = genomes.genome(uniform(problem))
    children = [genomes.child(parent, np.random.default_rng(seed), 1) for seed in range(20)]
    assert all((child > parent).sum() >= 1 for child in children)
    assert len({child.tobytes() for child in children}) > 5
    steps, _ = steps_of(case())
    firsts = [one.candidate.fingerprint for step, some in steps.items() if step.form == "rough" for one in some]
    assert len(set(firsts)) == len(firsts), "a child was measured twice"


def test_the_result_is_no_worse_than_any_starting_point_by_the_last_comparison():
    problem = problem_of(SPACE, 0.5)
    start = SPACE.sample(np.random.default_rng(3))
    while problem.violation(SPACE.costs(start)) > 0.0:
        start = SPACE.sample(np.random.default_rng(int(start.fingerprint, 16) % 1000))
    problem = dataclasses.replace(problem, starts=(start,))
    # The last comparison alone finds that start to be the best.
    hidden = Interacting(problem)

    def make(final):
        def measure(candidate, fidelity):
            found = hidden(candidate, fidelity)
            return {**found, "top1": 2.0} if final and candidate == start else found

        return measure

    made = case(problem)
    algorithm, trials = made.make(), []
    while not algorithm.finished:
        for proposal in algorithm.ask(5):
            last = proposal.step is not None and proposal.step.form == "final"
            trial = measured(len(trials), proposal, make(last))
            trials += [trial] if proposal.step is None else []
            algorithm.tell(trial)
    assert trials[-1].proposal.candidate == start
    assert trials[-1].metrics["top1"] == 2.0
    assert algorithm.incumbent(trials) is trials[-1]
    compared = {row["fingerprint"] for row in trials[-1].proposal.notes["steps"][0]["candidates"]}
    assert {one.fingerprint for one in (start, uniform(problem), global_magnitude(problem))} <= compared


def test_the_integer_program_is_a_starting_point_wherever_its_table_is_known():
    problem = problem_of(SPACE, 0.5)
    rng = np.random.default_rng(1)
    table = {name: [*np.sort(rng.random(len(levels) - 1))[::-1], 0.0] for name, levels in problem.levels.items()}
    known = dataclasses.replace(problem, tables={**problem.tables, "divergence": table})
    program = optimum(known)
    assert program not in (uniform(problem), global_magnitude(problem))
    steps, _ = steps_of(case(known))
    for compared in (next(iter(steps.values())), list(steps.values())[-1]):
        assert program in [proposal.candidate for proposal in compared]
    assert program not in [proposal.candidate for proposal in next(iter(steps_of(case(problem))[0].values()))]


def test_the_incumbent_is_the_last_parent_and_not_the_best_value():
    made = case()
    trials = made.run()
    better = dataclasses.replace(trials[1], metrics={**trials[1].metrics, "top1": 5.0})
    algorithm = made.make()
    assert algorithm.incumbent([trials[0], better, trials[2]]) is trials[2]
    assert algorithm.incumbent([trials[0], better, failed(2, trials[2].proposal)]) is better
    assert algorithm.incumbent([]) is None


def test_evolution_ends_ahead_of_uniform():
    problem = problem_of(SPACE, 0.4)
    measure = Interacting(problem)
    found = case(problem, measure, generations=20, children=12).run()[-1]
    assert found.metrics["top1"] > measure(uniform(problem), 1.0)["top1"] + 0.003


def test_a_larger_number_of_generations_begins_alike_and_goes_on_behind_an_end():
    few, many = case(generations=3), case(generations=5)
    short, long = few.run(), many.run()
    assert [trial.proposal for trial in short[:-1]] == [trial.proposal for trial in long[:4]]
    algorithm = many.make()
    for trial in short:
        algorithm.tell(trial)
    assert not algorithm.finished
    rest = drive(algorithm, many.measure, first=len(short))
    assert [trial.proposal for trial in rest] == [trial.proposal for trial in long[4:]]


@pytest.mark.parametrize("spent", [2, 3])
def test_a_budget_ends_with_the_comparison_and_a_larger_one_goes_on_behind_it(spent):
    made = case(generations=5)
    algorithm = made.make()
    short = drive(algorithm, made.measure, most=spent)
    algorithm.ask(2)
    algorithm.conclude()
    assert not algorithm.finished
    short += drive(algorithm, made.measure, first=spent)
    assert [trial.proposal.notes["kind"] for trial in short[spent:]] == ["guard"]
    algorithm.conclude()
    assert algorithm.finished
    again = made.make()
    for trial in short:
        again.tell(trial)
    rest = drive(again, made.measure, first=len(short))
    assert [trial.proposal for trial in rest] == [trial.proposal for trial in made.run()[spent:]]
    replayed = made.make()
    for trial in short:
        replayed.tell(trial)
    replayed.conclude()
    assert replayed.finished, "the comparison that is recorded is made again"


def test_a_conclusion_behind_the_first_comparison_has_nothing_to_compare():
    made = case()
    algorithm = made.make()
    assert len(drive(algorithm, made.measure, most=1)) == 1
    algorithm.conclude()
    assert algorithm.finished


def test_a_small_space_ends_the_search():
    trials = case(problem_of(SyntheticSpace([2, 2]), 1.0), generations=None).run()
    assert trials[-1].proposal.notes["exhausted"]
    assert len(trials) < 10


@pytest.mark.parametrize("kind", ["bits", "channels and bits"])
def test_other_spaces_with_levels(kind):
    if kind == "bits":
        space = BitSpace(6, bits=(2, 3, 4, 8), activations=(4, 8))
        problem = bit_problem(space, [OMEGA], size_bytes=0.5, bit_operations=0.5)
        check_algorithm(Case(Evolution, problem, small_settings(Evolution), ByTable(space)))
        return
    problem = mixed_problem(MixedSpace([8, 8]), macs=0.6, size_bytes=0.4)
    trials = case(problem, lambda candidate, fidelity: {"top1": 0.5, **problem.space.costs(candidate)}).run()
    assert trials[-1].proposal.notes["kind"] == "guard"
    assert all(problem.violation(problem.space.costs(trial.proposal.candidate)) == 0.0 for trial in trials)


def test_what_can_not_be_searched_is_said():
    with pytest.raises(SecateursError, match="evolution keeps a budget"):
        case(problem_of(SPACE, None)).make()
    with pytest.raises(SecateursError, match="evolution compares candidates as they are cut"):
        case(dataclasses.replace(problem_of(SPACE, 0.5), trains=True)).make()
    with pytest.raises(SecateursError, match="not recorded by an evolution"):
        case().make().tell(measured(0, dataclasses.replace(case().make().ask(1)[0], step=None), case().measure))


@pytest.mark.parametrize(
    "options",
    [{"children": 0}, {"switches": 0}, {"generations": 0}, {"steps": ()}, {"steps": ((8, 2),)}, {"steps": ((8, 20), (8, 1))}],
)
def test_options_out_of_range_are_named(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        EvolutionSettings(**options)


def test_the_random_control_has_as_many_passes():
    settings = EvolutionSettings()
    assert settings.passes == pytest.approx((8 * 256 + 3 * 1024) / 1024)
    assert Evolution.random_control(settings, SPACE, 62) == ("random", {"evaluations": 310})
    assert Evolution.fewest_evaluations(settings, False)[0] == 3


def test_what_fails_is_left_behind():
    problem = problem_of(SPACE, 0.5)
    measure, algorithm = ImageByImage(problem, 100), case(problem).make()
    number = 0
    while not algorithm.finished:
        for proposal in algorithm.ask(8):
            child = proposal.step is not None and proposal.step.form == "rough"
            algorithm.tell(failed(number, proposal) if child else measured(number, proposal, measure))
            number += proposal.step is None
    assert number == 7


def test_children_that_are_preselected_are_better_than_those_that_are_drawn():
    def mean(preselect):
        gains = []
        for seed in range(3):
            made = case(children=6, generations=8, preselect=preselect, steps=((64, 1),))
            steps, _ = steps_of(made, seed)
            late = list(steps.values())[4:-1]
            gains += [made.measure(one.candidate, 1.0)["top1"] for some in late for one in some[1:]]
        return np.mean(gains)

    assert mean(16) > mean(1)


def test_a_run_that_was_begun_without_levels_in_its_record_goes_on():
    made = case(generations=4)
    trials = made.run()
    bare = [
        {**step, "candidates": [{k: v for k, v in row.items() if k != "levels"} for row in step["candidates"]]}
        for step in trials[1].proposal.notes["steps"]
    ]
    old = dataclasses.replace(trials[1].proposal, notes={**trials[1].proposal.notes, "steps": bare})
    algorithm = made.make()
    algorithm.tell(trials[0])
    algorithm.tell(dataclasses.replace(trials[1], proposal=old))
    assert algorithm.ask(1)[0].step is not None


@pytest.mark.parametrize("levels", [[1, 2], [0, 0, 0, 99], [0, 0, 0, -1], [0, 0, 0, "1"], "0000", None])
def test_recorded_levels_of_no_candidate_are_refused(levels):
    made = case(generations=4)
    trials = made.run()
    steps = trials[1].proposal.notes["steps"]
    wrong = [{**step, "candidates": [{**row, "levels": levels} for row in step["candidates"]]} for step in steps]
    damaged = dataclasses.replace(trials[1].proposal, notes={**trials[1].proposal.notes, "steps": wrong})
    algorithm = made.make()
    algorithm.tell(trials[0])
    with pytest.raises(SecateursError, match="trial 1 records levels that are none of the space"):
        algorithm.tell(dataclasses.replace(trials[1], proposal=damaged))
