"""Classification: the task of a configuration whose data set holds labelled samples, such as images."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torch.nn import functional as F

from evaluators.meters import Meter
from evaluators.metrics import Metric
from evaluators.tasks.named_task import NamedTask, shipped

TOP5_ABOVE = 10


class Classification(NamedTask):
    """Classification, one class a sample: cross-entropy, top-1 accuracy and, with more than ten classes, top-5."""

    @property
    def own_scores(self) -> Mapping[str, Metric]:
        """``top1`` and, with more than ten classes, ``top5``."""
        return shipped("top1", "top5") if self.data.classes > TOP5_ABOVE else shipped("top1")

    @property
    def output_shape(self) -> tuple[int, ...]:
        """One logit per class."""
        return (1, self.data.classes)

    def own_meters(self) -> Mapping[str, Meter]:
        """Return none: its scores are means over samples."""
        return {}

    def loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Return the mean cross-entropy of logits of shape ``(N, classes)``, in nats."""
        return F.cross_entropy(outputs, targets, label_smoothing=label_smoothing)

    def score(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Return per sample 1.0 where the label is the highest logit's (``top1``) or among five (``top5``), or 0.0."""
        scores = {"top1": (outputs.argmax(dim=1) == targets).float()}
        if outputs.shape[1] > TOP5_ABOVE:
            scores["top5"] = (outputs.topk(5, dim=1).indices == targets[:, None]).any(dim=1).float()
        return scores

    def labels(self, targets: Tensor) -> Tensor | None:
        """Return ``targets``, class labels of shape ``(N,)`` in int64."""
        return targets
