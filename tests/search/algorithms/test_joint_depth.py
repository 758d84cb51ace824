"""Every algorithm over channels and branches in one genome: within the budget, and ahead of either alone where both matter."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from search.algorithms import ALGORITHMS
from search.algorithms.encoding.channel_encoding import ChannelEncoding
from search.algorithms.encoding.level_genome import LevelGenome
from search.algorithms.encoding.uniform import branches_alone, global_magnitude, uniform
from search.algorithms.integer_program import optimum
from search.stages.search.context import starting_candidates
from search.study.problem import Objective, Problem, Target
from search.study.trial import Trial
from spaces.candidate import Candidate
from spaces.channel_mask import ChannelMaskSettings
from spaces.joint import Joint
from spaces.joint_settings import JointSettings
from spaces.levels.settings import LevelSettings
from spaces.networks import gpt_small
from spaces.registry import lookup

OPTIONS: dict[str, dict[str, Any]] = {
    "genetic": {"population": 6, "generations": 2},
    "evolution": {"children": 4, "generations": 4, "preselect": 4},
    "integer_program": {},
    "optuna": {"evaluations": 12, "startup": 4},
    "random": {"evaluations": 12},
}


@pytest.fixture(scope="module")
def problem() -> Problem:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = gpt_small(16, 3, 16, 2, length=8).eval()
    ids = torch.arange(1, 9)[None]
    channels = ChannelMaskSettings(levels=LevelSettings(steps=4), compensate=False)
    space = Joint(model, ids, JointSettings(channels, spaces=("channel_mask", "depth")), batches=[ids])
    rng = np.random.default_rng(0)
    importance = {name: rng.random(domain.channels) for name, domain in space.domains.items() if domain.channels}
    bare = Problem(
        space, [Objective("loss", "minimize")], [Target("macs", 0.7 * space.network_macs)], {"importance": importance}
    )
    divergence = {name: [*np.sort(rng.random(len(levels)))[::-1].tolist()[:-1], 0.0] for name, levels in bare.levels.items()}
    return replace(bare, tables={**bare.tables, "divergence": divergence})


def loss_of(problem: Problem, candidate: Candidate) -> float:
    genome = LevelGenome(problem, ChannelEncoding(problem)).genome(candidate)
    idle = problem.space.idle(candidate)
    table = problem.tables["divergence"]
    return sum(float(table[name][at]) for name, at in zip(problem.levels, genome, strict=True) if name not in idle)


def legal(problem: Problem, candidate: Candidate) -> bool:
    problem.space.validate(candidate)
    return problem.violation(problem.space.costs(candidate)) == 0.0


def branches(problem: Problem, candidate: Candidate) -> list[str]:
    return [part.name for part in problem.space.removable if candidate.values[part.name] == 0]


def test_baselines_and_starts_are_of_each_kind(problem: Problem) -> None:
    wide = [uniform(problem), global_magnitude(problem)]
    assert all(legal(problem, one) and not branches(problem, one) for one in wide)
    assert all(any("0" in str(one.values[name]) for name in problem.tables["importance"]) for one in wide)
    alone, half = (branches_alone(problem, share) for share in (1.0, 0.5))
    assert alone is not None
    assert half is not None
    assert legal(problem, alone)
    assert legal(problem, half)
    assert len(branches(problem, alone)) > len(branches(problem, half)) > 0
    assert all("0" not in str(alone.values[name]) for name in problem.tables["importance"])
    assert any("0" in str(half.values[name]) for name in problem.tables["importance"])
    assert {alone, half} <= set(starting_candidates(problem))
    influence = {name: float(values[-1]) for name, values in problem.space.gains().items()}
    order = sorted(influence, key=lambda name: influence[name])
    assert set(branches(problem, half)) == set(order[: len(branches(problem, half))])


@pytest.mark.parametrize("name", OPTIONS)
def test_it_keeps_the_budget_and_moves_between_kinds(name: str, problem: Problem) -> None:
    kind = lookup(ALGORITHMS, name, "algorithm")
    algorithm = kind(replace(problem, starts=starting_candidates(problem)), kind.Settings(**OPTIONS[name]), 0)
    seen: dict[str, tuple[float, Candidate]] = {}
    number = 0
    while not algorithm.finished and number < 200:
        asked = algorithm.ask(8)
        assert asked
        for proposal in asked:
            assert legal(problem, proposal.candidate)
            seen[proposal.candidate.fingerprint] = loss_of(problem, proposal.candidate), proposal.candidate
            metrics = {"loss": loss_of(problem, proposal.candidate), **problem.space.costs(proposal.candidate)}
            algorithm.tell(Trial(number, proposal, "complete", metrics, 0.1))
            number += proposal.step is None
    best = min(loss for loss, _ in seen.values())
    if name in ("evolution", "integer_program"):
        assert best <= min(loss_of(problem, one) for one in (uniform(problem), optimum(problem))) + 1e-9
    if name == "genetic":
        assert best <= loss_of(problem, uniform(problem)) + 1e-9
    if name != "integer_program":
        assert len({len(branches(problem, one)) for _, one in seen.values()}) > 1


def test_the_optimum_is_ahead_of_either_kind_alone(problem: Problem) -> None:
    best = optimum(problem)
    assert legal(problem, best)
    assert loss_of(problem, best) <= min(loss_of(problem, one) for one in (uniform(problem), branches_alone(problem) or best))


def test_of_a_network_there_is_one_genome(problem: Problem) -> None:
    genomes, rng = LevelGenome(problem, ChannelEncoding(problem)), np.random.default_rng(0)
    parent = genomes.genome(branches_alone(problem) or problem.space.cheapest() or Candidate({}))
    for _ in range(40):
        child = genomes.child(parent, rng, 3)
        candidate = genomes.candidate(child)
        for name in problem.space.idle(candidate):
            assert "0" not in str(candidate.values[name])
        parent = child
