"""Distance of a network's outputs from stored ones, a number per sample: divergence of logits, or relative squared error."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from evaluators.task import MeasurementError
from spaces.execution.batch import Nested, count_samples, describe, first_tensor_of
from spaces.execution.forward import tensors_in

Measure = Literal["auto", "kl", "relative_error"]

HALF_ABOVE = 1000
"""Classes above which log-probabilities are stored in float16."""

TOP = 512
"""Classes whose log-probability is stored where all of them take too much memory; the rest are stored as their sum."""


class Distance(ABC):
    """A distance between outputs, and the form in which one side of it is stored."""

    @abstractmethod
    def stored(self, outputs: Any) -> tuple[Tensor, ...]:
        """Return all that the distance needs of outputs: tensors of shape ``(N, ...)``."""

    @abstractmethod
    def of(self, outputs: Any, stored: Sequence[Tensor]) -> Tensor:
        """Return the distance of outputs from stored ones, float32 of shape ``(N,)``.

        Raises:
            MeasurementError: The outputs have another shape than the stored ones.
        """

    def smaller(self) -> Distance:
        """Return a distance that stores less, or this one."""
        return self

    def settle(self, chunks: Sequence[Sequence[Tensor]]) -> None:
        """Take from all that is stored what is needed of it as a whole; called once, before :meth:`of`."""


class KullbackLeibler(Distance):
    """Kullback-Leibler divergence of the stored distribution from another, in nats, its mean over the positions of a sample.

    Args:
        dim: Dimension of the classes.
        top: Number of classes that are stored one by one; None for all.
    """

    def __init__(self, dim: int, top: int | None = None) -> None:
        self._dim, self._top = dim, top

    def smaller(self) -> Distance:
        """Return the divergence over the :data:`TOP` likeliest classes and the rest."""
        return KullbackLeibler(self._dim, TOP)

    def stored(self, outputs: Any) -> tuple[Tensor, ...]:
        """Return log-probabilities of shape ``(N, positions, classes)``; of the likeliest alone, their places and the rest."""
        logs = self._logs(outputs)
        half = logs.shape[-1] > HALF_ABOVE
        if self._top is None or self._top >= logs.shape[-1]:
            return (logs.half() if half else logs,)
        values, places = logs.topk(self._top, dim=-1)
        return values.half(), places.int(), _rest(values)

    def of(self, outputs: Any, stored: Sequence[Tensor]) -> Tensor:
        """Return the mean divergence over positions, float32 of shape ``(N,)``."""
        logs, expected = self._logs(outputs), stored[0].float()
        if len(stored) > 1:
            if logs.shape[:2] != expected.shape[:2]:
                raise _other_shape(logs, expected)
            logs = logs.gather(-1, stored[1].long())
            rest, own = stored[2][..., None].float(), _rest(logs)[..., None]
            logs, expected = torch.cat([logs, own], -1), torch.cat([expected, rest], -1)
        elif logs.shape != expected.shape:
            raise _other_shape(logs, expected)
        # A class without probability adds nothing, whatever the other side gives it.
        terms = torch.where(expected > -torch.inf, expected.exp() * (expected - logs), 0.0)
        return terms.sum(-1).mean(1)

    def _logs(self, outputs: Any) -> Tensor:
        logits = logits_of(outputs)
        if logits is None:
            raise MeasurementError(
                f"divergence: expected logits, a tensor of shape (N, classes, ...), got {_words(outputs)}; set "
                "divergence.measure: relative_error"
            )
        by_position = logits.float().movedim(self._dim, -1)
        return F.log_softmax(by_position.reshape(len(logits), -1, logits.shape[self._dim]), dim=-1)


class RelativeError(Distance):
    """Squared difference from stored outputs, divided by their mean squared deviation from their mean over all samples.

    Of several outputs it is the mean over those that differ from sample to sample.
    """

    def __init__(self) -> None:
        self._deviations: list[float] = []

    def stored(self, outputs: Any) -> tuple[Tensor, ...]:
        """Return every floating-point output, float32 of shape ``(N, numbers)``."""
        found = _rows(outputs)
        if not found:
            raise MeasurementError(
                f"divergence: expected floating-point outputs with a row per sample, got {_words(outputs)}; it can't be "
                "measured for this network"
            )
        return tuple(found)

    def settle(self, chunks: Sequence[Sequence[Tensor]]) -> None:
        """Take the deviations of all outputs."""
        for column in zip(*chunks, strict=True):
            count = sum(map(len, column))
            width = {part.shape[1] for part in column}
            # Outputs of different lengths have no mean of their own.
            mean = torch.stack([part.double().sum(0) for part in column]).sum(0) / count if len(width) == 1 else 0.0
            self._deviations.append(float(sum(float((part.double() - mean).square().sum()) for part in column)) / count)

    def of(self, outputs: Any, stored: Sequence[Tensor]) -> Tensor:
        """Return the mean relative error over outputs, float32 of shape ``(N,)``."""
        found = _rows(outputs)
        if [one.shape for one in found] != [one.shape for one in stored]:
            raise _other_shape(found[0] if found else torch.empty(0), stored[0])
        errors = [
            (one - other).square().sum(1) / deviation
            for one, other, deviation in zip(found, stored, self._deviations, strict=True)
            if deviation > 0.0
        ]
        return torch.stack(errors).mean(0) if errors else found[0].new_zeros(len(found[0]))


def distance_of(measure: Measure, outputs: Any, inputs: Nested, targets: Nested) -> Distance:
    """Return the distance that ``measure`` names, for outputs such as these.

    Args:
        measure: ``kl`` and ``relative_error`` name one; ``auto`` takes the divergence where outputs are logits.
        outputs: Outputs of the dense network on a batch.
        inputs: The batch's inputs.
        targets: Its targets, whose type and shape alone are looked at, to know which dimension holds classes.
    """
    if measure != "relative_error":
        logits = logits_of(outputs)
        dim = None if logits is None else class_dimension(logits, inputs, targets)
        if dim is not None or measure == "kl":
            return KullbackLeibler(1 if dim is None else dim)
    return RelativeError()


def logits_of(outputs: Any) -> Tensor | None:
    """Return the logits among outputs: the entry ``logits`` of a mapping, or the only floating-point tensor; None if none."""
    found = outputs
    if isinstance(outputs, Mapping) and isinstance(outputs.get("logits"), Tensor):
        found = outputs["logits"]
    elif not isinstance(outputs, Tensor):
        floats = [one for one in tensors_in(outputs) if one.is_floating_point()]
        found = floats[0] if len(floats) == 1 else None
    return found if isinstance(found, Tensor) and found.is_floating_point() and found.dim() > 1 else None


def class_dimension(logits: Tensor, inputs: Nested, targets: Nested) -> int | None:
    """Return the dimension of classes, 1 or -1; None where outputs are no logits.

    Targets that are classes or their probabilities tell it. Without targets, outputs of shape ``(N, classes)`` and, for inputs
    of ids, ``(N, length, classes)`` count as logits.
    """
    shape = tuple(logits.shape)
    if isinstance(targets, Tensor):
        if targets.is_floating_point():
            sums = targets.sum(1) if targets.shape == logits.shape else targets.new_zeros(1)
            return 1 if bool(torch.allclose(sums, torch.ones_like(sums), atol=1e-3)) else None
        if tuple(targets.shape) == (shape[0], *shape[2:]):
            return 1
        return -1 if tuple(targets.shape) == shape[:-1] else None
    first = first_tensor_of(inputs)
    if len(shape) == 2:
        return 1 if shape[1] > 1 else None
    ids = first is not None and not first.is_floating_point() and tuple(first.shape) == shape[:-1]
    return -1 if ids else None


def _rest(logs: Tensor) -> Tensor:
    """Return the logarithm of the probability that given log-probabilities leave over."""
    taken = logs.double().logsumexp(-1).clamp_max(-1e-12)
    return torch.log(-torch.expm1(taken)).float()


def _rows(outputs: Any) -> list[Tensor]:
    floats = [one for one in tensors_in(outputs) if one.is_floating_point() and one.dim() > 0 and one.numel()]
    if not floats:
        return []
    samples = count_samples(floats[0])
    return [one.float().reshape(samples, -1) for one in floats if len(one) == samples]


def _other_shape(found: Tensor, expected: Tensor) -> MeasurementError:
    return MeasurementError(
        f"divergence: expected outputs of the dense network's shape, {tuple(expected.shape)}, got {tuple(found.shape)}; a "
        "network whose outputs change in number with its weights has none"
    )


def _words(outputs: Any) -> str:
    return describe(outputs) if isinstance(outputs, Tensor | Mapping | tuple | list) else type(outputs).__name__
