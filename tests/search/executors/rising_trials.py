"""A space whose candidates are trained: how strongly the weights of a small network are pulled towards zero."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from evaluators.accuracy import Accuracy, AccuracySettings
from evaluators.cost import Cost, CostSettings
from evaluators.tasks.settings import build_task
from evaluators.training.optimizers import OptimizerSettings
from evaluators.training.settings import TrainingSettings
from search.algorithms.base import Algorithm
from search.executors.base import Evaluate, Workload
from search.executors.shipment import ship
from search.executors.trial_checkpoints import TrialCheckpoints
from search.executors.trial_evaluator import TrialEvaluator
from search.run.network import restore
from search.study.problem import Objective, Problem
from search.study.trial import Proposal, Trial
from spaces.base import SearchSpace
from spaces.candidate import Candidate
from spaces.domains import Domain, Real
from spaces.sparsifiers.base import Sparsifier
from tests.search.executors.digits_search import CPU, TASK

EPOCHS = 3
STEPS = 10


class Shrink(Sparsifier):
    """Adds the squared weights to the loss, more of them with every step; writes a line for every step."""

    def __init__(self, strength: float, log: Path, seconds: float) -> None:
        self.strength, self.log, self.seconds = strength, log, seconds
        self.steps = torch.zeros((), dtype=torch.int64)

    def start(self, model: nn.Module, total_steps: int) -> None:
        self.model = model

    def penalty(self) -> Tensor:
        return self.strength * int(self.steps) * sum(weight.square().sum() for weight in self.model.parameters())

    def after_step(self) -> None:
        self.steps += 1
        with self.log.open("a") as file:
            file.write(f"{self.strength:.6f} {int(self.steps)}\n")
        time.sleep(self.seconds)

    def state_dict(self) -> dict[str, Tensor]:
        return {"steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.steps = state["steps"].clone()


class Strengths(SearchSpace):
    """One decision, the strength; nothing is removed.

    Args:
        log: File that a line is written to for every step of every training.
        seconds: How long every step takes at the least.
    """

    def __init__(self, log: Path, seconds: float = 0.0) -> None:
        self.log, self.seconds = log, seconds

    @property
    def domains(self) -> Mapping[str, Domain]:
        return {"strength": Real(1e-6, 1e-2)}

    def prepare(self, model: nn.Module, candidate: Candidate) -> nn.Module:
        return copy.deepcopy(model)

    def convert(self, prepared: nn.Module) -> nn.Module:
        return prepared

    def sparsifier(self, candidate: Candidate) -> Sparsifier:
        return Shrink(float(candidate.values["strength"]), self.log, self.seconds)

    def transformation(self, candidate: Candidate) -> dict[str, Any]:
        raise NotImplementedError


class Rising(Algorithm):
    """Proposes three strengths."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem, None, 0)
        self.waiting = [Proposal(Candidate({"strength": strength})) for strength in (1e-6, 1e-4, 1e-3)]
        self.told: list[Trial] = []

    def ask(self, limit: int) -> list[Proposal]:
        now, self.waiting = self.waiting[:limit], self.waiting[limit:]
        return now

    def tell(self, trial: Trial) -> None:
        self.told.append(trial)

    @property
    def finished(self) -> bool:
        return len(self.told) == 3

    @property
    def budget(self) -> int | None:
        return 3


class Rungs(Algorithm):
    """Halving: three strengths for one epoch, the two best for two, the best of these for all three; another from its end."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem, None, 0)
        self.waiting = [Proposal(Candidate({"strength": strength}), 1 / EPOCHS) for strength in (1e-6, 1e-4, 1e-2)]
        self.rung: list[Trial] = []
        self.left = [(2, 2 / EPOCHS), (1, 1.0), (1, 0.0)]

    def ask(self, limit: int) -> list[Proposal]:
        now, self.waiting = self.waiting[:limit], self.waiting[limit:]
        return now

    def tell(self, trial: Trial) -> None:
        self.rung.append(trial)
        best = sorted(self.rung, key=lambda trial: (-trial.metrics["top1"], trial.number))
        if not self.left or len(self.rung) < self.expected:
            return
        number, fidelity = self.left.pop(0)
        candidate = {} if fidelity else {"strength": 1e-3}
        self.waiting = [
            Proposal(Candidate(candidate) if candidate else trial.proposal.candidate, fidelity, trial.number)
            for trial in best[:number]
        ]
        self.rung = []

    @property
    def expected(self) -> int:
        return [1, 1, 2, 3][len(self.left)]

    @property
    def warm_starts(self) -> list[int]:
        return [trial.number for trial in self.rung] + [p.warm_start for p in self.waiting if p.warm_start is not None]

    @property
    def finished(self) -> bool:
        return not self.left and len(self.rung) == 1

    @property
    def budget(self) -> int | None:
        return 7


def training_evaluator(log: Path, seconds: float = 0.0) -> TrialEvaluator:
    """Return how such a candidate is trained, for three epochs of ten steps, and measured."""
    task = build_task(TASK)
    model = restore(task, [], task.reference_model().state_dict()).model
    optimizer = OptimizerSettings("sgd", lr=0.05)
    settings = TrainingSettings(epochs=EPOCHS, batch_size=50, optimizer=optimizer)
    evaluators = [Accuracy(AccuracySettings(batch_norm_batches=0)), Cost(CostSettings())]
    return TrialEvaluator(Strengths(log, seconds), model, task, evaluators, 0, CPU, settings)


def training_workload(evaluator: TrialEvaluator, folder: Path) -> Workload:
    """Return what executors do with the evaluator."""

    def pack(device: str) -> Evaluate:
        return ship(evaluator, [], partial(build_task, TASK), 1, device)  # type: ignore[return-value]

    return Workload(evaluator.evaluate, pack, TrialCheckpoints(folder / "trials"))  # type: ignore[arg-type]


def training_problem(evaluator: TrialEvaluator) -> Problem:
    """Return the problem of the highest accuracy."""
    return Problem(evaluator.space, [Objective("top1", "maximize")], [], {})


def steps(log: Path) -> dict[str, list[int]]:
    """Return the steps that were made, by strength."""
    found: dict[str, list[int]] = {}
    for line in log.read_text().splitlines():
        strength, number = line.split()
        found.setdefault(strength, []).append(int(number))
    return found
