"""A training by several processes with gloo between them, started by tests."""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn

from evaluators.task import Batch
from evaluators.tasks.classification import Classification
from evaluators.training.checkpoint import FileCheckpoint
from evaluators.training.loop import train
from evaluators.training.optimizers import OptimizerSettings
from evaluators.training.ranks import Ranks
from evaluators.training.settings import DistillationSettings, TrainingSettings
from spaces.execution.batch import in_type
from tests.evaluators.small_task import digits_task

CPU = torch.device("cpu")
BASE = TrainingSettings(
    epochs=3, batch_size=12, optimizer=OptimizerSettings(lr=0.05), autocast="off", channels_last=False, clip_norm=1.0
)
SETTINGS: dict[str, dict[str, Any]] = {
    "synchronized": {},
    "shards": {"shards": 2},
    "mixed": {"mixup": 0.4, "cutmix": 1.0, "erasing": 0.3, "distillation": DistillationSettings()},
}


class Residual(nn.Module):
    """A small residual network with BatchNorm, on digits."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(1, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.inner, self.inner_norm = nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6, momentum=0.3)
        self.last_norm = nn.BatchNorm1d(6 * 16, momentum=None, affine=False)
        self.pool, self.head = nn.AvgPool2d(2), nn.Linear(6 * 16, 10)
        self.unused = nn.Parameter(torch.ones(3))

    def forward(self, inputs: Tensor) -> Tensor:
        features = self.stem_norm(self.stem(inputs)).relu()
        features = (features + self.inner_norm(self.inner(features))).relu()
        outputs: Tensor = self.head(self.last_norm(self.pool(features).flatten(1)))
        return outputs


def double_task() -> Classification:
    """Return a task of digits in double precision, with 20 steps an epoch in batches of 12."""
    task = digits_task(train_size=240)
    original = task.batches

    def batches(*given: Any, **keywords: Any) -> list[Batch]:
        return [(in_type(inputs, torch.float64), targets) for inputs, targets in original(*given, **keywords)]

    task.batches = batches  # type: ignore[method-assign,assignment]
    return task


def new_network(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Residual().double()


def trained(name: str, ranks: Ranks, checkpoint: Path | None = None) -> dict[str, Tensor]:
    """Return the weights, losses and scores after a training."""
    from dataclasses import replace

    torch.set_num_threads(1)
    settings = replace(BASE, **SETTINGS[name])
    model, teacher = new_network(), new_network(1)
    history = train(
        model,
        double_task(),
        settings,
        seed=5,
        device=CPU,
        teacher=teacher if settings.distillation is not None else None,
        checkpoint=None if checkpoint is None else FileCheckpoint(checkpoint),
        ranks=ranks,
    )
    numbers = [(record.loss, record.search_loss, record.search_score) for record in history.epochs]
    return {**model.state_dict(), "numbers": torch.tensor(numbers, dtype=torch.float64)}


if __name__ == "__main__":
    name, rank, size, store, result = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5]
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=size, timeout=timedelta(seconds=120)
    )
    found = trained(name, Ranks(rank, size), Path(f"{result}.state"))
    torch.save(found, f"{result}.{rank}")
    torch.distributed.destroy_process_group()
