"""Several labels at once: a sample has any number of them, or a single yes or no."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from evaluators.meters import Meter
from evaluators.metrics import Metric
from evaluators.summed_meters import LabelsF1
from evaluators.tasks.named_task import NamedTask, shipped


class Labels(NamedTask):
    """Labels that don't exclude each other: binary cross-entropy, and F1 averaged over the labels.

    Networks return a logit per label, of shape ``(N, labels)``; targets are 0 or 1, of the same shape. One label makes a yes or
    no of a single logit.
    """

    class_words = "labels"

    @property
    def own_scores(self) -> Mapping[str, Metric]:
        """``f1``."""
        return shipped("f1")

    @property
    def output_shape(self) -> tuple[int, ...]:
        """One logit per label."""
        return (1, self.data.classes)

    def own_meters(self) -> Mapping[str, Meter]:
        """Return F1."""
        return {"f1": LabelsF1()}

    def loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Return the mean binary cross-entropy over samples and labels, in nats; smoothing draws targets towards one half."""
        expected = targets.to(outputs.dtype) * (1.0 - label_smoothing) + 0.5 * label_smoothing
        return F.binary_cross_entropy_with_logits(outputs, expected)

    def score(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Return none: F1 is no mean over samples."""
        return {}

    def labels(self, targets: Tensor) -> Tensor | None:
        """Return the single label of every sample as its class, int64 of shape ``(N,)``; None with several labels."""
        return targets[:, 0].long() if targets.shape[1] == 1 else None

    def distillation_loss(self, outputs: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """Return the mean KL divergence of the labels' probabilities from the teacher's, times ``temperature ** 2``."""
        expected = torch.sigmoid(teacher / temperature)
        crossed = F.binary_cross_entropy_with_logits(outputs / temperature, expected)
        own = F.binary_cross_entropy_with_logits(teacher / temperature, expected)
        return (crossed - own) * temperature**2
