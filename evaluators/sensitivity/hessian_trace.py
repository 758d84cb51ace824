"""Estimate the traces of the Hessian's diagonal blocks, one per weight tensor, all from the same probes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from evaluators.sensitivity.second_moment import Loss, gradients, open_weights
from evaluators.task import Batch
from spaces.errors import SecateursError
from spaces.execution.batch import count_samples
from spaces.execution.evaluation_mode import evaluation_mode
from spaces.execution.forward import Forward


@dataclass(frozen=True)
class TraceEstimate:
    """The trace of one weight tensor's block of the Hessian of the mean loss.

    Attributes:
        value: Unbiased estimate of the trace over the given batches.
        standard_error: Standard error of ``value``.
        size: Number of weights in the tensor, so that the average trace is ``value / size``.
    """

    value: float
    standard_error: float
    size: int

    @property
    def relative_error(self) -> float:
        """Standard error over the absolute value; infinite for a value of 0 with an error."""
        if self.value == 0.0:
            return 0.0 if self.standard_error == 0.0 else math.inf
        return self.standard_error / abs(self.value)


@dataclass(frozen=True)
class Traces:
    """All traces of one network.

    Attributes:
        by_name: The trace of every weight tensor.
        rounds: Number of rounds, each of as many probes as there are batches.
        products: Number of Hessian-vector products over one batch.
        converged: Whether every relative standard error reached the tolerance.
    """

    by_name: Mapping[str, TraceEstimate]
    rounds: int
    products: int
    converged: bool


@dataclass(frozen=True)
class TraceSettings:
    """Accuracy at which probing stops.

    Attributes:
        tolerance: Relative standard error to reach for every tensor's trace.
        least_rounds: Rounds before the error is first estimated; estimates from fewer come out too small.
        most_rounds: Largest number of rounds, whatever error is left.
    """

    tolerance: float = 0.05
    least_rounds: int = 8
    most_rounds: int = 64

    def __post_init__(self) -> None:
        """Check the range of every option.

        Raises:
            ValueError: An option is out of range; the message begins with its name.
        """
        if not self.tolerance > 0:
            raise ValueError(f"tolerance: expected a number above 0, got {self.tolerance}")
        if self.least_rounds < 2:
            raise ValueError(f"least_rounds: expected at least 2, got {self.least_rounds}")
        if self.most_rounds < self.least_rounds:
            raise ValueError(f"most_rounds: expected at least least_rounds ({self.least_rounds}), got {self.most_rounds}")


def hessian_traces(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    batches: Sequence[Batch],
    loss: Loss,
    forward: Forward,
    generator: torch.Generator,
    settings: TraceSettings | None = None,
    on_round: Callable[[int, float], None] | None = None,
) -> Traces:
    """Estimate ``Tr(H_l)`` for every weight tensor ``l`` by Hutchinson's method: ``E[v_l' (H v)_l]``, ``v`` random signs.

    Hutchinson 1989; HAWQ-V2 (Dong et al. 2020, arXiv 1911.03852) for layers, who probe one layer at a time. Here one
    differentiable backward pass and one Hessian-vector product of a batch serve all tensors at once. Against the noise of the
    blocks off the diagonal (ours):

    - every batch has probes of its own, whose noise averages out over the batches (the noise of one shared probe is that of
      the mean Hessian, no smaller): many small batches are better than one;
    - a round draws as many batches as there are, those more often that have large gradients (few samples hold most of
      the curvature of a trained network), and divides by the chance of each;
    - the signs of tensor ``l`` are scaled by ``s_l``, and ``v_l' (H v)_l`` divided by ``s_l ** 2``, which changes no
      expectation; with ``s_l`` one over the norm of the tensor's gradients none drowns in the noise of those with larger
      traces.

    Chances and scales are computed from the squared gradients of every batch, independent of the probes, so that the estimate
    is unbiased.

    Args:
        model: The network, run in evaluation mode; left unchanged.
        weights: Parameters of ``model``, by name.
        batches: Inputs and targets on the network's device; the Hessian is that of the mean loss over all their samples.
        loss: Mean loss of a batch, of outputs and targets.
        forward: Runs the network on a batch.
        generator: Source of the probes, on the CPU.
        settings: Accuracy at which to stop.
        on_round: Called after every round with its number, from 1, and the largest relative standard error.

    Raises:
        NoGradientError: The loss does not depend on a weight, or its gradient by a weight is not finite.
        SecateursError: There is no batch, or a part of the network has no second derivative.
    """
    settings = settings or TraceSettings()
    if not batches or not weights:
        raise SecateursError(f"traces need batches and weights: expected some, got {len(batches)} and {len(weights)}")
    shares = torch.tensor([float(count_samples(inputs)) for inputs, _ in batches], dtype=torch.float64)
    shares /= shares.sum()
    tensors, draws, error, rounds = list(weights.values()), list[Tensor](), math.inf, 0

    def probed(position: int, scales: Tensor) -> Tensor:
        first = gradients(model, weights, batches[position], loss, forward, create_graph=True)
        return _probe(model, first, tensors, scales, generator)

    # The fused kernels of attention have no second derivative.
    with evaluation_mode(model), open_weights(weights), sdpa_kernel(SDPBackend.MATH):
        squares = torch.stack([_squared_norms(gradients(model, weights, batch, loss, forward)) for batch in batches])
        scales, chances = _balanced(shares @ squares), _chances(squares, shares)
        while rounds < settings.most_rounds and not (rounds >= settings.least_rounds and error <= settings.tolerance):
            drawn = torch.multinomial(chances, len(batches), replacement=True, generator=generator).tolist()
            draws += [probed(at, scales) * (shares[at] / chances[at]) for at in drawn]
            rounds += 1
            error = _largest_error(_estimates(draws, weights)) if len(draws) > 1 else math.inf
            if on_round is not None:
                on_round(rounds, error)
    return Traces(_estimates(draws, weights), rounds, len(draws), error <= settings.tolerance)


_DEFENSIVE = 0.2
"""Share of the chances that is spread evenly over samples."""


def _probe(
    model: nn.Module, first: Sequence[Tensor], weights: list[Tensor], scales: Tensor, generator: torch.Generator
) -> Tensor:
    """Return ``v_l' (H v)_l / s_l ** 2`` of one batch for every tensor, float64 of shape ``(tensors,)``.

    Args:
        model: The network, for error messages.
        first: Gradients of the batch's loss by ``weights``, differentiable.
        weights: The weight tensors.
        scales: Scales ``s_l``, float64 of shape ``(tensors,)``.
        generator: Source of the signs.
    """
    probes = []
    for weight, scale in zip(weights, scales.tolist(), strict=True):
        signs = torch.randint(0, 2, weight.shape, generator=generator, dtype=torch.int8)
        probes.append((signs.to(weight.device, weight.dtype) * 2 - 1) * scale)
    # A gradient that is the same whatever the weights (of a linear loss) has no graph.
    curved = [(gradient, probe) for gradient, probe in zip(first, probes, strict=True) if gradient.requires_grad]
    if not curved:
        return torch.zeros(len(weights), dtype=torch.float64)
    outputs, directions = zip(*curved, strict=True)
    try:
        products = torch.autograd.grad(outputs, weights, grad_outputs=directions, materialize_grads=True)
    except RuntimeError as error:
        if "derivative" not in str(error):
            raise
        raise SecateursError(
            f"{type(model).__name__} has a part without second derivatives ({str(error).splitlines()[0]}): expected one for "
            "hutchinson; take sensitivity: fisher or adam"
        ) from error
    parts = [(probe * product).sum(dtype=torch.float64) for probe, product in zip(probes, products, strict=True)]
    return torch.stack(parts).cpu() / scales.square()


def _squared_norms(found: Sequence[Tensor]) -> Tensor:
    return torch.stack([gradient.square().sum(dtype=torch.float64).cpu() for gradient in found])


def _balanced(sizes: Tensor) -> Tensor:
    """Return scales ``1 / sqrt(size)`` relative to the median size, within a factor of sqrt(1000)."""
    typical = float(sizes.median())
    if typical <= 0.0:
        return torch.ones_like(sizes)
    return (sizes / typical).clamp(1e-3, 1e3).rsqrt()


def _chances(squares: Tensor, shares: Tensor) -> Tensor:
    """Return the chance of every batch to be drawn, from squared gradients of shape ``(batches, tensors)``.

    A chance is proportional to the batch's part of the squared gradients, averaged over tensors; a share of the chances is
    spread evenly, since curvature need not follow gradients.
    """
    whole = (shares @ squares).clamp_min(torch.finfo(torch.float64).tiny)
    parts = shares * (squares / whole).mean(dim=1)
    if float(parts.sum()) <= 0.0:
        return shares
    return (1.0 - _DEFENSIVE) * parts / parts.sum() + _DEFENSIVE * shares


def _estimates(draws: Sequence[Tensor], weights: Mapping[str, Tensor]) -> dict[str, TraceEstimate]:
    rows = torch.stack(list(draws))
    errors = rows.std(dim=0) / len(rows) ** 0.5
    named = zip(weights.items(), rows.mean(dim=0).tolist(), errors.tolist(), strict=True)
    return {name: TraceEstimate(value, error, weight.numel()) for (name, weight), value, error in named}


def _largest_error(traces: Mapping[str, TraceEstimate]) -> float:
    return max(trace.relative_error for trace in traces.values())
