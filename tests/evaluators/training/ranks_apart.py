"""A training by several processes with gloo between them, started by tests."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn

from evaluators.task import Batch
from evaluators.tasks.classification import Classification
from evaluators.training.adapters import AdapterSettings
from evaluators.training.checkpoint import FileCheckpoint
from evaluators.training.features import FeatureSettings
from evaluators.training.loop import train
from evaluators.training.optimizers import OptimizerSettings
from evaluators.training.ranks import Ranks
from evaluators.training.settings import DistillationSettings, TrainingSettings
from spaces.execution.batch import in_type
from spaces.sparsifiers.base import Sparsifier
from spaces.sparsifiers.channel_exploration import ChannelExploration, ChannelExplorationSettings
from spaces.sparsifiers.gradient_cut import GradientCut, GradientCutSettings
from spaces.sparsifiers.probabilistic import Probabilistic, ProbabilisticSettings
from spaces.sparsifiers.scaling_factor import ScalingFactor, ScalingFactorSettings
from tests.evaluators.small_task import digits_task

CPU = torch.device("cpu")
BASE = TrainingSettings(
    epochs=3, batch_size=12, optimizer=OptimizerSettings(lr=0.05), autocast="off", channels_last=False, clip_norm=1.0
)
RECIPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "features": {"distillation": DistillationSettings(features=FeatureSettings(layers=("inner_norm", "pool")))},
    "adapters": {"adapters": AdapterSettings(rank=3), "train_only": ("norms", "head.bias")},
    "mixed": {"mixup": 0.4, "cutmix": 1.0, "erasing": 0.3, "distillation": DistillationSettings()},
}
SPARSIFIERS: dict[str, Callable[[], Sparsifier]] = {
    "scaling factors": lambda: ScalingFactor(ScalingFactorSettings(strength=1e-2)),
    "channel exploration": lambda: ChannelExploration(ChannelExplorationSettings(macs=0.5, explorations=6)),
    "gradient cut": lambda: GradientCut(GradientCutSettings(ratio=0.4)),
    "gradient cut by weight decay": lambda: GradientCut(
        GradientCutSettings(macs=0.5, importance="task_relevance", scope="global", decay_by="weight_decay")
    ),
    "probabilities by norms": lambda: Probabilistic(ProbabilisticSettings(ratio=0.4, interval=6, largest=0.3)),
    "probabilities by the loss": lambda: Probabilistic(
        ProbabilisticSettings(ratio=0.4, interval=6, largest=0.3, importance="relevance_loss", draw="group")
    ),
    "probabilities by second order": lambda: Probabilistic(
        ProbabilisticSettings(ratio=0.4, interval=6, largest=0.3, importance="second_order")
    ),
    "columns": lambda: Probabilistic(ProbabilisticSettings(ratio=0.4, interval=6, largest=0.3, groups="columns")),
}
CASES = [f"{name}, {norm}" for name in (*RECIPES, *SPARSIFIERS) for norm in ("synchronized", "shards")]


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

    traced = in_type(task.traced_inputs(), torch.float64)
    task.traced_inputs = lambda: traced  # type: ignore[method-assign]
    task.batches = batches  # type: ignore[method-assign,assignment]
    return task


def new_network(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Residual().double()


def trained(name: str, ranks: Ranks, checkpoint: Path | None = None) -> dict[str, Tensor]:
    """Return the weights, losses and scores after a training."""
    torch.set_num_threads(1)
    recipe, norm = name.split(", ")
    settings = replace(BASE, **RECIPES.get(recipe, {}), shards=2 if norm == "shards" else None)
    sparsifier = SPARSIFIERS[recipe]() if recipe in SPARSIFIERS else None
    model, teacher = new_network(), new_network(1)
    history = train(
        model,
        double_task(),
        settings,
        seed=5,
        device=CPU,
        teacher=teacher if settings.distillation is not None else None,
        checkpoint=None if checkpoint is None else FileCheckpoint(checkpoint),
        sparsifier=sparsifier,
        ranks=ranks,
    )
    numbers = [(record.loss, record.search_loss, record.search_score) for record in history.epochs]
    decided = (
        {}
        if sparsifier is None
        else {**sparsifier.state_dict(), **{f"kept {n}": m for n, m in sparsifier.keep_masks().items()}}
    )
    return {**model.state_dict(), **decided, "numbers": torch.tensor(numbers, dtype=torch.float64)}


if __name__ == "__main__":
    rank, size, store, result = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=size, timeout=timedelta(seconds=120)
    )
    found = {name: trained(name, Ranks(rank, size), Path(f"{result} {name}.state")) for name in CASES}
    torch.save(found, f"{result}.{rank}")
    torch.distributed.destroy_process_group()
