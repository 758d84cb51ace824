"""Regression: numbers, one or many of a sample, such as a size or the noise in every pixel."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torch.nn import functional as F

from evaluators.meters import Meter
from evaluators.metrics import Metric
from evaluators.summed_meters import ExplainedVariance
from evaluators.tasks.named_task import NamedTask, shipped


class Regression(NamedTask):
    """Regression: the mean squared error, and R2. Outputs and targets are floating-point numbers of one shape ``(N, ...)``."""

    output_words = "numbers"
    class_words = "outputs"

    @property
    def own_scores(self) -> Mapping[str, Metric]:
        """``r2``, and the loss, which is no cross-entropy."""
        squared = Metric("mean squared error", "minimize", "loss", "number", is_cost=False)
        return {**shipped("r2"), "loss": squared}

    @property
    def output_shape(self) -> tuple[int, ...]:
        """The shape of one target."""
        return tuple(self.one_target.shape)

    def own_meters(self) -> Mapping[str, Meter]:
        """Return R2."""
        return {"r2": ExplainedVariance()}

    def loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Return the mean squared error; ``label_smoothing`` has no effect on numbers."""
        return F.mse_loss(outputs, targets)

    def score(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Return none: R2 is no mean over samples."""
        return {}

    def distillation_loss(self, outputs: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """Return the mean squared difference; ``temperature`` has no effect on numbers."""
        return F.mse_loss(outputs, teacher)
