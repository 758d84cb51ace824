"""Adam's second moments at the end of a training: squared gradients of its own batches, averaged and corrected."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from evaluators.training.optimizers import BETA2
from evaluators.training.settings import TrainingSettings
from evaluators.training.state import OptimizerState


@dataclass(frozen=True)
class TrainingMoments:
    """Second moments that a training left behind.

    Attributes:
        optimizer: Name of the training's optimizer.
        batch_size: Samples of a step of the training.
        steps: Number of steps that the moments average over.
        values: ``v / (1 - beta ** t)`` by named parameter, in the parameters' shapes, ``v`` Adam's ``exp_avg_sq`` after ``t``
            steps; empty where the optimizer keeps no second moments.
    """

    optimizer: str
    batch_size: int
    steps: int = 0
    values: Mapping[str, Tensor] = field(default_factory=dict)

    @staticmethod
    def of(state: OptimizerState, settings: TrainingSettings) -> TrainingMoments:
        """Return the second moments in the state of an optimizer at the end of a training with ``settings``."""
        values, most = {}, 0
        if settings.optimizer.name not in ("adam", "adamw"):
            return TrainingMoments(settings.optimizer.name, settings.batch_size)
        for position, name in enumerate(state.names):
            moment, step = state.tensors.get(f"{position}.exp_avg_sq"), state.tensors.get(f"{position}.step")
            if moment is None or step is None:
                continue
            most = max(most, int(step))
            values[name] = moment.detach() / (1.0 - BETA2 ** float(step))
        return TrainingMoments(settings.optimizer.name, settings.batch_size, most, values)
