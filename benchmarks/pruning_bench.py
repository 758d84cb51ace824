"""What every row of a pruning benchmark shares: one checkpoint, one way to train, one way to end."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from evaluators.batch_norm import recalibrate
from evaluators.cost import count_costs
from evaluators.task import Task
from evaluators.tasks.measure import measure
from evaluators.tasks.model_factory import ModelSettings
from evaluators.tasks.observations import observations
from evaluators.tasks.settings import NamedData, TaskSettings, build_task
from evaluators.tasks.small_images import FashionMNIST
from evaluators.training.checkpoint import FileCheckpoint
from evaluators.training.loop import train
from evaluators.training.optimizers import OptimizerSettings
from evaluators.training.schedules import Schedule
from evaluators.training.settings import DistillationSettings, TrainingSettings
from search.output.atomic import write_json
from spaces.channels.check import find_checked_groups
from spaces.importance.criterion import make_criterion, observe
from spaces.sparsifiers.base import Sparsifier

CPU = torch.device("cpu")
PEAK_LR = 0.05
RELEVANCE_SAMPLES = 2048


@dataclass(frozen=True)
class Sizes:
    """How much is trained; the same for every row.

    Attributes:
        train: Training images.
        search: Images of the search split.
        pretraining: Epochs behind the checkpoint.
        epochs: Epochs after it, in all.
        sparse: How many of these a row with sparse training spends on it.
        batch: Images of a step after the checkpoint; fewer images in smaller batches are as many steps.
    """

    train: int = 6000
    search: int = 2000
    pretraining: int = 12
    epochs: int = 2
    sparse: int = 1
    batch: int = 64


S = TypeVar("S", bound=Sizes)


@dataclass(frozen=True)
class Bench(Generic[S]):
    """One model and seed: data, checkpoint and settings shared by its rows."""

    model: str
    seed: int
    sizes: S
    data: str
    folder: Path

    def task(self) -> Task:
        settings = FashionMNIST.Settings(root=self.data, search_size=self.sizes.search, train_size=self.sizes.train)
        factory = ModelSettings(f"spaces.networks.{self.model}", {"in_channels": 1, "classes": 10}, init_seed=self.seed)
        return build_task(TaskSettings(factory, NamedData("fashion_mnist", settings)))

    def training(self, epochs: int, lr: float, distilled: bool) -> TrainingSettings:
        return TrainingSettings(
            epochs=epochs,
            batch_size=self.sizes.batch,
            optimizer=OptimizerSettings("sgd", lr=lr * self.sizes.batch / 64, momentum=0.9, weight_decay=5e-4),
            distillation=DistillationSettings(weight=0.5, temperature=4.0) if distilled else None,
        )

    def pretraining(self) -> TrainingSettings:
        """Return the settings of the training behind the checkpoint."""
        whole = dataclasses.replace(self, sizes=dataclasses.replace(self.sizes, batch=64))
        return whole.training(self.sizes.pretraining, 0.1, distilled=False)

    @property
    def checkpoint_path(self) -> Path:
        """The checkpoint's file; the state of its training stays beside it."""
        return self.folder / f"{self.model}-{self.seed}-checkpoint.safetensors"

    def reference(self, task: Task) -> nn.Module:
        """Return the checkpoint, trained at the first call."""
        model, path = task.reference_model(), self.checkpoint_path
        if not path.exists():
            settings = self.pretraining()
            train(model, task, settings, seed=self.seed, device=CPU, checkpoint=self.epochs_of(path))
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

    def epochs_of(self, path: Path) -> FileCheckpoint:
        """Return the checkpoint of a training beside a cell's file."""
        return FileCheckpoint(path.with_name(path.stem + "-epochs.safetensors"))

    def sparse(
        self,
        task: Task,
        reference: nn.Module,
        sparsifier: Sparsifier,
        path: Path,
        epochs: int | None = None,
        schedule: Schedule = "constant",
        stop_when_finished: bool = False,
    ) -> tuple[nn.Module, bool]:
        """Return the checkpoint after sparse training, with distillation from itself, and whether the sparsifier was complete.

        Args:
            task: Data, loss and score.
            reference: The checkpoint.
            sparsifier: What drives it towards sparsity.
            path: The cell's file; the epochs are kept beside it.
            epochs: How many; by default ``sizes.sparse``.
            schedule: The schedule of the learning rate.
            stop_when_finished: Whether training ends after the epoch in which the sparsifier is finished.
        """
        model = copy.deepcopy(reference)
        epochs = self.sizes.sparse if epochs is None else epochs
        settings = dataclasses.replace(self.training(epochs, PEAK_LR, distilled=True), schedule=schedule)
        checkpoint = self.epochs_of(path.with_name(path.stem + "-sparse.json"))
        history = train(
            model,
            task,
            settings,
            seed=self.seed,
            device=CPU,
            teacher=reference,
            sparsifier=sparsifier,
            checkpoint=checkpoint,
            stop_when_finished=stop_when_finished,
        )
        return model.eval(), history.best is not None

    def finish(self, task: Task, model: nn.Module, reference: nn.Module, epochs: int, path: Path) -> dict[str, float]:
        """Train for the epochs that are left, if any, and measure on the test split."""
        ready = copy.deepcopy(model)
        recalibrate(ready, task.batches("train", 256, limit=2048), task.forward, CPU)
        before = measure(ready, task, "search")
        if epochs:
            model, settings = ready, self.training(epochs, PEAK_LR, distilled=True)
            train(model, task, settings, seed=self.seed, device=CPU, teacher=reference, checkpoint=self.epochs_of(path))
            self.epochs_of(path).path.unlink(missing_ok=True)
        return {
            "search_top1_before": before["top1"],
            "search_top1": measure(model, task, "search")["top1"],
            "test_top1": measure(model, task, "test")["top1"],
            "retained_relevance": task_relevance(task, model) / task_relevance(task, reference),
            **count_costs(model, task.example_inputs()),
        }


def task_relevance(task: Task, model: nn.Module) -> float:
    """Return the task relevance (Fisher's ratio between the classes) of all open channels of a network, added up."""
    groups = find_checked_groups(model.eval(), task.example_inputs(), forward=task.forward)
    criterion = make_criterion("task_relevance", model, groups)
    observe(criterion, observations(task, CPU, limit=RELEVANCE_SAMPLES))
    return float(criterion.values().sum())


Row = Callable[[Bench[Any], Task, nn.Module, float, Path], tuple[nn.Module, int]]
"""From (bench, task, reference, MACs limit, path of the cell) to the pruned network and the epochs left."""
