"""Measure the loss and the scores of a network, after BatchNorm re-calibration."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import nn

from evaluators.base import EvaluationContext, Evaluator
from evaluators.batch_norm import recalibrate_for
from evaluators.metrics import METRICS, Metric
from evaluators.task import Task
from evaluators.tasks.measure import measure


@dataclass(frozen=True)
class AccuracySettings:
    """Options of :class:`Accuracy`.

    Attributes:
        split: Split to score: ``search`` or ``train``; ``test`` is read for the report only.
        batch_norm_batches: Training batches for measuring BatchNorm statistics again before scoring; 0 to keep the statistics.
        batch_size: Samples per forward pass.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    split: Literal["search", "train"] = "search"
    batch_norm_batches: int = 8
    batch_size: int = 256

    def __post_init__(self) -> None:
        """Check the range of every option.

        Raises:
            ValueError: An option is out of range; the message begins with its name.
        """
        if self.split not in ("search", "train"):
            raise ValueError(f"split: expected search or train, got {self.split!r}; test is read for the report only")
        if self.batch_norm_batches < 0:
            raise ValueError(f"batch_norm_batches: expected at least 0, got {self.batch_norm_batches}")
        if self.batch_size < 2:
            raise ValueError(f"batch_size: expected at least 2, got {self.batch_size}")


class Accuracy(Evaluator):
    """Scores and loss on the search split after BatchNorm re-calibration on fixed training batches.

    The fidelity is the share of the split that is scored, from its beginning, and the share of the training samples that
    re-calibrate: fewer batches, at least two (if any), and where two are too many, smaller ones of at least 64 samples.
    Without re-calibration, the order of pruned networks is close to random at high ratios. A draw takes so many samples of the
    split anew, augmented where it is ``train``; one of held-out samples takes the whole split, of which all is seen.
    """

    Settings = AccuracySettings
    rank = 10

    def __init__(self, settings: AccuracySettings) -> None:
        """Keep ``settings``."""
        self.settings = settings

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """``top1`` and ``loss``, as of a classification task; :meth:`metrics_for` has those of any task."""
        return {name: METRICS[name] for name in ("top1", "loss")}

    def metrics_for(self, task: Task) -> Mapping[str, Metric]:
        """Return ``loss`` and every score of ``task``."""
        return {**task.score_metrics, "loss": task.score_metrics.get("loss", METRICS["loss"])}

    def evaluate(self, model: nn.Module, context: EvaluationContext) -> dict[str, float]:
        """Re-calibrate ``model`` in place and return the task's scores and the loss."""
        settings, task = self.settings, context.task
        model.to(context.device)
        size, draw = task.size(settings.split), context.draw
        if draw is None or draw.held_out:
            fidelity, generator = context.fidelity, None
        else:
            fidelity, generator = min(1.0, draw.samples / size), torch.Generator().manual_seed(draw.seed)
        recalibrate_for(task, model, settings.batch_norm_batches, settings.batch_size, fidelity, context.device)
        limit = max(1, math.ceil(fidelity * size))
        return measure(model, task, settings.split, settings.batch_size, context.device, limit, generator)
