"""The rows of the mixed-precision benchmark: how each one chooses the bits of the checkpoint's layers."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from benchmarks.mixed_precision_peer import mct_quantized
from benchmarks.pruning_bench import CPU, Bench, Sizes
from benchmarks.quantized_cells import quantized_training
from evaluators.cost import Cost, CostSettings
from evaluators.sensitivity.estimates import SensitivitySettings, calibration_batches
from evaluators.sensitivity.loss_increase import LossIncrease, sum_of
from evaluators.sensitivity.measured_increase import divergence_table
from evaluators.task import Task
from evaluators.training.optimizers import OptimizerSettings
from search.algorithms.base import Algorithm
from search.algorithms.encoding.uniform import uniform
from search.algorithms.integer_program import IntegerProgram, IntegerProgramSettings
from search.algorithms.progressive import Indicator, Progressive, ProgressiveSettings
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
        evaluations: Candidates of the random search.
        samples: Training images that Omega is estimated on.
        exported: Test images that the exported file and the network are compared on.
    """

    epochs: int = 3
    evaluations: int = 200
    samples: int = 256
    exported: int = 10_000


QUICK = BitSizes(train=512, search=256, pretraining=1, epochs=1, evaluations=8, samples=64, exported=256)


BitBench = Bench[BitSizes]


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

    def problem(self, trains: bool = False) -> Problem:
        """Return the problem: least Omega, in the bytes that the same bits in all layers but the first and last take."""
        settings = BitWidthSettings(weight_bits=(2, 3, 4, 5, 6, 8), activation_bits=(ACTIVATIONS,))
        images = (inputs for inputs, _ in self.task.batches("train", 128, limit=CALIBRATION))
        space = BitWidth(self.reference, self.task.example_inputs(), settings, batches=images)
        limit = space.costs(space.uniform(int(self.bits), ACTIVATIONS))["size_bytes"]
        table = self._table(space)
        return Problem(space, [Objective("omega", "minimize")], [Target("size_bytes", limit)], {"omega": table}, trains=trains)

    def _table(self, space: BitWidth) -> dict[str, dict[int, float]]:
        """Return the table of Omega, measured once per model and seed."""
        path = self.bench.folder / f"{self.bench.model}-{self.bench.seed}-omega.json"
        if not path.exists():
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


def _progressive(indicator: Indicator) -> Choose:
    def choose(setting: Setting, problem: Problem) -> tuple[Candidate, int]:
        return on_table(Progressive(problem, ProgressiveSettings(indicator=indicator), setting.bench.seed), problem)

    return choose


def _random(setting: Setting, problem: Problem) -> tuple[Candidate, int]:
    evaluations = setting.bench.sizes.evaluations
    return on_table(RandomSearch(problem, RandomSettings(evaluations=evaluations), setting.bench.seed), problem)


Choose = Callable[[Setting, Problem], tuple[Candidate, int]]
"""From a setting and its problem to the bits that a row chooses, and the evaluations it took."""


def _allocated(choose: Choose, epochs: bool) -> Row:
    """Return the row that chooses bits on the checkpoint's own weights, and trains with them or not."""

    def row(setting: Setting) -> Outcome:
        problem = setting.problem()
        candidate, evaluations = choose(setting, problem)
        prepared = problem.space.prepare(setting.reference, candidate).eval()
        notes = {"omega": sum_of(problem.tables["omega"], candidate.values), "evaluations": evaluations}
        return Outcome(prepared, setting.bench.sizes.epochs if epochs else 0, notes, candidate)

    return row


def _trained_along(setting: Setting) -> Outcome:
    """Choose bits by the patent's loop in full: the best candidate of every step is trained."""
    problem = setting.problem(trains=True)
    training = dataclasses.replace(quantized_training(setting.bench, 1), schedule="constant")
    training = dataclasses.replace(training, optimizer=OptimizerSettings("adamw", lr=3e-4, momentum=0.9, weight_decay=1e-4))
    omega = LossIncrease(dataclasses.replace(setting.sensitivity, sensitivity="adam"))
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
    algorithm = Progressive(problem, ProgressiveSettings(candidates=6, layers=0.7), setting.bench.seed)
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
    return Outcome(prepared, setting.bench.sizes.epochs, notes, candidate)


def _toolkit(setting: Setting) -> Outcome:
    """Quantize by model-compression-toolkit, in as many bytes of weights."""
    problem = setting.problem()
    space: Any = problem.space
    bits = space.uniform(int(setting.bits), ACTIVATIONS).values
    limit = sum(packed_bytes(p.elements, bits[p.decision]) for p in space.quantizers if p.kind == "weight")
    model, found = mct_quantized(setting.task, setting.reference, limit, CALIBRATION)
    return Outcome(model, 0, {"weight_bytes": found}, None)


ROWS: dict[str, Row] = {
    "integer program (ours)": _allocated(_integer_program, epochs=True),
    "progressive (ours)": _allocated(_progressive("per_saving"), epochs=True),
    "progressive, trained along (ours)": _trained_along,
    "progressive, raw Omega": _allocated(_progressive("raw"), epochs=False),
    "uniform": _allocated(_uniform, epochs=True),
    "random search": _allocated(_random, epochs=True),
    "integer program, not trained (ours)": _allocated(_integer_program, epochs=False),
    "progressive, not trained (ours)": _allocated(_progressive("per_saving"), epochs=False),
    "uniform, not trained": _allocated(_uniform, epochs=False),
    "model-compression-toolkit, not trained": _toolkit,
}
