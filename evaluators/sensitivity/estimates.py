"""Estimate the sensitivity of the loss to rounding each layer's weights, by second derivatives."""

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
from spaces.execution.batch import to_device

Kind = Literal["adam", "fisher", "hutchinson"]
Measure = Literal["adam", "fisher", "hutchinson", "divergence"]
Moments = Literal["training", "measured"]
KINDS: tuple[Kind, ...] = ("adam", "fisher", "hutchinson")
MEASURES: tuple[Measure, ...] = (*KINDS, "divergence")

FORWARD_BATCH = 64
"""Samples of a batch for forward passes without gradients."""


@dataclass(frozen=True)
class SensitivitySettings:
    """Options of the estimates of second derivatives.

    Attributes:
        sensitivity: From second derivatives: ``adam`` (Adam's second moment times the batch size, the Hessian of
            CN112183742B), ``fisher`` (empirical) or ``hutchinson`` (traces of the Hessian, one number per layer, see
            :mod:`evaluators.sensitivity.split_trace`). Or, without any Hessian, ``divergence`` (ours): the distance of the
            outputs from the unquantized network's for every choice of bits by itself, in one forward pass each.
        moments: Batches that ``adam``'s second moment averages over: ``training``, those of the training just done, as in
            CN112183742B (after a training by another optimizer than Adam or AdamW, or without one, as ``measured``, and
            said); ``measured`` (ours), training samples passed through the trained network, which is not updated.
        form: Of ``adam`` and ``fisher``: ``weight`` multiplies the squared error of every weight by its own second derivative,
            ``layer`` by the layer's mean second derivative, as traces do.
        samples: Number of samples for all estimates, in fixed order and unaugmented: of those that ``data.calibration_size``
            holds out of training, or else training samples.
        batch_size: Samples of a batch: of ``adam``'s steps where they are measured, and of ``hutchinson``'s probes.
        beta: Decay of Adam's second moment.
        tolerance: Relative standard error to reach for every layer's trace; the time goes with 1 / tolerance ** 2.
        most_rounds: Largest number of rounds of probes, whatever error is left.
        compare: Whether the report compares the kinds with each other and with the measured rise of the loss.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    sensitivity: Measure = "adam"
    moments: Moments = "training"
    form: Literal["weight", "layer"] = "weight"
    samples: int = 512
    batch_size: int = 8
    beta: float = 0.999
    tolerance: float = 0.1
    most_rounds: int = 32
    compare: bool = True

    def __post_init__(self) -> None:
        """Check the range of every option.

        Raises:
            ValueError: An option is out of range; the message begins with its name.
        """
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
        kind: Kind of the estimate.
        diagonal: Second derivatives by weight, in the tensor's shape, or a scalar for all weights of the tensor; none below 0.
        average: Mean second derivative over each tensor as estimated, so below 0 for a trace below 0.
        standard_error: Standard error of the average; empty for moments of a training, which keep no spread.
        moments: Batches that ``adam``'s moments average over; for the other kinds empty.
    """

    kind: Kind
    diagonal: Mapping[str, Tensor]
    average: Mapping[str, float]
    standard_error: Mapping[str, float]
    moments: Moments | Literal[""] = ""

    @property
    def negative(self) -> list[str]:
        """Names of the tensors with a negative average, which counts as 0."""
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
    known: Mapping[str, Tensor] | None = None,
) -> Sensitivity:
    """Estimate the second derivatives of the task's loss by ``weights``.

    Args:
        model: The network, run in evaluation mode; left unchanged.
        weights: Parameters of ``model``, by name.
        task: Loss and forward pass.
        batches: Batches of :func:`calibration_batches`.
        settings: Kind, form and accuracy of the estimate.
        generator: Source of the probes of ``hutchinson``, on the CPU.
        known: For ``adam``, second derivatives of all ``weights`` from a training's moments; None to measure moments.

    Raises:
        SecateursError: The loss has no second derivative, or no finite gradient, by a weight.
        ValueError: ``settings.sensitivity`` is ``divergence``, which is no estimate of second derivatives.
    """
    if settings.sensitivity == "divergence":
        raise ValueError("sensitivity: expected one of second derivatives, got divergence")
    if settings.sensitivity == "hutchinson":
        rounds = TraceSettings(settings.tolerance, min(8, settings.most_rounds), settings.most_rounds)
        found = split_traces(model, weights, batches, task.loss, task.forward, generator, rounds).by_name
        average = {name: trace.value / trace.size for name, trace in found.items()}
        errors = {name: trace.standard_error / trace.size for name, trace in found.items()}
        return Sensitivity("hutchinson", _means(average, weights), average, errors)
    if settings.sensitivity == "adam" and known is not None:
        means = {name: float(known[name].double().mean()) for name in weights}
        found_of = known if settings.form == "weight" else _means(means, weights)
        own = {name: found_of[name].to(weight.device) for name, weight in weights.items()}
        return Sensitivity("adam", own, means, {}, "training")
    moment: SecondMoment
    if settings.sensitivity == "adam":
        moment = adam_second_moment(model, weights, batches, task.loss, task.forward, settings.beta)
    else:
        moment = empirical_fisher(model, weights, batches, task.loss, task.forward)
    diagonal = moment.diagonal if settings.form == "weight" else _means(moment.mean, weights)
    origin: Moments | Literal[""] = "measured" if settings.sensitivity == "adam" else ""
    return Sensitivity(settings.sensitivity, diagonal, moment.mean, moment.standard_error, origin)


def calibration_batches(
    task: Task, settings: SensitivitySettings, device: torch.device, batch_size: int | None = None
) -> list[Batch]:
    """Return the calibration samples to estimate on, in batches (by default of ``settings.batch_size``) on ``device``.

    Inputs are those whose outputs the loss takes (:meth:`.Task.loss_inputs`).
    """
    found = task.batches(task.calibration_split, batch_size or settings.batch_size, limit=settings.samples)
    moved = (to_device(batch, device) for batch in found)
    return [(task.loss_inputs(inputs, targets), targets) for inputs, targets in moved]


def _means(average: Mapping[str, float], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return averages as scalar tensors, negative ones as 0, since they would favor coarse bits."""
    return {name: torch.tensor(max(0.0, value), device=weights[name].device) for name, value in average.items()}
