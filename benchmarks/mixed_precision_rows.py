"""The rows of the mixed-precision benchmark: how each one chooses the bits of the checkpoint's layers."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from benchmarks.mixed_precision_peer import mct_quantized
from benchmarks.pruning_bench import CPU, Bench, Sizes
from benchmarks.quantized_cells import quantized_training
from evaluators.cost import Cost, CostSettings
from evaluators.sensitivity.estimates import Moments, SensitivitySettings, calibration_batches
from evaluators.sensitivity.loss_increase import LossIncrease, omega_table, sum_of
from evaluators.sensitivity.measured_increase import divergence_table
from evaluators.sensitivity.training_hessian import training_hessian
from evaluators.task import Task
from evaluators.training.moments import TrainingMoments
from evaluators.training.optimizers import OptimizerSettings
from evaluators.training.settings import TrainingSettings
from evaluators.training.state import end_of
from search.algorithms.base import Algorithm
from search.algorithms.encoding.uniform import uniform
from search.algorithms.integer_program import IntegerProgram, IntegerProgramSettings
from search.algorithms.optuna_sampler import OptunaSampler, OptunaSamplerSettings
from search.algorithms.progressive import Indicator, Pick, Progressive, ProgressiveSettings
from search.algorithms.random import RandomSearch, RandomSettings
from search.executors.base import Job
from search.executors.trial_checkpoints import TrialCheckpoints
from search.executors.trial_evaluator import TrialEvaluator
from search.output.atomic import write_json
from search.study.pareto import best
from search.study.problem import Objective, Problem, Target
from search.study.trial import Trial
from spaces.bit_width import BitWidth, BitWidthSettings
from spaces.candidate import Candidate
from spaces.quantization.stored_weight import packed_bytes

ACTIVATIONS = 8
CALIBRATION = 1024


@dataclass(frozen=True)
class BitSizes(Sizes):
    """How much is trained and tried.

    Attributes:
        adam: Whether the checkpoint is trained by Adam, whose second moments are then there; else by SGD.
        evaluations: Candidates of the random search and of Optuna's sampler.
        samples: Training images that Omega is estimated on.
        exported: Test images that the exported file and the network are compared on.
    """

    epochs: int = 3
    adam: bool = False
    evaluations: int = 200
    samples: int = 256
    exported: int = 10_000


QUICK = BitSizes(train=512, search=256, pretraining=1, epochs=1, evaluations=8, samples=64, exported=256)


class BitBench(Bench[BitSizes]):
    """A bench whose checkpoint may be trained by Adam."""

    def pretraining(self) -> TrainingSettings:
        settings = super().pretraining()
        if not self.sizes.adam:
            return settings
        return dataclasses.replace(settings, optimizer=OptimizerSettings("adam", lr=2e-3, momentum=0.9, weight_decay=0.0))

    def moments(self, task: Task) -> TrainingMoments:
        """Return the second moments at the end of the training behind the checkpoint."""
        self.reference(task)
        content = self.epochs_of(self.checkpoint_path).packed()
        if content is None:
            raise RuntimeError(f"the state of the training of {self.checkpoint_path} is lost: remove it to train again")
        return TrainingMoments.of(end_of(content)[1], self.pretraining())


TableKind = Literal["divergence", "adam", "hutchinson"]


@dataclass(frozen=True)
class Setting:
    """What the rows of one cell share.

    Attributes:
        bench: Model, seed and sizes.
        task: Data, loss and score.
        reference: The checkpoint.
        bits: Average bits of the weights that are decided on.
        path: The cell's file.
    """

    bench: BitBench
    task: Task
    reference: nn.Module
    bits: float
    path: Path

    def problem(self, trains: bool = False, kind: TableKind = "divergence") -> Problem:
        """Return the problem: least Omega, in the bytes that the same bits in all layers but the first and last take."""
        settings = BitWidthSettings(weight_bits=(2, 3, 4, 5, 6, 8), activation_bits=(ACTIVATIONS,))
        images = (inputs for inputs, _ in self.task.batches("train", 128, limit=CALIBRATION))
        space = BitWidth(self.reference, self.task.example_inputs(), settings, batches=images)
        limit = space.costs(space.uniform(int(self.bits), ACTIVATIONS))["size_bytes"]
        table = self._table(space, kind)
        return Problem(space, [Objective("omega", "minimize")], [Target("size_bytes", limit)], {"omega": table}, trains=trains)

    def _table(self, space: BitWidth, kind: TableKind) -> dict[str, dict[int, float]]:
        """Return the table of Omega, measured once per model, seed and kind."""
        suffix = "" if kind == "divergence" else f"-{kind}"
        path = self.bench.folder / f"{self.bench.model}-{self.bench.seed}-omega{suffix}.json"
        if not path.exists() and kind != "divergence":
            write_json(path, self._by_hessian(space, kind))
        elif not path.exists():
            options = {name: [int(bits) for bits in domain.options] for name, domain in space.domains.items()}
            most = {name: max(bits) for name, bits in options.items()}
            batches = calibration_batches(self.task, self.sensitivity, CPU, 64)
            table = divergence_table(
                lambda values: space.prepare(self.reference, Candidate(values)).eval(),
                most,
                options,
                self.reference,
                self.task,
                batches,
            )
            write_json(path, table)
        found = json.loads(path.read_text())
        return {name: {int(bits): float(value) for bits, value in entries.items()} for name, entries in found.items()}

    def _by_hessian(self, space: BitWidth, kind: Literal["adam", "hutchinson"]) -> dict[str, dict[int, float]]:
        """Return the table from second derivatives, for ``adam`` from the moments of the checkpoint's own training."""
        options = {name: [int(bits) for bits in domain.options] for name, domain in space.domains.items()}
        prepared = space.prepare(self.reference, Candidate({name: max(bits) for name, bits in options.items()})).eval()
        known = training_hessian(self.bench.moments(self.task), self.reference, prepared) if kind == "adam" else None
        settings = dataclasses.replace(self.sensitivity, sensitivity=kind)
        generator = torch.Generator().manual_seed(self.bench.seed)
        return omega_table(prepared, space.quantizers, options, self.task, settings, CPU, generator, known)[0]

    @property
    def sensitivity(self) -> SensitivitySettings:
        """How Omega is estimated."""
        return SensitivitySettings(samples=self.bench.sizes.samples, compare=False)


@dataclass(frozen=True)
class Outcome:
    """What a row comes to.

    Attributes:
        model: The quantized network.
        epochs: Epochs of training that it still gets.
        notes: Numbers for the cell.
        candidate: Its bits, None where others chose them.
    """

    model: nn.Module
    epochs: int
    notes: dict[str, float]
    candidate: Candidate | None


Row = Callable[[Setting], Outcome]
"""From what the rows of a cell share to the quantized network."""


def on_table(algorithm: Algorithm[Any], problem: Problem) -> tuple[Candidate, int]:
    """Return what a search by the table of Omega finds, building and training nothing, and the number of its trials."""
    trials: list[Trial] = []
    while not algorithm.finished:
        for proposal in algorithm.ask(64):
            values = proposal.candidate.values
            metrics = {"omega": sum_of(problem.tables["omega"], values), **problem.space.costs(proposal.candidate)}
            trials.append(Trial(len(trials), proposal, "complete", metrics))
            algorithm.tell(trials[-1])
    chosen = best(trials, problem)
    if chosen is None:
        raise RuntimeError("no candidate was measured in full")
    return chosen.proposal.candidate, len(trials)


def _uniform(setting: Setting, problem: Problem) -> tuple[Candidate, int]:
    return uniform(problem), 0


def _integer_program(setting: Setting, problem: Problem) -> tuple[Candidate, int]:
    return on_table(IntegerProgram(problem, IntegerProgramSettings(), setting.bench.seed), problem)


def _progressive(indicator: Indicator, pick: Pick = "sensitivity") -> Choose:
    def choose(setting: Setting, problem: Problem) -> tuple[Candidate, int]:
        settings = ProgressiveSettings(indicator=indicator, pick=pick)
        return on_table(Progressive(problem, settings, setting.bench.seed), problem)

    return choose


def _tpe(setting: Setting, problem: Problem) -> tuple[Candidate, int]:
    settings = OptunaSamplerSettings(sampler="tpe", evaluations=setting.bench.sizes.evaluations)
    return on_table(OptunaSampler(problem, settings, setting.bench.seed), problem)


def _random(setting: Setting, problem: Problem) -> tuple[Candidate, int]:
    evaluations = setting.bench.sizes.evaluations
    return on_table(RandomSearch(problem, RandomSettings(evaluations=evaluations), setting.bench.seed), problem)


Choose = Callable[[Setting, Problem], tuple[Candidate, int]]
"""From a setting and its problem to the bits that a row chooses, and the evaluations it took."""


def _allocated(choose: Choose, epochs: bool, kind: TableKind = "divergence") -> Row:
    """Return the row that chooses bits on the checkpoint's own weights, and trains with them or not."""

    def row(setting: Setting) -> Outcome:
        problem = setting.problem(kind=kind)
        candidate, evaluations = choose(setting, problem)
        prepared = problem.space.prepare(setting.reference, candidate).eval()
        notes = {"omega": sum_of(problem.tables["omega"], candidate.values), "evaluations": evaluations}
        return Outcome(prepared, setting.bench.sizes.epochs if epochs else 0, notes, candidate)

    return row


def _trained_along(base: ProgressiveSettings, kind: TableKind, more: bool) -> Row:
    """Return the row of the patent's loop in full: the best candidate of every step is trained for an epoch.

    Args:
        base: Options of the loop.
        kind: Omega before the first training; from then on it is by Adam's moments, for ``adam`` those of that training.
        more: Whether the epochs of the other rows follow.
    """

    def row(setting: Setting) -> Outcome:
        return _looped(setting, base, kind, more)

    return row


def _looped(setting: Setting, base: ProgressiveSettings, kind: TableKind, more: bool) -> Outcome:
    problem = setting.problem(trains=True, kind=kind)
    training = dataclasses.replace(quantized_training(setting.bench, 1), schedule="constant")
    training = dataclasses.replace(training, optimizer=OptimizerSettings("adamw", lr=3e-4, momentum=0.9, weight_decay=1e-4))
    moments: Moments = "training" if kind == "adam" else "measured"
    omega = LossIncrease(dataclasses.replace(setting.sensitivity, sensitivity="adam", moments=moments))
    evaluator = TrialEvaluator(
        problem.space,
        setting.reference,
        setting.task,
        [omega, Cost(CostSettings())],
        setting.bench.seed,
        CPU,
        training,
        tables={"omega": problem.tables["omega"]},
    )
    algorithm = Progressive(problem, base, setting.bench.seed)
    checkpoints = TrialCheckpoints(setting.path.with_suffix(".trials"))
    checkpoints.close()
    trials: list[Trial] = []
    while not algorithm.finished:
        for proposal in algorithm.ask(1):
            start = checkpoints.start(proposal)
            trial = evaluator.evaluate(Job(len(trials), proposal), checkpoints.of(proposal), start)
            if trial.error:
                raise RuntimeError(trial.error)
            checkpoints.keep(trial)
            algorithm.tell(trial)
            trials.append(trial)
            checkpoints.retain(algorithm.warm_starts, len(trials) - 1)
    chosen = best(trials, problem)
    if chosen is None:
        raise RuntimeError("no candidate was measured in full")
    prepared = evaluator.prepare(chosen.proposal, checkpoints.end(chosen.number))
    checkpoints.close()
    candidate = chosen.proposal.candidate
    trained = sum(trial.proposal.fidelity > 0 for trial in trials)
    notes = {"omega": sum_of(problem.tables["omega"], candidate.values), "evaluations": len(trials), "trained": trained}
    return Outcome(prepared, setting.bench.sizes.epochs if more else 0, notes, candidate)


def _toolkit(setting: Setting) -> Outcome:
    """Quantize by model-compression-toolkit, in as many bytes of weights."""
    problem = setting.problem()
    space: Any = problem.space
    bits = space.uniform(int(setting.bits), ACTIVATIONS).values
    limit = sum(packed_bytes(p.elements, bits[p.decision]) for p in space.quantizers if p.kind == "weight")
    model, found = mct_quantized(setting.task, setting.reference, limit, CALIBRATION)
    return Outcome(model, 0, {"weight_bytes": found}, None)


PROGRESSIVE = "progressive, by the training's moments (ours: per saving)"
DRAWN = "progressive, by the training's moments, raw and uniform"
AS_WRITTEN = "progressive as written, an epoch per step"
TPE = "n candidates by Optuna TPE, by hutchinson"
RANDOM = "random of n, by hutchinson"
BY_HESSIAN: dict[str, Row] = {
    PROGRESSIVE: _allocated(_progressive("per_saving"), True, "adam"),
    DRAWN: _allocated(_progressive("raw", "uniform"), True, "adam"),
    AS_WRITTEN: _trained_along(
        ProgressiveSettings(candidates=6, layers=1.0, indicator="raw", pick="uniform"), "adam", more=False
    ),
    TPE: _allocated(_tpe, True, "hutchinson"),
    "integer program, by hutchinson": _allocated(_integer_program, True, "hutchinson"),
    "integer program, by adam (the training's moments)": _allocated(_integer_program, True, "adam"),
    RANDOM: _allocated(_random, True, "hutchinson"),
}
"""Rows of second derivatives, for a checkpoint trained by Adam (``--optimizer adam``)."""

ROWS: dict[str, Row] = {
    "integer program, by divergence (ours)": _allocated(_integer_program, epochs=True),
    "progressive, by divergence (ours)": _allocated(_progressive("per_saving"), epochs=True),
    "progressive, trained along, by measured adam (ours)": _trained_along(
        ProgressiveSettings(candidates=6, layers=0.7), "divergence", more=True
    ),
    "progressive, raw Omega by divergence": _allocated(_progressive("raw"), epochs=False),
    "uniform": _allocated(_uniform, epochs=True),
    "random search, by divergence": _allocated(_random, epochs=True),
    "integer program, by divergence, not trained (ours)": _allocated(_integer_program, epochs=False),
    "progressive, by divergence, not trained (ours)": _allocated(_progressive("per_saving"), epochs=False),
    "uniform, not trained": _allocated(_uniform, epochs=False),
    "model-compression-toolkit, not trained": _toolkit,
    **BY_HESSIAN,
}
