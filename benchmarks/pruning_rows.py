"""The rows of the channel-pruning benchmark: how each one turns the checkpoint into a smaller network."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import nn

from benchmarks.driving import measured
from benchmarks.pruning_bench import CPU, Bench, Row, Sizes
from evaluators.accuracy import Accuracy, AccuracySettings
from evaluators.cost import Cost, CostSettings
from evaluators.task import Task
from search.algorithms.base import Algorithm
from search.algorithms.encoding.uniform import uniform
from search.algorithms.genetic import GeneticAlgorithm
from search.algorithms.genetics.settings import GeneticSettings
from search.algorithms.random import RandomSearch, RandomSettings
from search.executors.trial_evaluator import TrialEvaluator
from search.study.pareto import best
from search.study.problem import Objective, Problem, Target
from spaces.candidate import Candidate
from spaces.channel_mask import ChannelMask, ChannelMaskSettings
from spaces.importance import criterion as importance
from spaces.sparsifiers.scaling_factor import Penalty, ScalingFactor, ScalingFactorSettings


@dataclass(frozen=True)
class SearchSizes(Sizes):
    """How much is trained and searched; the same for every row.

    Attributes:
        evaluations: Candidates of a search.
        population: Candidates of a generation.
    """

    evaluations: int = 120
    population: int = 20


QUICK = SearchSizes(train=512, search=256, pretraining=1, epochs=2, sparse=1, evaluations=16, population=8)
SearchBench = Bench[SearchSizes]
LONG = 10
SLOPES: dict[Penalty | None, float] = {"l1_half": 2e-4, "l1": 1e-3, None: 0.0}
"""Strengths with the same largest slope, 1e-3: that of L1/2 is limited to 5 by epsilon."""


def _problem(space: ChannelMask, model: nn.Module, limit: float, criterion: str, samples: int) -> Problem:
    tables: dict[str, Any] = {"importance": importance.score(model, space.groups, criterion), "samples": {"search": samples}}
    return Problem(space, [Objective("top1", "maximize")], [Target("macs", limit)], tables)


def _search(bench: SearchBench, task: Task, model: nn.Module, problem: Problem, algorithm: Algorithm[Any]) -> Candidate:
    evaluators = [Cost(CostSettings()), Accuracy(AccuracySettings(batch_norm_batches=4))]
    evaluator = TrialEvaluator(problem.space, model, task, evaluators, bench.seed, CPU)
    chosen = best(list(measured(algorithm, evaluator)), problem)
    if chosen is None:
        raise RuntimeError("no candidate was measured in full")
    return chosen.proposal.candidate


def _space(task: Task, model: nn.Module, compensate: bool = True) -> ChannelMask:
    batches = (inputs for inputs, _ in task.batches("train", 128, limit=1024))
    return ChannelMask(model, task.example_inputs(), ChannelMaskSettings(compensate=compensate), batches=batches)


def _long(penalty: Penalty | None, encoding: Literal["mask", "factor"]) -> Row:
    """Return the row of ten epochs with a penalty on the scaling factors, or without, a genetic search, then all epochs."""

    def row(bench: SearchBench, task: Task, reference: nn.Module, limit: float, path: Path) -> tuple[nn.Module, int]:
        settings = ScalingFactorSettings(penalty=penalty or "l1", strength=SLOPES[penalty], epsilon=1e-2)
        # One training for both encodings.
        shared = path.with_name(f"{bench.model}-{bench.seed}-long-{penalty or 'dense'}.json")
        model, _ = bench.sparse(task, reference, ScalingFactor(settings), shared, LONG, "one_cycle")
        space = _space(task, model)
        problem = _problem(space, model, limit, "bn_scale" if penalty else "l2", bench.sizes.search)
        sizes = bench.sizes
        options = GeneticSettings(
            population=sizes.population, generations=None, evaluations=sizes.evaluations, encoding=encoding
        )
        candidate = _search(bench, task, model, problem, GeneticAlgorithm(problem, options, bench.seed))
        return space.realize(model, candidate), sizes.epochs

    return row


def _genetic(sparse: bool, criterion: str) -> Row:
    def row(bench: SearchBench, task: Task, reference: nn.Module, limit: float, path: Path) -> tuple[nn.Module, int]:
        model, epochs = reference, bench.sizes.epochs
        if sparse:
            sparsifier = ScalingFactor(ScalingFactorSettings(penalty="l1_half", strength=2e-4, epsilon=1e-2))
            model, _ = bench.sparse(task, reference, sparsifier, path)
            epochs -= bench.sizes.sparse
        space = _space(task, model)
        problem = _problem(space, model, limit, criterion, bench.sizes.search)
        settings = GeneticSettings(population=bench.sizes.population, generations=None, evaluations=bench.sizes.evaluations)
        candidate = _search(bench, task, model, problem, GeneticAlgorithm(problem, settings, bench.seed))
        return space.realize(model, candidate), epochs

    return row


def _random(bench: SearchBench, task: Task, reference: nn.Module, limit: float, path: Path) -> tuple[nn.Module, int]:
    space = _space(task, reference)
    problem = _problem(space, reference, limit, "l2", bench.sizes.search)
    algorithm = RandomSearch(problem, RandomSettings(evaluations=bench.sizes.evaluations), bench.seed)
    return space.realize(reference, _search(bench, task, reference, problem, algorithm)), bench.sizes.epochs


def _uniform(compensate: bool) -> Row:
    def row(bench: SearchBench, task: Task, reference: nn.Module, limit: float, path: Path) -> tuple[nn.Module, int]:
        space = _space(task, reference, compensate)
        problem = _problem(space, reference, limit, "l2", bench.sizes.search)
        return space.realize(reference, uniform(problem)), bench.sizes.epochs

    return row


def peer(kind: str) -> Row:
    """Return the row of one of Torch-Pruning's pruners."""

    def row(bench: SearchBench, task: Task, reference: nn.Module, limit: float, path: Path) -> tuple[nn.Module, int]:
        import torch_pruning as tp

        from benchmarks.torch_pruning_peers import BNScaleRegularization, loss_gradients, prune_to

        inputs, epochs = task.example_inputs(), bench.sizes.epochs
        importance, everywhere, gradients = {
            "group_l2_local": (lambda: tp.importance.GroupMagnitudeImportance(p=2), False, None),
            "group_l2_global": (lambda: tp.importance.GroupMagnitudeImportance(p=2), True, None),
            "taylor": (tp.importance.GroupTaylorImportance, True, loss_gradients(task)),
            "bn_scale": (tp.importance.BNScaleImportance, True, None),
        }[kind]
        model = reference
        if kind == "bn_scale":
            model, _ = bench.sparse(task, reference, BNScaleRegularization(inputs, 1e-4), path)
            epochs -= bench.sizes.sparse
        return prune_to(model, inputs, limit, importance, everywhere, gradients), epochs

    return row


def _dense(bench: SearchBench, task: Task, reference: nn.Module, limit: float, path: Path) -> tuple[nn.Module, int]:
    return copy.deepcopy(reference), bench.sizes.epochs


LONG_ROWS: dict[str, Row] = {
    "10 epochs without a penalty, then genetic search (ours)": _long(None, "mask"),
    "10 sparse epochs (L1/2), then genetic search (ours)": _long("l1_half", "mask"),
    "10 sparse epochs (L1), then genetic search (ours)": _long("l1", "mask"),
    "10 sparse epochs (L1/2), then genetic, factors (ours)": _long("l1_half", "factor"),
}
"""Sparse learning at the length of CN111105035A: ten epochs more than the other rows, in each of these.

Compensation, racing, greedy masks in the first generation and distillation are ours, and on in all of them.
"""

ROWS: dict[str, Row] = {
    "genetic search (ours)": _genetic(sparse=False, criterion="l2"),
    "sparse + genetic search (ours)": _genetic(sparse=True, criterion="bn_scale"),
    "Torch-Pruning group L2, local": peer("group_l2_local"),
    "Torch-Pruning group L2, global": peer("group_l2_global"),
    "Torch-Pruning BN scale": peer("bn_scale"),
    "Torch-Pruning Taylor": peer("taylor"),
    "uniform": _uniform(compensate=False),
    "uniform, compensated (ours)": _uniform(compensate=True),
    "random search": _random,
    "dense, trained as long": _dense,
    **LONG_ROWS,
}
