"""The rows of the benchmark of probabilistic pruning: ours, and what it is compared with on the same schedule."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import nn

from benchmarks.driving import measured
from benchmarks.pruning_bench import CPU, PEAK_LR, Bench, Row, Sizes
from benchmarks.pruning_rows import peer
from evaluators.accuracy import Accuracy, AccuracySettings
from evaluators.cost import Cost, CostSettings, count_costs
from evaluators.task import Task
from search.algorithms.halving import HalvingSettings
from search.algorithms.optuna_sampler import OptunaSampler, OptunaSamplerSettings
from search.executors.trial_checkpoints import TrialCheckpoints
from search.executors.trial_evaluator import TrialEvaluator
from search.output.atomic import write_json
from search.run.network import Network
from search.stages.removal import remove_channels
from search.study.pareto import best
from search.study.problem import Objective, Problem, Target
from spaces.channels.check import find_checked_groups
from spaces.channels.surgery import apply_cut, plan_cut
from spaces.importance import criterion as importance
from spaces.pruning_schedule import PruningSchedule, PruningScheduleSettings
from spaces.sparsifiers.allocation import RatioProfile
from spaces.sparsifiers.participation import Participation
from spaces.sparsifiers.probabilistic import Probabilistic, ProbabilisticSettings, numbers_of


@dataclass(frozen=True)
class PruningSizes(Sizes):
    """How much is trained.

    Attributes:
        trials: Trials of the search over the schedule, those of all rungs counted.
    """

    epochs: int = 4
    trials: int = 14


TO_THE_END = "probabilistic, the paper's A and u, t = 18, to the end"
AS_LONG = "one-shot L1, trained as long as that"
QUICK = PruningSizes(train=512, search=256, pretraining=1, epochs=2, trials=14)


class GradualMagnitude(Probabilistic):
    """Gradual magnitude pruning on the schedule of probabilistic pruning: hard masks, on the cubic of Zhu and Gupta 2017.

    arXiv 1710.01878. The groups of lowest norm go for good, more of them at every update, all by the end of the schedule.
    """

    def start(self, model: nn.Module, total_steps: int) -> None:
        super().start(model, total_steps)
        updates = max(1, math.floor(self.settings.share * total_steps / self.interval))
        self._participation = Cubic(self._participation.layers, updates)


class Cubic(Participation):
    """Probabilities of 0 and 1 alone: at an update, the cubic says how many groups of a layer are at 0."""

    def __init__(self, layers: tuple[object, ...], updates: int) -> None:
        super().__init__(layers, lambda ranks, number: ranks)  # type: ignore[arg-type]
        self._last = updates

    def update(self, scores: np.ndarray, step: int) -> None:
        self._updates += 1
        share = 1.0 - (1.0 - min(1.0, self._updates / self._last)) ** 3
        for layer in self.layers:
            block = slice(layer.offset, layer.offset + layer.size)
            order = np.argsort(np.where(self.p[block] > 0.0, scores[block], -1.0), kind="stable")
            self.p[block][order[: math.ceil(share * layer.number - 1e-9)]] = 0.0
        self._remember(step)


def settings_for(task: Task, reference: nn.Module, limit: float, base: ProbabilisticSettings) -> ProbabilisticSettings:
    """Return ``base`` with the limit as a share of the checkpoint's MACs."""
    return replace(base, macs=limit / count_costs(reference, task.example_inputs())["macs"])


def pruned(
    kind: type[Probabilistic],
    base: ProbabilisticSettings,
    bench: Bench[PruningSizes],
    task: Task,
    reference: nn.Module,
    limit: float,
    path: Path,
) -> nn.Module:
    """Return the network after a whole training with a sparsifier, without what that decided against."""
    sparsifier = kind(settings_for(task, reference, limit, base))
    model, complete = bench.sparse(task, reference, sparsifier, path, bench.sizes.epochs, schedule="one_cycle")
    removed = remove_channels(Network(model), sparsifier, task, complete)
    if removed is None:
        raise RuntimeError("nothing was removed")
    return removed[0].model


def sparsified(kind: type[Probabilistic], base: ProbabilisticSettings) -> Row:
    """Return the row of a sparsifier that prunes while it trains, for all epochs there are."""

    def row(bench: Bench[PruningSizes], task: Task, reference: nn.Module, limit: float, path: Path) -> tuple[nn.Module, int]:
        return pruned(kind, base, bench, task, reference, limit, path), 0

    return row


def to_the_end(base: ProbabilisticSettings) -> Row:
    """Return the row that prunes until every layer has its ratio, and then trains for all epochs that the other rows have."""

    def row(bench: Bench[PruningSizes], task: Task, reference: nn.Module, limit: float, path: Path) -> tuple[nn.Module, int]:
        sparsifier = Probabilistic(settings_for(task, reference, limit, base))
        model, complete = bench.sparse(task, reference, sparsifier, path, _epochs(bench, LONGEST), stop_when_finished=True)
        print(f"{path.stem}: {sparsifier.schedule['text']}", flush=True)
        removed = remove_channels(Network(model), sparsifier, task, complete)
        if removed is None:
            raise RuntimeError("nothing was removed")
        return removed[0].model, bench.sizes.epochs

    return row


def one_shot(base: ProbabilisticSettings, more: int = 0) -> Row:
    """Return the row of filters cut at once by L1 norm, to the same numbers as gradually, trained ``more`` steps longer."""

    def row(bench: Bench[PruningSizes], task: Task, reference: nn.Module, limit: float, path: Path) -> tuple[nn.Module, int]:
        groups = find_checked_groups(reference, task.example_inputs(), forward=task.forward)
        numbers = numbers_of(reference, groups, settings_for(task, reference, limit, base))
        scores = importance.score(reference, groups, "l1")
        mask = np.ones(groups.width, dtype=bool)
        for group, number in zip(groups.groups, numbers.tolist(), strict=True):
            mask[group.offset + np.argsort(scores[group.name], kind="stable")[:number]] = False
        return apply_cut(reference, plan_cut(groups, mask)), bench.sizes.epochs + (_epochs(bench, more) if more else 0)

    return row


def searched(bench: Bench[PruningSizes], task: Task, reference: nn.Module, limit: float, path: Path) -> tuple[nn.Module, int]:
    """Return the network of the best schedule that a search found; its own run is as long as any other row's."""
    share = limit / count_costs(reference, task.example_inputs())["macs"]
    space = PruningSchedule(reference, task.example_inputs(), PruningScheduleSettings(macs=(share,)), forward=task.forward)
    training = bench.training(bench.sizes.epochs, PEAK_LR, distilled=True)
    evaluators = [Cost(CostSettings()), Accuracy(AccuracySettings(batch_norm_batches=4))]
    evaluator = TrialEvaluator(space, reference, task, evaluators, bench.seed, CPU, training)
    starts = space.starting_points()
    problem = Problem(space, [Objective("top1", "maximize")], [Target("macs", limit)], {}, trains=True, starts=starts)
    settings = OptunaSamplerSettings(evaluations=bench.sizes.trials, halving=HalvingSettings((0.25, 0.5)))
    checkpoints = TrialCheckpoints(path.with_name(f"{path.stem}-trials"))
    trials = list(measured(OptunaSampler(problem, settings, bench.seed), evaluator, checkpoints))
    chosen = best(trials, problem)
    if chosen is None:
        raise RuntimeError("no schedule was run to its end")
    network = space.convert(evaluator.prepare(chosen.proposal, checkpoints.end(chosen.number)))
    write_json(path.with_name(f"{path.stem}-schedule.json"), dict(chosen.proposal.candidate.values))
    checkpoints.close()
    return network, 0


OURS = ProbabilisticSettings(importance="taylor")
"""Taylor's criterion, by the loss on the search split at 25 % of the MACs (seed 0, both networks): of l1, taylor, and shares of
0.25 and 0.5 of the steps."""
PAPERS = replace(OURS, largest=0.05, flatness=0.25, interval=180, draw="weight", importance="l1", shape=RatioProfile())
TENTH = replace(PAPERS, interval=18)
"""The paper's constants but for t, a tenth of its 180: about 150 updates in 2,700 steps, until every layer has its ratio."""
LONGEST = 4200
"""Steps within which these updates end, with ranks that move."""
AS_MANY = 2700
"""Steps that the row of one-shot L1 is trained longer, to match."""


def _epochs(bench: Bench[PruningSizes], steps: int) -> int:
    return math.ceil(steps / (bench.sizes.train // bench.sizes.batch))


ROWS: dict[str, Row] = {
    "probabilistic (ours)": sparsified(Probabilistic, OURS),
    "one-shot L1": one_shot(OURS),
    "gradual magnitude": sparsified(GradualMagnitude, replace(OURS, importance="l1")),
    "Torch-Pruning group L2, local": peer("group_l2_local"),
    "probabilistic, the paper's t = 180: two updates": sparsified(Probabilistic, PAPERS),
    TO_THE_END: to_the_end(TENTH),
    AS_LONG: one_shot(replace(OURS, importance="l1"), more=AS_MANY),
    "probabilistic, searched schedule": searched,
}
ONCE = ("probabilistic, the paper's t = 180: two updates", "probabilistic, searched schedule")
