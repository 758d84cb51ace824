"""Metrics that accumulate as sums over samples: mean intersection over union, R2, and F1 of several labels."""

from __future__ import annotations

from abc import abstractmethod
from typing import Self

import torch
from torch import Tensor

from evaluators.meters import Meter, MeterError


class SummedMeter(Meter):
    """A metric computed from sums over samples; states of different batches merge by addition."""

    def __init__(self) -> None:
        """Start without samples."""
        self._total: Tensor | None = None

    @abstractmethod
    def sums(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the sums over the samples of a batch, float64, of one shape for all batches."""

    @abstractmethod
    def value(self, total: Tensor) -> float:
        """Return the metric from the sums over all samples."""

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Add a batch."""
        self._add(self.sums(outputs, targets))

    def merge(self, other: Self) -> None:
        """Add the samples that ``other`` has seen."""
        if other._total is not None:
            self._add(other._total)

    def compute(self) -> float:
        """Return the metric over all samples.

        Raises:
            MeterError: No sample was seen.
        """
        if self._total is None:
            raise MeterError(f"{type(self).__name__}: expected at least one batch before the metric is computed")
        return self.value(self._total.cpu())

    def _add(self, sums: Tensor) -> None:
        self._total = sums if self._total is None else self._total + sums.to(self._total.device)


class MeanIntersectionOverUnion(SummedMeter):
    """Intersection over union of every class over all pixels, averaged over the classes (mIoU).

    Logits are of shape ``(N, classes, ...)``, targets int64 of shape ``(N, ...)``. Pixels whose target is no class are left
    out, and so are classes that are neither among the targets nor among the answers.
    """

    def sums(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the pixels by target and answer, of shape ``(classes, classes)``."""
        classes = outputs.shape[1]
        counted = (targets >= 0) & (targets < classes)
        pairs = targets[counted] * classes + outputs.argmax(dim=1)[counted]
        return torch.bincount(pairs, minlength=classes * classes).reshape(classes, classes).double()

    def value(self, total: Tensor) -> float:
        """Return the mean over the classes that were seen, from 0 to 1; 0 without a pixel."""
        both, either = total.diagonal(), total.sum(0) + total.sum(1) - total.diagonal()
        seen = either > 0
        return float((both[seen] / either[seen]).mean()) if bool(seen.any()) else 0.0


class ExplainedVariance(SummedMeter):
    """R2, one minus the squared error over the variance of the targets, averaged over the entries of an output.

    Outputs and targets are numbers of one shape ``(N, ...)``.
    """

    def sums(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return samples, sums of targets and of their squares, and squared errors, of shape ``(4, entries)``."""
        answers, expected = outputs.double().flatten(1), targets.double().flatten(1)
        count = torch.full_like(expected[0], len(expected))
        errors = (answers - expected).square().sum(0)
        return torch.stack([count, expected.sum(0), expected.square().sum(0), errors])

    def value(self, total: Tensor) -> float:
        """Return R2, at most 1; an entry whose targets are all the same has 1 without an error, else 0."""
        count, first, second, errors = total
        variance = second - first.square() / count
        known = variance > 1e-12 * second
        explained = 1.0 - errors / torch.where(known, variance, torch.ones_like(variance))
        return float(torch.where(known, explained, (errors == 0).double()).mean())


class LabelsF1(SummedMeter):
    """F1 of every label, averaged over the labels: the harmonic mean of precision and recall.

    Logits and targets are of shape ``(N, labels)``; a label is given where its logit is above 0, which is a probability of one
    half. Labels that no sample has and none was given are left out.
    """

    def sums(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the labels given rightly, and those given and due together, of shape ``(2, labels)``."""
        given, due = outputs > 0, targets > 0.5
        return torch.stack([(given & due).double().sum(0), given.double().sum(0) + due.double().sum(0)])

    def value(self, total: Tensor) -> float:
        """Return the mean over the labels that were seen, from 0 to 1; 1 where none was given and none was due."""
        right, together = total
        seen = together > 0
        return float((2 * right[seen] / together[seen]).mean()) if bool(seen.any()) else 1.0
