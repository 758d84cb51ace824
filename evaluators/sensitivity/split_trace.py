"""Estimate traces of the Hessian's blocks in two parts: Gauss-Newton summed exactly, the small rest by probes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from evaluators.sensitivity.hessian_trace import TraceEstimate, Traces, TraceSettings, hessian_traces
from evaluators.sensitivity.second_moment import Loss, gradients, open_weights
from evaluators.task import Batch
from spaces.errors import SecateursError
from spaces.execution.batch import Nested, count_samples, select, single_samples
from spaces.execution.evaluation_mode import evaluation_mode
from spaces.execution.forward import Forward

MOST_OUTPUTS = 64
"""Largest number of outputs of a sample for which the Gauss-Newton part is summed exactly."""

LEAST_DRAWS = 4
"""Smallest number of probes of the rest, per tensor."""


def split_traces(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    batches: Sequence[Batch],
    loss: Loss,
    forward: Forward,
    generator: torch.Generator,
    settings: TraceSettings | None = None,
) -> Traces:
    """Return ``Tr(H_l) = Tr(G_l) + Tr(R_l)`` for every weight tensor ``l`` (ours).

    ``G = J' H_L J`` is the Gauss-Newton matrix: with eigenvalues ``lambda_k`` and eigenvectors ``e_k`` of the loss's Hessian by
    the outputs of one sample, its trace is ``sum_k lambda_k |J_l' e_k| ** 2``, one backward pass for each, without any noise.
    ``R`` is the part due to the curvature of the outputs themselves. Where the outputs are linear in one layer's weights (ReLU
    networks in evaluation mode, almost everywhere) the diagonal blocks of ``R`` are 0, and so is every probe; elsewhere these
    blocks are probed by Hutchinson's method, one tensor at a time, until the error of the sum is within the tolerance.

    Networks of more than :data:`MOST_OUTPUTS` outputs per sample, or whose outputs are no single tensor, are handed to
    :func:`.hessian_traces`.

    Args:
        model: The network, run in evaluation mode; left unchanged.
        weights: Parameters of ``model``, by name.
        batches: Inputs and targets on the network's device; the Hessian is that of the mean loss over all their samples.
        loss: Mean loss of a batch, of outputs and targets.
        forward: Runs the network on a batch.
        generator: Source of the probes, on the CPU.
        settings: Accuracy at which to stop; a round has as many probes as there are batches, shared evenly by the tensors.

    Raises:
        NoGradientError: The loss does not depend on a weight, or its gradient by a weight is not finite.
        SecateursError: There is no batch, or a part of the network has no second derivative.
    """
    settings = settings or TraceSettings()
    if not batches or not weights:
        raise SecateursError(f"traces need batches and weights: expected some, got {len(batches)} and {len(weights)}")
    with evaluation_mode(model), torch.no_grad():
        outputs = forward(model, select(batches[0][0], 0, 1))
    if not isinstance(outputs, Tensor) or outputs.numel() > MOST_OUTPUTS:
        return hessian_traces(model, weights, batches, loss, forward, generator, settings)
    shares = torch.tensor([float(count_samples(inputs)) for inputs, _ in batches], dtype=torch.float64)
    by_name, products, longest = {}, 0, 0
    with evaluation_mode(model), open_weights(weights), sdpa_kernel(SDPBackend.MATH):
        # Whatever the loss does not depend on is an error with a name.
        gradients(model, weights, batches[0], loss, forward)
        most = max(LEAST_DRAWS, settings.most_rounds * len(batches) // len(weights))
        exact = _gauss_newton(model, list(weights.values()), batches, loss, forward)
        for (name, weight), known in zip(weights.items(), exact.tolist(), strict=True):
            draws: list[float] = []
            trace = TraceEstimate(known, math.inf, weight.numel())
            while len(draws) < LEAST_DRAWS or (trace.relative_error > settings.tolerance and len(draws) < most):
                chosen = int(torch.multinomial(shares, 1, generator=generator))
                draws.append(_rest(model, weight, batches[chosen], loss, forward, generator))
                trace = _added(known, draws, weight.numel())
            by_name[name] = trace
            products += len(draws)
            longest = max(longest, len(draws))
    converged = all(trace.relative_error <= settings.tolerance for trace in by_name.values())
    return Traces(by_name, math.ceil(longest / len(batches)), products, converged)


def _added(known: float, draws: Sequence[float], size: int) -> TraceEstimate:
    values = torch.tensor(draws, dtype=torch.float64)
    error = float(values.std()) / len(draws) ** 0.5 if len(draws) > 1 else math.inf
    return TraceEstimate(known + float(values.mean()), error, size)


def _gauss_newton(model: nn.Module, weights: list[Tensor], batches: Sequence[Batch], loss: Loss, forward: Forward) -> Tensor:
    """Return the traces of the Gauss-Newton matrix's blocks, float64 of shape ``(tensors,)``, sample by sample."""
    total = torch.zeros(len(weights), dtype=torch.float64)
    samples = 0
    for batch in batches:
        for inputs, target in single_samples(batch):
            outputs = forward(model, inputs)
            values, vectors = torch.linalg.eigh(_output_hessian(outputs.detach(), target, loss))
            kept = [k for k, value in enumerate(values.tolist()) if abs(value) > 1e-9 * float(values.abs().max())]
            for place, k in enumerate(kept):
                direction = vectors[:, k].reshape(outputs.shape).to(outputs.dtype)
                found = torch.autograd.grad(
                    outputs, weights, direction, retain_graph=place + 1 < len(kept), materialize_grads=True
                )
                total += float(values[k]) * torch.stack([part.square().sum(dtype=torch.float64).cpu() for part in found])
            samples += 1
    return total / samples


def _output_hessian(outputs: Tensor, target: Nested, loss: Loss) -> Tensor:
    """Return the Hessian of one sample's loss by its outputs, float64 of shape ``(outputs, outputs)``."""
    leaf = outputs.double().requires_grad_(True)
    (slope,) = torch.autograd.grad(loss(leaf, target), leaf, create_graph=True)
    count = leaf.numel()
    if not slope.requires_grad:
        return torch.zeros(count, count, dtype=torch.float64, device=leaf.device)
    rows = [torch.autograd.grad(part, leaf, retain_graph=True)[0].flatten() for part in slope.flatten()]
    return torch.stack(rows)


def _rest(model: nn.Module, weight: Tensor, batch: Batch, loss: Loss, forward: Forward, generator: torch.Generator) -> float:
    """Return ``z' R z`` of one batch for random signs ``z`` on one tensor: ``z' H z - (J z)' H_L (J z)``."""
    inputs, targets = batch
    signs = torch.randint(0, 2, weight.shape, generator=generator, dtype=torch.int8)
    probe = signs.to(weight.device, weight.dtype) * 2 - 1
    outputs = forward(model, inputs)
    (slope,) = torch.autograd.grad(loss(outputs, targets), weight, create_graph=True)
    whole = torch.zeros((), dtype=torch.float64)
    if slope.requires_grad:
        (product,) = torch.autograd.grad(slope, weight, probe, retain_graph=True, materialize_grads=True)
        whole = (product * probe).sum(dtype=torch.float64)
    pulled = torch.zeros_like(outputs, requires_grad=True)
    (linear,) = torch.autograd.grad(outputs, weight, pulled, create_graph=True)
    (pushed,) = torch.autograd.grad(linear, pulled, probe)
    leaf = outputs.detach().requires_grad_(True)
    (inner,) = torch.autograd.grad(loss(leaf, targets), leaf, create_graph=True)
    if not inner.requires_grad:
        return float(whole)
    (curved,) = torch.autograd.grad(inner, leaf, pushed, materialize_grads=True)
    return float(whole - (curved * pushed).sum(dtype=torch.float64))
