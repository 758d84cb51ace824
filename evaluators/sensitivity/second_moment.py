"""Average squared gradients of every weight: Adam's second moment over batches, or the empirical Fisher information."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from evaluators.task import Batch
from spaces.errors import SecateursError
from spaces.execution.batch import Nested, count_samples, single_samples
from spaces.execution.evaluation_mode import evaluation_mode
from spaces.execution.forward import Forward

Loss = Callable[[Any, Nested], Tensor]
"""From outputs and targets of a batch to the mean loss."""


class NoGradientError(SecateursError):
    """The loss of a network has no finite gradient by a weight to be estimated."""


@dataclass(frozen=True)
class SecondMoment:
    """A diagonal estimate of the Hessian of the mean loss, by named weight tensor.

    Attributes:
        diagonal: Estimates of the second derivative by every weight, in the weight tensors' shapes; never negative.
        mean: Mean of the diagonal over each tensor.
        standard_error: Standard error of that mean, over batches (``adam``) or samples (``fisher``).
        samples: Number of samples averaged over.
    """

    diagonal: Mapping[str, Tensor]
    mean: Mapping[str, float]
    standard_error: Mapping[str, float]
    samples: int


def adam_second_moment(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    batches: Iterable[Batch],
    loss: Loss,
    forward: Forward,
    beta: float = 0.999,
) -> SecondMoment:
    """Return ``B v / (1 - beta ** t)``, with ``v`` Adam's second moment after ``t`` batches of ``B`` samples.

    The source (CN112183742B) takes Adam's second moment for the Hessian. ``v`` holds squares of batch-mean gradients, about
    the Fisher information over the batch size ``B``, so it is multiplied by ``B`` (ours: the source's formula is lost), and no
    square root is taken. Batches of another size than the first are left out, since moments of different batch sizes
    don't mix.

    Args:
        model: The network, run in evaluation mode; left unchanged.
        weights: Parameters of ``model``, by name.
        batches: Inputs and targets on the network's device.
        loss: Mean loss of a batch, of outputs and targets.
        forward: Runs the network on a batch.
        beta: Decay of the second moment.

    Raises:
        NoGradientError: The loss does not depend on a weight, its gradient is not finite, or there are too few batches.
    """
    moments = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    means: list[Tensor] = []
    size = 0
    for squares, number in _squares(model, weights, batches, loss, forward):
        size = size or number
        if number != size:
            continue
        for moment, square in zip(moments.values(), squares, strict=True):
            moment.mul_(beta).add_(square, alpha=1.0 - beta)
        means.append(torch.stack([square.mean() for square in squares]))
    scale = size / max(1.0 - beta ** len(means), torch.finfo(torch.float64).tiny)
    return _finished({name: moment * scale for name, moment in moments.items()}, means, float(size), size * len(means))


def empirical_fisher(
    model: nn.Module, weights: Mapping[str, Tensor], batches: Iterable[Batch], loss: Loss, forward: Forward
) -> SecondMoment:
    """Return the mean, over samples, of the squared gradient of each sample's own loss at its own target.

    The diagonal of the empirical Fisher information. Samples go through the network one by one, which suits any network and
    any loss.

    Args:
        model: The network, run in evaluation mode; left unchanged.
        weights: Parameters of ``model``, by name.
        batches: Inputs and targets on the network's device.
        loss: Mean loss of a batch, of outputs and targets.
        forward: Runs the network on a batch.

    Raises:
        NoGradientError: The loss does not depend on a weight, its gradient is not finite, or there are too few samples.
    """
    sums = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    means: list[Tensor] = []
    singles = (single for batch in batches for single in single_samples(batch))
    for squares, _ in _squares(model, weights, singles, loss, forward):
        for total, square in zip(sums.values(), squares, strict=True):
            total.add_(square)
        means.append(torch.stack([square.mean() for square in squares]))
    return _finished({name: total / max(1, len(means)) for name, total in sums.items()}, means, 1.0, len(means))


def gradients(
    model: nn.Module, weights: Mapping[str, Tensor], batch: Batch, loss: Loss, forward: Forward, create_graph: bool = False
) -> Sequence[Tensor]:
    """Return the gradients of the mean loss of one batch by ``weights``, in their order.

    Raises:
        NoGradientError: The loss does not depend on a weight, or a gradient is not finite.
    """
    inputs, targets = batch
    with torch.enable_grad():
        value = loss(forward(model, inputs), targets)
        try:
            found = torch.autograd.grad(value, list(weights.values()), create_graph=create_graph)
        except RuntimeError as error:
            unused = "does not require grad" in str(error) or "not have been used" in str(error)
            if not unused:
                raise
            raise NoGradientError(
                f"the loss of {type(model).__name__} has no gradient by every one of {len(weights)} weights (such as "
                f"{next(iter(weights), 'none')}): expected weights that its outputs depend on; exclude the others by name"
            ) from error
    for name, gradient in zip(weights, found, strict=True):
        if not bool(torch.isfinite(gradient).all()):
            raise NoGradientError(
                f"the gradient of the loss by {name} is not finite: expected a network whose outputs on the calibration "
                "samples are finite; was it trained?"
            )
    return found


def _squares(
    model: nn.Module, weights: Mapping[str, Tensor], batches: Iterable[Batch], loss: Loss, forward: Forward
) -> Iterable[tuple[list[Tensor], int]]:
    """Yield the squared gradients and the number of samples of every batch."""
    with evaluation_mode(model), open_weights(weights):
        for inputs, targets in batches:
            found = gradients(model, weights, (inputs, targets), loss, forward)
            yield [gradient.detach().square() for gradient in found], count_samples(inputs)


@contextmanager
def open_weights(weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Make ``weights`` require gradients inside the context, and put their flags back afterwards."""
    before = [weight.requires_grad for weight in weights.values()]
    for weight in weights.values():
        weight.requires_grad_(True)
    try:
        yield
    finally:
        for weight, required in zip(weights.values(), before, strict=True):
            weight.requires_grad_(required)


def _finished(diagonal: dict[str, Tensor], means: list[Tensor], scale: float, samples: int) -> SecondMoment:
    """Return the estimate from every draw's mean square over each tensor (``means``), times ``scale``."""
    if len(means) < 2:
        raise NoGradientError(
            f"second moments are averages with a standard error: expected at least 2 batches of one size, got {len(means)}; "
            "take more samples, or a smaller batch_size"
        )
    drawn = torch.stack(means).double() * scale
    spread = drawn.std(dim=0) / len(drawn) ** 0.5
    return SecondMoment(
        diagonal,
        {name: float(value.double().mean()) for name, value in diagonal.items()},
        dict(zip(diagonal, spread.tolist(), strict=True)),
        samples,
    )
