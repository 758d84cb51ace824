"""The rows of the joint benchmark: how each one chooses the channels and the bits of the checkpoint's layers."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from benchmarks.driving import measured
from benchmarks.mixed_precision_rows import BitSizes
from benchmarks.pruning_bench import CPU, PEAK_LR, Bench
from evaluators.accuracy import Accuracy, AccuracySettings
from evaluators.cost import Cost, CostSettings, count_costs
from evaluators.sensitivity.estimates import SensitivitySettings, calibration_batches
from evaluators.sensitivity.loss_increase import sum_of
from evaluators.sensitivity.measured_increase import divergence_table
from evaluators.task import Task
from evaluators.training.loop import train
from search.algorithms.base import Algorithm
from search.algorithms.encoding.bit_encoding import BitEncoding
from search.algorithms.encoding.channel_encoding import ChannelEncoding, UnreachableTargetError
from search.algorithms.encoding.level_allocation import uniform_allocation
from search.algorithms.genetic import GeneticAlgorithm
from search.algorithms.genetics.settings import GeneticSettings
from search.algorithms.integer_program import IntegerProgramSettings, MixedIntegerProgram
from search.algorithms.mixed_starts import NODES, SHARES, kept_channels, mixed_starts
from search.algorithms.optuna_sampler import OptunaSampler, OptunaSamplerSettings, SamplerName
from search.algorithms.random import RandomSearch, RandomSettings
from search.executors.base import Job
from search.executors.trial_evaluator import TrialEvaluator
from search.output.atomic import write_json
from search.study.pareto import best
from search.study.problem import Objective, Problem, Target
from search.study.trial import Proposal, Trial
from spaces.base import SearchSpace
from spaces.bit_width import BitWidth, BitWidthSettings
from spaces.candidate import Candidate
from spaces.channel_mask import ChannelMask
from spaces.importance import criterion as importance
from spaces.joint import Joint
from spaces.joint_settings import JointSettings

BYTES, OPERATIONS = 0.1, 0.015
"""The targets: shares of the checkpoint's bytes and bit operations."""
SPLITS = (0.8, 0.6, 0.4)
"""Shares of the checkpoint's MACs that 'prune, then quantize' tries; its evaluations are divided among them."""
BITS = BitWidthSettings(weight_bits=(2, 3, 4, 5, 6, 8), activation_bits=(4, 5, 6, 8))
CALIBRATION = 1024


@dataclass(frozen=True)
class JointSizes(BitSizes):
    """How much is trained and tried; the same for every row.

    Attributes:
        pruned: Epochs of those that 'prune, then quantize' trains the pruned network for before it is quantized.
        population: Candidates of a generation.
    """

    epochs: int = 3
    evaluations: int = 40
    samples: int = 128
    pruned: int = 1
    population: int = 8


QUICK = JointSizes(train=512, search=256, pretraining=1, epochs=2, evaluations=12, samples=64, pruned=1, population=6)


JointBench = Bench[JointSizes]


@dataclass(frozen=True)
class Outcome:
    """What a row comes to.

    Attributes:
        model: The quantized network, to be trained.
        epochs: Epochs that are left.
        notes: Numbers for the cell.
    """

    model: nn.Module
    epochs: int
    notes: Mapping[str, Any]


@dataclass(frozen=True)
class Setting:
    """What the rows of one model and seed share.

    Attributes:
        bench: Model, seed and sizes.
        task: Data, loss and score.
        reference: The checkpoint.
        path: The cell's file.
    """

    bench: JointBench
    task: Task
    reference: nn.Module
    path: Path

    @property
    def sizes(self) -> JointSizes:
        """The benchmark's sizes."""
        return self.bench.sizes

    def images(self) -> Iterable[Any]:
        """Yield batches of training images to calibrate on."""
        return (inputs for inputs, _ in self.task.batches("train", 128, limit=CALIBRATION))

    def targets(self) -> list[Target]:
        """Return the limits on bytes and bit operations."""
        whole = count_costs(self.reference, self.task.example_inputs())
        return [
            Target("size_bytes", BYTES * whole["size_bytes"]),
            Target("bit_operations", OPERATIONS * whole["bit_operations"]),
        ]

    def bits(self, model: nn.Module) -> BitWidth:
        """Return the space of the bits of a network."""
        return BitWidth(model, self.task.example_inputs(), BITS, batches=self.images())

    def omega(self, space: BitWidth, model: nn.Module, path: Path) -> dict[str, dict[int, float]]:
        """Return the table of Omega of a network, measured once."""
        if not path.exists():
            options = {name: [int(bits) for bits in domain.options] for name, domain in space.domains.items()}
            most = {name: max(bits) for name, bits in options.items()}
            batches = calibration_batches(self.task, SensitivitySettings(samples=self.sizes.samples), CPU, 64)

            def prepare(values: Mapping[str, int]) -> nn.Module:
                return space.prepare(model, Candidate(dict(values))).eval()

            write_json(path, divergence_table(prepare, most, options, model, self.task, batches))
        found = json.loads(path.read_text())
        return {name: {int(bits): float(value) for bits, value in entries.items()} for name, entries in found.items()}

    def own_omega(self) -> dict[str, dict[int, float]]:
        """Return the table of the checkpoint."""
        path = self.bench.folder / f"{self.bench.model}-{self.bench.seed}-joint-omega.json"
        return self.omega(self.bits(self.reference), self.reference, path)

    def problem(self) -> Problem:
        """Return the problem of channels and bits together."""
        settings = JointSettings(bits=BITS)
        space = Joint(self.reference, self.task.example_inputs(), settings, batches=self.images())
        return self._problem(space, self.targets(), {"omega": self.own_omega()})

    def channels(self, macs: float) -> Problem:
        """Return the problem of the channels at a share of the checkpoint's MACs."""
        space = ChannelMask(self.reference, self.task.example_inputs(), batches=self.images())
        limit = macs * count_costs(self.reference, self.task.example_inputs())["macs"]
        return self._problem(space, [Target("macs", limit)], {})

    def _problem(self, space: Joint | ChannelMask, targets: list[Target], tables: Mapping[str, Any]) -> Problem:
        known = {
            "importance": importance.score(self.reference, space.groups, "bn_scale"),
            "samples": {"search": np.array(self.sizes.search)},
            **tables,
        }
        # Of 2,000 images several candidates answer the same number rightly; their loss still differs.
        problem = Problem(space, [Objective("loss", "minimize")], targets, known)
        return dataclasses.replace(problem, starts=tuple(mixed_starts(problem)))

    def evaluator(self, space: SearchSpace[Any], model: nn.Module) -> TrialEvaluator:
        """Return how candidates are measured: on the search split."""
        evaluators = [Cost(CostSettings()), Accuracy(AccuracySettings(batch_norm_batches=4))]
        return TrialEvaluator(space, model, self.task, evaluators, self.bench.seed, CPU)

    def searched(self, problem: Problem, algorithm: Algorithm[Any]) -> Trial:
        """Return the best trial of a search."""
        return _chosen(list(measured(algorithm, self.evaluator(problem.space, self.reference))), problem)


Row = Callable[[Setting], Outcome]
"""From what the rows of a cell share to the quantized network."""


def _chosen(trials: list[Trial], problem: Problem) -> Trial:
    chosen = best(trials, problem)
    if chosen is None:
        raise RuntimeError("no candidate was measured in full")
    return chosen


def _delivered(setting: Setting, problem: Problem, trial: Trial) -> Outcome:
    candidate = trial.proposal.candidate
    prepared = problem.space.prepare(setting.reference, candidate).eval()
    return Outcome(
        prepared, setting.sizes.epochs, {"candidate": dict(candidate.values), "searched_loss": trial.metrics["loss"]}
    )


def _genetic(setting: Setting, problem: Problem, evaluations: int, population: int) -> Algorithm[Any]:
    elite = min(GeneticSettings.elite, population)
    settings = GeneticSettings(population=population, generations=None, evaluations=evaluations, elite=elite)
    return GeneticAlgorithm(problem, settings, setting.bench.seed)


def _joint(setting: Setting) -> Outcome:
    problem = setting.problem()
    sizes = setting.sizes
    trial = setting.searched(problem, _genetic(setting, problem, sizes.evaluations, sizes.population))
    return _delivered(setting, problem, trial)


def _optuna(sampler: SamplerName) -> Row:
    def row(setting: Setting) -> Outcome:
        problem = setting.problem()
        settings = OptunaSamplerSettings(sampler=sampler, evaluations=setting.sizes.evaluations)
        return _delivered(setting, problem, setting.searched(problem, OptunaSampler(problem, settings, setting.bench.seed)))

    return row


def _random(setting: Setting) -> Outcome:
    problem = setting.problem()
    algorithm = RandomSearch(problem, RandomSettings(evaluations=setting.sizes.evaluations), setting.bench.seed)
    return _delivered(setting, problem, setting.searched(problem, algorithm))


def _uniform(setting: Setting) -> Outcome:
    """Keep the same share of every layer, with the same bits everywhere; the best share on the search split."""
    problem = setting.problem()
    evaluator = setting.evaluator(problem.space, setting.reference)
    encoding = ChannelEncoding(problem)
    shares = [kept_channels(encoding, share, globally=False) for share in SHARES]
    trials: list[Trial] = []
    for masks in shares:
        try:
            candidate = uniform_allocation(problem, masks)
        except UnreachableTargetError:
            continue
        trials.append(evaluator.evaluate(Job(len(trials), Proposal(candidate))))
    return _delivered(setting, problem, _chosen(trials, problem))


def _prune_then_quantize(setting: Setting) -> Outcome:
    """Search channels at several splits, train the best one pruned, choose its bits, and train again.

    The split is chosen by how its network scores on the search split when it is quantized, not trained yet: with the bits of
    least Omega, by the checkpoint's table. The bits that are delivered are chosen by a table of the pruned, trained network.
    """
    sizes, joint = setting.sizes, setting.problem()
    evaluator = setting.evaluator(joint.space, setting.reference)
    each = (sizes.evaluations - len(SPLITS)) // len(SPLITS)
    trials: list[Trial] = []
    for split in SPLITS:
        problem = setting.channels(split)
        found = setting.searched(problem, _genetic(setting, problem, each, min(sizes.population, max(2, each // 2))))
        masks = found.proposal.candidate.values
        program = MixedIntegerProgram(BitEncoding(joint, masks), IntegerProgramSettings(gap=1e-3, nodes=NODES))
        trials.append(evaluator.evaluate(Job(len(trials), Proposal(program.solve(()).candidate))))
    chosen = _chosen(trials, joint)
    names = set(joint.tables["importance"])
    masks = {name: value for name, value in chosen.proposal.candidate.values.items() if name in names}
    pruned = problem.space.realize(setting.reference, Candidate(masks))
    train(
        pruned,
        setting.task,
        setting.bench.training(sizes.pruned, PEAK_LR, distilled=True),
        seed=setting.bench.seed,
        device=CPU,
        teacher=setting.reference,
        checkpoint=setting.bench.epochs_of(setting.path.with_name(setting.path.stem + "-pruned.json")),
    )
    pruned = pruned.eval()
    bits = setting.bits(pruned)
    tables = {"omega": setting.omega(bits, pruned, setting.path.with_name(setting.path.stem + "-omega.json"))}
    quantized = Problem(bits, [Objective("omega", "minimize")], setting.targets(), tables)
    candidate = MixedIntegerProgram(BitEncoding(quantized), IntegerProgramSettings()).solve(()).candidate
    notes = {
        "candidate": {**masks, **candidate.values},
        "searched_loss": chosen.metrics["loss"],
        "split_loss": [trial.metrics["loss"] for trial in trials],
        "omega": sum_of(tables["omega"], candidate.values),
    }
    return Outcome(bits.prepare(pruned, candidate).eval(), sizes.epochs - sizes.pruned, notes)


ROWS: dict[str, Row] = {
    "joint, genetic (ours)": _joint,
    "joint, Optuna TPE (ours)": _optuna("tpe"),
    "prune, then quantize": _prune_then_quantize,
    "uniform x uniform": _uniform,
    "random search": _random,
}
