"""Prediction of the next token: the task of a configuration whose data set holds text."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torch.nn import functional as F

from evaluators.meters import Meter, Perplexity
from evaluators.metrics import Metric
from evaluators.tasks.named_task import NamedTask, shipped


class NextToken(NamedTask):
    """Language modelling: cross-entropy of the next token, perplexity, and top-1 accuracy of the next token.

    Networks take ids, int64 of shape ``(N, length)``, and return logits of shape ``(N, length, vocabulary)``.
    """

    @property
    def own_scores(self) -> Mapping[str, Metric]:
        """``perplexity`` and ``top1``."""
        return shipped("perplexity", "top1")

    @property
    def output_shape(self) -> tuple[int, ...]:
        """A logit per token of the vocabulary, at every place."""
        return (*self.data.example().shape, self.data.classes)

    def own_meters(self) -> Mapping[str, Meter]:
        """Return the perplexity."""
        return {"perplexity": Perplexity()}

    def loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Return the mean cross-entropy over all tokens, in nats."""
        return F.cross_entropy(outputs.flatten(0, 1), targets.flatten(), label_smoothing=label_smoothing)

    def score(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Return the share of each sample's tokens that had the highest logit."""
        return {"top1": (outputs.argmax(dim=2) == targets).float().mean(1)}

    def distillation_loss(self, outputs: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """Return the mean KL divergence over all tokens, times ``temperature ** 2``."""
        return super().distillation_loss(outputs.flatten(0, 1), teacher.flatten(0, 1), temperature)
