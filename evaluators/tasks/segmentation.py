"""Segmentation: a class for every pixel, or for every place of other data."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torch.nn import functional as F

from evaluators.meters import Meter
from evaluators.metrics import Metric
from evaluators.summed_meters import MeanIntersectionOverUnion
from evaluators.tasks.named_task import NamedTask, shipped


class Segmentation(NamedTask):
    """Segmentation: cross-entropy over pixels, mean intersection over union, and the share of pixels that are right.

    Networks return logits of shape ``(N, classes, H, W)``; targets are int64 of shape ``(N, H, W)``, -100 for pixels that don't
    count.
    """

    @property
    def own_scores(self) -> Mapping[str, Metric]:
        """``miou`` and ``top1``."""
        return shipped("miou", "top1")

    @property
    def output_shape(self) -> tuple[int, ...]:
        """A logit per class, at every pixel."""
        return (1, self.data.classes, *self.one_target.shape[1:])

    def own_meters(self) -> Mapping[str, Meter]:
        """Return the mean intersection over union."""
        return {"miou": MeanIntersectionOverUnion()}

    def loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Return the mean cross-entropy over all pixels, in nats."""
        return F.cross_entropy(outputs, targets, label_smoothing=label_smoothing)

    def score(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Return the share of each image's pixels that had the highest logit; 0 for an image without a pixel that counts."""
        counted = (targets != -100).flatten(1).float()
        right = (outputs.argmax(dim=1) == targets).flatten(1).float()
        return {"top1": (right * counted).sum(1) / counted.sum(1).clamp(min=1.0)}
