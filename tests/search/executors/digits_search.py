"""A search over a small network on the digits, and the means to lose its workers."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from evaluators.accuracy import Accuracy, AccuracySettings
from evaluators.base import EvaluationContext, Evaluator, Metric
from evaluators.cost import Cost, CostSettings
from evaluators.task import Task
from evaluators.tasks.data import DataSettings
from evaluators.tasks.model_factory import ModelSettings
from evaluators.tasks.settings import NamedData, TaskSettings, build_task
from evaluators.training.settings import TrainingSettings
from search.algorithms.genetic import GeneticAlgorithm
from search.algorithms.genetics.settings import GeneticSettings
from search.executors.base import Evaluate, Executor, Workload
from search.executors.shipment import ship
from search.executors.trial_checkpoints import TrialCheckpoints
from search.executors.trial_evaluator import TrialEvaluator
from search.output.progress import Log
from search.run.network import restore
from search.run.stage_run import Stopwatch
from search.stages.search.batch_loop import BatchLoop
from search.stages.search.loop import SearchLoop
from search.stages.search.search_note import SearchNote
from search.stages.search.settings import BudgetSettings
from search.study.problem import Objective, Problem, Target
from search.study.storage import open_journal
from search.study.study import Study
from search.study.trial import Trial
from spaces.channel_mask import ChannelMask
from spaces.importance.criterion import score
from tests.processes import WORKER, processes

CPU = torch.device("cpu")
TASK = TaskSettings(
    ModelSettings("spaces.networks.digits_cnn", {"width": 4}),
    NamedData("digits", DataSettings(search_size=300, train_size=500)),
)


@dataclass(frozen=True)
class PauseSettings:
    """How long every evaluation takes at the least."""

    seconds: float = 0.0


class Pause(Evaluator):
    """Takes its time, so that a worker can be lost meanwhile."""

    Settings: ClassVar[type[PauseSettings]] = PauseSettings

    def __init__(self, settings: PauseSettings) -> None:
        self.settings = settings

    @property
    def metrics(self) -> Mapping[str, Metric]:
        return {}

    def evaluate(self, model: nn.Module, context: EvaluationContext) -> dict[str, float]:
        time.sleep(self.settings.seconds)
        return {}


def make_evaluator(
    pause: float = 0.0, extra: tuple[Evaluator, ...] = (), training: TrainingSettings | None = None
) -> TrialEvaluator:
    """Return how candidates of the channel space of a small network are measured."""
    task = build_task(TASK)
    model = restore(task, [], task.reference_model().state_dict()).model
    batches = (inputs for inputs, _ in task.batches("train", 128))
    space = ChannelMask(model, task.example_inputs(), batches=batches, forward=task.forward)
    accuracy = Accuracy(AccuracySettings(batch_norm_batches=2))
    return TrialEvaluator(
        space, model, task, [Pause(PauseSettings(pause)), accuracy, Cost(CostSettings()), *extra], 0, CPU, training
    )


def make_problem(evaluator: TrialEvaluator) -> Problem:
    """Return the problem of keeping accuracy at 60 % of the MACs."""
    known = {"importance": score(evaluator.model, evaluator.space.groups, "bn_scale")}
    return Problem(
        evaluator.space, [Objective("top1", "maximize"), Objective("macs", "minimize")], [Target("macs", 40_000.0)], known
    )


def make_workload(
    evaluator: TrialEvaluator, folder: Path, threads: int = 1, build: Callable[[], Task] | None = None
) -> Workload:
    """Return what executors do for a search with ``evaluator``."""

    def pack(device: str) -> Callable[[], Evaluate]:
        return ship(evaluator, [], build or partial(build_task, TASK), threads, device)

    return Workload(evaluator.evaluate, pack, TrialCheckpoints(folder / "trials"), threads)


def search(
    folder: Path,
    problem: Problem,
    executor: Executor[Any],
    loop_class: type[SearchLoop] = BatchLoop,
    on_batch: Callable[[list[Trial]], None] = lambda trials: None,
    algorithm: Any = None,
    log: Callable[[str], None] = lambda text: None,
    batch: int = 8,
) -> list[Trial]:
    """Search three generations of eight, or with another algorithm."""
    if algorithm is None:
        algorithm = GeneticAlgorithm(problem, GeneticSettings(population=8, generations=3), seed=0)
    folder.mkdir(parents=True, exist_ok=True)
    study = Study(open_journal(folder / "study.journal"), "digits/0-search", problem)
    try:
        with Log(None, None).bar("search", None) as bar:
            return loop_class(
                algorithm=algorithm,
                study=study,
                executor=executor,
                checkpoints=TrialCheckpoints(folder / "trials"),
                budget=BudgetSettings(),
                batch=batch,
                stopwatch=Stopwatch(folder / "seconds.json"),
                bar=bar,
                note=SearchNote(problem),
                log=lambda text, level: log(text),
                on_batch=on_batch,
            ).run()
    finally:
        executor.close()


def timeless(trials: list[Trial]) -> list[Any]:
    """Return trials without what a clock has a part in."""
    return [(trial.number, trial.proposal, trial.state, dict(trial.metrics), trial.error) for trial in trials]


def kill_workers() -> None:
    """Kill all workers with SIGKILL: of several, one may not have got anything to do yet."""
    for pid in processes(WORKER):
        os.kill(pid, signal.SIGKILL)
