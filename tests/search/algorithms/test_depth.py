"""Every algorithm over branches: within the budget, and never more of them gone than may be."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from search.algorithms import ALGORITHMS
from search.algorithms.encoding.channel_encoding import UnreachableTargetError
from search.algorithms.encoding.one_at_a_time import greedy_divergence
from search.algorithms.encoding.uniform import global_magnitude, uniform
from search.algorithms.integer_program import optimum
from search.stages.search.level_tables import LevelTables
from search.study.problem import Objective, Problem, Target
from search.study.trial import Trial
from spaces.candidate import Candidate
from spaces.depth import Depth, DepthSettings
from spaces.errors import SecateursError
from spaces.networks import resnet20
from spaces.registry import lookup
from tests.search.small_space import PointTask

LOSS = Objective("loss", "minimize")
OPTIONS: dict[str, dict[str, Any]] = {
    "genetic": {"population": 6, "generations": 3},
    "evolution": {"children": 3, "generations": 3},
    "integer_program": {},
    "optuna": {"evaluations": 12, "startup": 4},
    "random": {"evaluations": 12},
}


@pytest.fixture(scope="module")
def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return resnet20(width=4).eval()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def problem(network: nn.Module, images: torch.Tensor) -> Problem:
    space = Depth(network, images[:1], DepthSettings(max_removed=3), batches=[images])
    rng = np.random.default_rng(0)
    divergence = {name: [float(rng.random()), 0.0] for name in space.domains}
    return Problem(space, [LOSS], [Target("macs", 0.72 * space.network_macs)], {"divergence": divergence})


def loss_of(problem: Problem, candidate: Candidate) -> float:
    table = problem.tables["divergence"]
    return sum(float(table[name][int(value)]) for name, value in candidate.values.items())


def legal(problem: Problem, candidate: Candidate) -> bool:
    problem.space.validate(candidate)
    return problem.violation(problem.space.costs(candidate)) == 0.0


@pytest.mark.parametrize("name", OPTIONS)
def test_it_keeps_both_limits(name: str, problem: Problem) -> None:
    kind = lookup(ALGORITHMS, name, "algorithm")
    algorithm = kind(problem, kind.Settings(**OPTIONS[name]), 0)
    seen: dict[str, float] = {}
    number = 0
    while not algorithm.finished and number < 200:
        asked = algorithm.ask(8)
        assert asked
        for proposal in asked:
            assert legal(problem, proposal.candidate)
            seen[proposal.candidate.fingerprint] = loss_of(problem, proposal.candidate)
            metrics = {"loss": loss_of(problem, proposal.candidate), **problem.space.costs(proposal.candidate)}
            algorithm.tell(Trial(number, proposal, "complete", metrics, 0.1))
            number += proposal.step is None
    best = min(seen.values())
    assert best <= loss_of(problem, optimum(problem)) * (1.0 if name in ("integer_program", "genetic") else 3.0)


def test_baselines_keep_both_limits(problem: Problem) -> None:
    for candidate in (uniform(problem), global_magnitude(problem), optimum(problem)):
        assert legal(problem, candidate)


def test_the_greedy_order_is_gone_through_as_far_as_the_target_needs(problem: Problem) -> None:
    names = list(problem.space.domains)
    for order in (names[:3], names[4:7], names[2:5]):
        found = greedy_divergence(replace(problem, tables={**problem.tables, "removal_order": order}))
        gone = [name for name, value in found.values.items() if value == 0]
        assert legal(problem, found)
        assert set(gone) <= set(order)
    far = replace(problem, tables={"removal_order": names[:1]})
    assert greedy_divergence(far) == problem.space.cheapest()
    with pytest.raises(SecateursError, match="expected the space depth"):
        greedy_divergence(replace(problem, tables={}))
    with pytest.raises(UnreachableTargetError, match="max_removed"):
        greedy_divergence(replace(far, targets=[Target("macs", 1.0)]))


class Residual(nn.Module):
    """Three branches that scale by 1.2, 0.8 and 1.3: without the first, the second changes least; alone it changes most."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(1, 4), nn.Linear(4, 2)
        self.first, self.second, self.third = (nn.Linear(4, 4, bias=False) for _ in range(3))
        with torch.no_grad():
            for branch, change in ((self.first, 0.2), (self.second, -0.2), (self.third, 0.3)):
                branch.weight.copy_(change * torch.eye(4))

    def forward(self, points: torch.Tensor) -> torch.Tensor:
        values = self.stem(points)
        for branch in (self.first, self.second, self.third):
            values = values + branch(values)
        found: torch.Tensor = self.head(values)
        return found


def test_the_order_is_measured_one_at_a_time_and_goes_on_behind_a_kill(tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Residual().eval()
    task, told = PointTask(), list[str]()
    space = Depth(model, task.points[:1], DepthSettings(max_removed=2))
    tables = LevelTables(space, model, task, torch.device("cpu"), tmp_path, told.append, told.append)
    levels = space.leveled({})
    assert tables.removal_order(levels) == ["first", "second"]
    assert len(tables.removal_order(levels, dry=True)) == 2
    stored = json.loads((tmp_path / "removal_order.json").read_text())
    assert stored["table"]["second"][1] < stored["table"]["first"][1]
    before = len(told)
    assert tables.removal_order(levels) == ["first", "second"]
    assert len(told) == before


def test_the_optimum_is_the_best_of_all(problem: Problem) -> None:
    names = list(problem.space.domains)
    every = (Candidate({name: place >> bit & 1 for bit, name in enumerate(names)}) for place in range(2 ** len(names)))
    allowed = [one for one in every if problem.space.excess(one) == 0.0 and problem.violation(problem.space.costs(one)) == 0.0]
    assert loss_of(problem, optimum(problem)) == pytest.approx(min(loss_of(problem, one) for one in allowed))


def test_the_greedy_baseline_takes_the_least_influential_first(network: nn.Module, images: torch.Tensor) -> None:
    space = Depth(network, images[:1], batches=[images])
    problem = Problem(space, [LOSS], [Target("macs", 0.8 * space.network_macs)], {})
    gone = [name for name, value in global_magnitude(problem).values.items() if value == 0]
    order = sorted(space.domains, key=lambda name: float(space.gains()[name][1]))
    assert set(gone) == set(order[: len(gone)])
    assert len(gone) == 2
