"""Steps of a training on tensors without content, where an operation fails that reads one, or mixes in one of the host's.

An accelerator would wait there, or be refused. PyTorch's fake CUDA tensors have no backward pass on a machine without CUDA, so
that the meta device stands for it.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from evaluators.training.average import EmaSettings
from evaluators.training.features import FeatureSettings
from evaluators.training.optimizers import OptimizerSettings
from evaluators.training.ranks import Ranks
from evaluators.training.session import Session
from evaluators.training.settings import DistillationSettings, TrainingSettings
from spaces.sparsifiers.scaling_factor import ScalingFactor, ScalingFactorSettings
from tests.evaluators.small_task import digits_task

META = torch.device("meta")
PLAIN = TrainingSettings(epochs=1, batch_size=8, optimizer=OptimizerSettings(lr=0.1), autocast="off")
RECIPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "adamw": {"optimizer": OptimizerSettings("adamw", lr=0.01)},
    "clipping": {"clip_norm": 1.0, "clip_value": 0.1},
    "average": {"ema": EmaSettings(0.9)},
    "mixing": {"mixup": 0.4},
    "both mixings": {"mixup": 0.4, "cutmix": 1.0, "label_smoothing": 0.1},
    "shards": {"shards": 2},
    "distillation": {"distillation": DistillationSettings()},
    "features": {"distillation": DistillationSettings(features=FeatureSettings(layers=("bn",)))},
}


class Waiting(nn.Module):
    """A network that looks at its outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.layer(inputs.flatten(1))
        return outputs if outputs.sum().item() > 0 else -outputs


def step(settings: TrainingSettings, network: nn.Module | None = None, sparsified: bool = False) -> list[str]:
    """Take two steps and return the devices of losses, parameters and optimizer states."""
    task = digits_task(train_size=32)
    inputs, targets = next(iter(task.batches("train", 8, torch.Generator().manual_seed(0))))
    model = (task.build() if network is None else network).to(META)
    teacher = task.build().to(META).eval() if settings.distillation is not None else None
    sparsifier = ScalingFactor(ScalingFactorSettings()) if sparsified else None
    if sparsifier is not None:
        sparsifier.start(model, 2)
    session = Session(model, task, settings, META, 4, sparsifier, teacher, None, Ranks())
    model.train()
    with nullcontext() if session.features is None else session.features.watching():
        losses = [session.step(number, 0, inputs, targets) for number in range(2)]
    states = [tensor for state in session.optimizer.state.values() for tensor in state.values() if torch.is_tensor(tensor)]
    # A step counter of one number stays with the host, as an optimizer wants it.
    return [tensor.device.type for tensor in (*losses, *model.parameters(), *states) if tensor.dim() or tensor.requires_grad]


@pytest.mark.parametrize("recipe", RECIPES)
def test_nothing_waits_for_the_device_in_a_step_and_all_tensors_are_there(recipe: str) -> None:
    assert set(step(replace(PLAIN, **RECIPES[recipe]))) == {"meta"}


def test_a_penalty_waits_for_nothing_either() -> None:
    assert set(step(PLAIN, sparsified=True)) == {"meta"}


def test_a_network_that_looks_at_its_outputs_is_found() -> None:
    with pytest.raises(RuntimeError, match="meta"):
        step(PLAIN, Waiting())
