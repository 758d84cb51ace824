"""The rows of the channel-pruning benchmark: how each one turns the checkpoint into a smaller network."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from benchmarks.driving import measured
from evaluators.accuracy import Accuracy, AccuracySettings, measure
from evaluators.cost import Cost, CostSettings, count
from evaluators.model_factory import ModelSettings
from evaluators.small_images import FashionMNIST
from evaluators.task import Task
from evaluators.task_settings import NamedData, TaskSettings, build_task
from evaluators.training.batch_norm import recalibrate
from evaluators.training.checkpoint import FileCheckpoint
from evaluators.training.loop import train
from evaluators.training.optimizers import OptimizerSettings
from evaluators.training.settings import DistillationSettings, TrainingSettings
from search.algorithms.base import Algorithm
from search.algorithms.genetic import GeneticAlgorithm
from search.algorithms.genetic_settings import GeneticSettings
from search.algorithms.random import RandomSearch, RandomSettings
from search.algorithms.uniform import uniform
from search.atomic import write_json
from search.evaluation import Recipe
from search.pareto import best
from search.problem import Objective, Problem, Target
from spaces.candidate import Candidate
from spaces.channel_mask import ChannelMask, ChannelMaskSettings
from spaces.sparsifiers import importance
from spaces.sparsifiers.base import Sparsifier
from spaces.sparsifiers.scaling_factor import ScalingFactor, ScalingFactorSettings

CPU = torch.device("cpu")
PEAK_LR = 0.05


@dataclass(frozen=True)
class Sizes:
    """How much is trained and searched; the same for every row.

    Attributes:
        train: Training images.
        search: Images of the search split.
        pretraining: Epochs behind the checkpoint.
        epochs: Epochs after it, in all.
        sparse: How many of these a row with sparse training spends on it.
        evaluations: Candidates of a search.
        population: Candidates of a generation.
    """

    train: int = 6000
    search: int = 2000
    pretraining: int = 12
    epochs: int = 2
    sparse: int = 1
    evaluations: int = 120
    population: int = 20


QUICK = Sizes(train=512, search=256, pretraining=1, epochs=2, sparse=1, evaluations=16, population=8)


@dataclass(frozen=True)
class Bench:
    """One model and seed: data, checkpoint and settings shared by its rows."""

    model: str
    seed: int
    sizes: Sizes
    data: str
    folder: Path

    def task(self) -> Task:
        settings = FashionMNIST.Settings(root=self.data, search_size=self.sizes.search, train_size=self.sizes.train)
        factory = ModelSettings(f"spaces.networks.{self.model}", {"in_channels": 1, "classes": 10}, init_seed=self.seed)
        return build_task(TaskSettings(factory, NamedData("fashion_mnist", settings)))

    def training(self, epochs: int, lr: float, distilled: bool) -> TrainingSettings:
        return TrainingSettings(
            epochs=epochs,
            batch_size=64,
            optimizer=OptimizerSettings("sgd", lr=lr, momentum=0.9, weight_decay=5e-4),
            distillation=DistillationSettings(weight=0.5, temperature=4.0) if distilled else None,
        )

    def reference(self, task: Task) -> nn.Module:
        """Return the checkpoint, trained at the first call."""
        model = task.reference_model()
        path = self.folder / f"{self.model}-{self.seed}-checkpoint.safetensors"
        if not path.exists():
            settings = self.training(self.sizes.pretraining, 0.1, distilled=False)
            train(model, task, settings, seed=self.seed, device=CPU, checkpoint=self._epochs(path))
            save_file(model.state_dict(), path.with_suffix(".tmp"))
            path.with_suffix(".tmp").replace(path)
        model.load_state_dict(load_file(path))
        return model.eval()

    def reference_top1(self, task: Task, reference: nn.Module) -> float:
        """Return the checkpoint's top-1 on the test split, measured at the first call."""
        path = self.folder / f"{self.model}-{self.seed}-checkpoint.json"
        if not path.exists():
            write_json(path, {"test_top1": measure(reference, task, "test")["top1"]})
        return float(json.loads(path.read_text())["test_top1"])

    def _epochs(self, path: Path) -> FileCheckpoint:
        return FileCheckpoint(path.with_name(path.stem + "-epochs.safetensors"))

    def sparse(self, task: Task, reference: nn.Module, sparsifier: Sparsifier, path: Path) -> nn.Module:
        """Return the checkpoint after sparse training, with distillation from itself like every other epoch."""
        model = task.reference_model()
        model.load_state_dict(reference.state_dict())
        settings = dataclasses.replace(self.training(self.sizes.sparse, PEAK_LR, distilled=True), schedule="constant")
        checkpoint = self._epochs(path.with_name(path.stem + "-sparse.json"))
        train(
            model, task, settings, seed=self.seed, device=CPU, teacher=reference, sparsifier=sparsifier, checkpoint=checkpoint
        )
        return model.eval()

    def finish(self, task: Task, model: nn.Module, reference: nn.Module, epochs: int, path: Path) -> dict[str, float]:
        """Train for the epochs that are left, and measure on the test split."""
        recalibrate(model, task.batches("train", 256, limit=2048), task.forward, CPU)
        before = measure(model, task, "search")
        settings = self.training(epochs, PEAK_LR, distilled=True)
        history = train(model, task, settings, seed=self.seed, device=CPU, teacher=reference, checkpoint=self._epochs(path))
        self._epochs(path).path.unlink(missing_ok=True)
        return {
            "search_top1_before": before["top1"],
            "search_top1": float(history.epochs[-1].search_score),
            "test_top1": measure(model, task, "test")["top1"],
            **count(model, task.example_inputs()),
        }


Row = Callable[[Bench, Task, nn.Module, float, Path], tuple[nn.Module, int]]
"""From (bench, task, reference, MACs limit, path of the cell) to the pruned network and the epochs left."""


def _problem(space: ChannelMask, model: nn.Module, limit: float, criterion: str, samples: int) -> Problem:
    tables: dict[str, Any] = {"importance": importance.score(model, space.groups, criterion), "samples": {"search": samples}}
    return Problem(space, [Objective("top1", "maximize")], [Target("macs", limit)], tables)


def _search(bench: Bench, task: Task, model: nn.Module, problem: Problem, algorithm: Algorithm) -> Candidate:
    evaluators = [Cost(CostSettings()), Accuracy(AccuracySettings(batch_norm_batches=4))]
    recipe = Recipe(problem.space, model, task, evaluators, bench.seed, CPU)
    chosen = best(list(measured(algorithm, recipe)), problem)
    if chosen is None:
        raise RuntimeError("no candidate was measured in full")
    return chosen.proposal.candidate


def _space(task: Task, model: nn.Module, compensate: bool = True) -> ChannelMask:
    batches = (inputs for inputs, _ in task.batches("train", 128, limit=1024))
    return ChannelMask(model, task.example_inputs(), ChannelMaskSettings(compensate=compensate), batches=batches)


def _genetic(sparse: bool, criterion: str) -> Row:
    def row(bench: Bench, task: Task, reference: nn.Module, limit: float, path: Path) -> tuple[nn.Module, int]:
        model, epochs = reference, bench.sizes.epochs
        if sparse:
            sparsifier = ScalingFactor(ScalingFactorSettings(penalty="l1_half", strength=2e-4, epsilon=1e-2))
            model = bench.sparse(task, reference, sparsifier, path)
            epochs -= bench.sizes.sparse
        space = _space(task, model)
        problem = _problem(space, model, limit, criterion, bench.sizes.search)
        settings = GeneticSettings(population=bench.sizes.population, generations=None, evaluations=bench.sizes.evaluations)
        candidate = _search(bench, task, model, problem, GeneticAlgorithm(problem, settings, bench.seed))
        return space.realize(model, candidate), epochs

    return row


def _random(bench: Bench, task: Task, reference: nn.Module, limit: float, path: Path) -> tuple[nn.Module, int]:
    space = _space(task, reference)
    problem = _problem(space, reference, limit, "l2", bench.sizes.search)
    algorithm = RandomSearch(problem, RandomSettings(evaluations=bench.sizes.evaluations), bench.seed)
    return space.realize(reference, _search(bench, task, reference, problem, algorithm)), bench.sizes.epochs


def _uniform(compensate: bool) -> Row:
    def row(bench: Bench, task: Task, reference: nn.Module, limit: float, path: Path) -> tuple[nn.Module, int]:
        space = _space(task, reference, compensate)
        problem = _problem(space, reference, limit, "l2", bench.sizes.search)
        return space.realize(reference, uniform(problem)), bench.sizes.epochs

    return row


def _peer(kind: str) -> Row:
    def row(bench: Bench, task: Task, reference: nn.Module, limit: float, path: Path) -> tuple[nn.Module, int]:
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
            model = bench.sparse(task, reference, BNScaleRegularization(inputs, 1e-4), path)
            epochs -= bench.sizes.sparse
        return prune_to(model, inputs, limit, importance, everywhere, gradients), epochs

    return row


def _dense(bench: Bench, task: Task, reference: nn.Module, limit: float, path: Path) -> tuple[nn.Module, int]:
    model = task.reference_model()
    model.load_state_dict(reference.state_dict())
    return model, bench.sizes.epochs


ROWS: dict[str, Row] = {
    "genetic search (ours)": _genetic(sparse=False, criterion="l2"),
    "sparse + genetic search (ours)": _genetic(sparse=True, criterion="bn_scale"),
    "Torch-Pruning group L2, local": _peer("group_l2_local"),
    "Torch-Pruning group L2, global": _peer("group_l2_global"),
    "Torch-Pruning BN scale": _peer("bn_scale"),
    "Torch-Pruning Taylor": _peer("taylor"),
    "uniform": _uniform(compensate=False),
    "uniform, compensated (ours)": _uniform(compensate=True),
    "random search": _random,
    "dense, trained as long": _dense,
}
