"""Sensitivity: how much the loss rises when the weights of a layer are rounded, from second derivatives estimated once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from evaluators.sensitivity.hessian_trace import TraceSettings
from evaluators.sensitivity.second_moment import SecondMoment, adam_second_moment, empirical_fisher
from evaluators.sensitivity.split_trace import split_traces
from evaluators.task import Batch, Task
from evaluators.tasks.batches import to_device

Kind = Literal["adam", "fisher", "hutchinson"]
Measure = Literal["adam", "fisher", "hutchinson", "divergence"]
KINDS: tuple[Kind, ...] = ("adam", "fisher", "hutchinson")
MEASURES: tuple[Measure, ...] = (*KINDS, "divergence")

FORWARD_BATCH = 64
"""Samples of a batch where nothing but answers is asked for."""


@dataclass(frozen=True)
class SensitivitySettings:
    """How second derivatives are estimated.

    Attributes:
        sensitivity: From second derivatives: ``adam`` (Adam's second moment times the batch size), ``fisher`` (empirical) or
            ``hutchinson`` (traces of the Hessian, one number per layer, see :mod:`evaluators.sensitivity.split_trace`). Or
            ``divergence``: how far every choice of bits, by itself, takes the answers from the unquantized network's, in one
            forward pass each.
        form: Of ``adam`` and ``fisher``: ``weight`` weighs the error of every weight by its own second derivative, ``layer``
            by the mean over the layer, as traces do.
        samples: Training samples, in fixed order and unaugmented, that all of it is estimated on.
        batch_size: Samples of a batch: of those that ``adam`` takes moments over, and of those that get a probe each.
        beta: Decay of Adam's second moment.
        tolerance: Relative standard error that every layer's trace is to have; looser is faster, by its square.
        most_rounds: Rounds of probes after which traces are taken as they are.
        compare: Whether the report puts the kinds beside each other, and beside the measured rise of the loss.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    sensitivity: Measure = "divergence"
    form: Literal["weight", "layer"] = "weight"
    samples: int = 512
    batch_size: int = 8
    beta: float = 0.999
    tolerance: float = 0.1
    most_rounds: int = 32
    compare: bool = True

    def __post_init__(self) -> None:
        if self.samples < 2:
            raise ValueError(f"samples: expected at least 2, got {self.samples}")
        if self.batch_size < 1:
            raise ValueError(f"batch_size: expected at least 1, got {self.batch_size}")
        if 2 * self.batch_size > self.samples:
            raise ValueError(f"batch_size: expected at most half of the {self.samples} samples, got {self.batch_size}")
        if not 0 < self.beta < 1:
            raise ValueError(f"beta: expected a number above 0 and below 1, got {self.beta}")
        if not self.tolerance > 0:
            raise ValueError(f"tolerance: expected a number above 0, got {self.tolerance}")
        if self.most_rounds < 2:
            raise ValueError(f"most_rounds: expected at least 2, got {self.most_rounds}")


@dataclass(frozen=True)
class Sensitivity:
    """Second derivatives of the mean loss by the weights of a network, by named weight tensor.

    Attributes:
        kind: How they were estimated.
        diagonal: Estimates by weight, in the tensor's shape, or one for all its weights; none below 0.
        average: Their mean over each tensor as it was estimated: below 0 for a trace below zero.
        standard_error: Standard error of the average.
    """

    kind: Kind
    diagonal: Mapping[str, Tensor]
    average: Mapping[str, float]
    standard_error: Mapping[str, float]

    @property
    def negative(self) -> list[str]:
        """Tensors of a negative average, which counts as 0."""
        return [name for name, value in self.average.items() if value < 0.0]

    def increase(self, name: str, difference: Tensor) -> float:
        """Return ``1/2 sum_i h_i d_i ** 2`` for a change ``d`` of a weight tensor, the second-order rise of the loss.

        HAWQ-V2 (arXiv 1911.03852) leaves out the 1/2; with it, weights and activations add up on one scale.
        """
        return 0.5 * float((self.diagonal[name] * difference.detach().square()).sum(dtype=torch.float64))


def weight_sensitivity(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    task: Task,
    batches: Sequence[Batch],
    settings: SensitivitySettings,
    generator: torch.Generator,
) -> Sensitivity:
    """Estimate the second derivatives of the task's loss by ``weights``.

    Args:
        model: The network, run in evaluation mode; left unchanged.
        weights: Parameters of it, by name.
        task: Loss and forward pass.
        batches: What :func:`calibration_batches` returned.
        settings: How.
        generator: Source of the probes of ``hutchinson``, on the CPU.

    Raises:
        SecateursError: The loss has no second derivative, or no finite gradient, by a weight.
        ValueError: ``divergence`` is none of second derivatives.
    """
    if settings.sensitivity == "divergence":
        raise ValueError("sensitivity: expected one of second derivatives, got divergence")
    if settings.sensitivity == "hutchinson":
        rounds = TraceSettings(settings.tolerance, min(8, settings.most_rounds), settings.most_rounds)
        found = split_traces(model, weights, batches, task.loss, task.forward, generator, rounds).by_name
        average = {name: trace.value / trace.size for name, trace in found.items()}
        errors = {name: trace.standard_error / trace.size for name, trace in found.items()}
        return Sensitivity("hutchinson", _means(average, weights), average, errors)
    moment: SecondMoment
    if settings.sensitivity == "adam":
        moment = adam_second_moment(model, weights, batches, task.loss, task.forward, settings.beta)
    else:
        moment = empirical_fisher(model, weights, batches, task.loss, task.forward)
    diagonal = moment.diagonal if settings.form == "weight" else _means(moment.mean, weights)
    return Sensitivity(settings.sensitivity, diagonal, moment.mean, moment.standard_error)


def calibration_batches(
    task: Task, settings: SensitivitySettings, device: torch.device, batch_size: int | None = None
) -> list[Batch]:
    """Return the samples that sensitivity is estimated on, in batches (by default of the settings' size) on ``device``."""
    found = task.batches("train", batch_size or settings.batch_size, limit=settings.samples)
    return [(to_device(inputs, device, channels_last=False), targets.to(device)) for inputs, targets in found]


def _means(average: Mapping[str, float], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return averages as tensors, those below zero as 0: else coarse bits would look good."""
    return {name: torch.tensor(max(0.0, value), device=weights[name].device) for name, value in average.items()}
