"""Omega: the rise of the loss that bits cost, added up over all places where values are quantized."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from evaluators.base import EvaluationContext, Evaluator, Metric
from evaluators.sensitivity.estimates import (
    FORWARD_BATCH,
    Sensitivity,
    SensitivitySettings,
    calibration_batches,
    weight_sensitivity,
)
from evaluators.sensitivity.measured_increase import divergence
from evaluators.sensitivity.second_moment import NoGradientError
from evaluators.task import Batch, Task
from spaces.evaluation_mode import evaluation_mode
from spaces.quantization.fake_quantize import Quantizer
from spaces.quantization.layers import quantized_layers

Increases = dict[str, dict[int, float]]
"""Rise of the loss, by quantizer (its module path) and number of bits."""


class Place(Protocol):
    """Where values are quantized, as the space of bit-widths lists them."""

    @property
    def decision(self) -> str:
        """The decision that gives the bits."""

    @property
    def path(self) -> str:
        """The quantizer's module path."""


def omega_table(
    model: nn.Module,
    places: Sequence[Place],
    bits: Mapping[str, Sequence[Any]],
    task: Task,
    settings: SensitivitySettings,
    device: torch.device,
    generator: torch.Generator,
) -> tuple[Increases, Sensitivity]:
    """Return what every choice of bits adds to Omega, and the sensitivity of the weights behind it.

    Weights: ``1/2 sum_i h_i (Q(w_i) - w_i) ** 2`` with ``h`` as ``settings`` say. Activations, whichever kind that is:
    ``1/2 E[(dL/dz) ** 2 (Q(z) - z) ** 2]``, summed over the values of a sample and averaged over samples, with the gradient of
    each sample's own loss. Both around the network without quantization.

    Args:
        model: A prepared network with calibrated quantizers; left unchanged.
        places: Where it quantizes; places that share a decision add up.
        bits: By decision, the bits that it may have.
        task: Data, loss and forward pass.
        settings: How.
        device: Where the network runs.
        generator: Source of probes, on the CPU.

    Returns:
        By decision and number of bits, the rise of the loss; and the weights' sensitivity, by decision.
    """
    wanted = {place.path: tuple(int(option) for option in bits[place.decision]) for place in places}
    increases, found = _increases(model, wanted, task, settings, device, generator, Quantizer.quantized, as_float)
    table: Increases = {decision: {int(option): 0.0 for option in options} for decision, options in bits.items()}
    for place in places:
        for count, value in increases[place.path].items():
            table[place.decision][count] += value
    decisions = {place.path.removesuffix("_quantizer"): place.decision for place in places}
    named = Sensitivity(
        found.kind,
        {decisions[name]: value for name, value in found.diagonal.items()},
        {decisions[name]: value for name, value in found.average.items()},
        {decisions[name]: value for name, value in found.standard_error.items()},
    )
    return table, named


def omega(
    model: nn.Module, task: Task, settings: SensitivitySettings, device: torch.device, generator: torch.Generator
) -> float:
    """Return Omega of a quantized network for its own bits and steps, and the weights that it has now.

    The sums are those of :func:`omega_table`, with derivatives around the network as it is, quantized, since that is what was
    trained. A network without quantizers has an Omega of 0.
    """
    wanted = {path: (module.bits,) for path, module in _quantizers(model).items()}
    if not wanted:
        return 0.0
    increases, _ = _increases(model, wanted, task, settings, device, generator, _as_it_is, as_rounded)
    return sum(value for found in increases.values() for value in found.values())


class LossIncrease(Evaluator):
    """Predicted rise of the loss by quantization, by second derivatives or by how far answers move; no label is scored.

    Read off the search's table for a network with the weights that the table was made for. For one that was trained since it
    is computed anew, on the current weights: second derivatives around the quantized network; or the distance of its answers
    from those of the network that the search started from.
    """

    Settings = SensitivitySettings
    rank = 5

    def __init__(self, settings: SensitivitySettings) -> None:
        self.settings = settings

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """``omega``."""
        return {"omega": Metric("nats", "minimize")}

    def evaluate(self, model: nn.Module, context: EvaluationContext) -> dict[str, float]:
        """Return Omega."""
        table = context.tables.get("omega")
        if table is not None and context.candidate is not None and not context.trained:
            return {"omega": sum_of(table, context.candidate.values)}
        if self.settings.sensitivity == "divergence":
            batches = calibration_batches(context.task, self.settings, context.device, FORWARD_BATCH)
            reference = context.reference.to(context.device)
            return {"omega": divergence(model.to(context.device), reference, context.task, batches)}
        return {"omega": omega(model, context.task, self.settings, context.device, context.generator)}


def sum_of(table: Mapping[str, Mapping[int, float]], values: Mapping[str, Any]) -> float:
    """Return what a choice of bits for every decision of a table adds up to."""
    return sum(entries[int(values[decision])] for decision, entries in table.items())


def _as_it_is(quantizer: Quantizer, values: Tensor, bits: int) -> Tensor:
    """Return ``values`` as the quantizer would hold them now."""
    before = quantizer.enabled
    quantizer.enabled = True
    try:
        quantized: Tensor = quantizer(values)
    finally:
        quantizer.enabled = before
    return quantized


def _increases(
    model: nn.Module,
    wanted: Mapping[str, Sequence[int]],
    task: Task,
    settings: SensitivitySettings,
    device: torch.device,
    generator: torch.Generator,
    quantize: Callable[[Quantizer, Tensor, int], Tensor],
    around: Callable[[nn.Module], AbstractContextManager[None]],
) -> tuple[Increases, Sensitivity]:
    model.to(device)
    batches = calibration_batches(task, settings, device)
    weights = {
        f"{name}.weight": layer.weight
        for name, layer in quantized_layers(model).items()
        if layer.weight is not None and f"{name}.weight_quantizer" in wanted
    }
    with around(model):
        found = weight_sensitivity(model, weights, task, batches, settings, generator)
        activations = {path: counts for path, counts in wanted.items() if f"{path.removesuffix('_quantizer')}" not in weights}
        increases = activation_increases(model, activations, task, batches, quantize)
    for name, weight in weights.items():
        path = f"{name}_quantizer"
        quantizer = _quantizers(model)[path]
        with torch.no_grad():
            increases[path] = {
                count: found.increase(name, quantize(quantizer, weight.detach(), count) - weight) for count in wanted[path]
            }
    return increases, found


def activation_increases(
    model: nn.Module,
    wanted: Mapping[str, Sequence[int]],
    task: Task,
    batches: Sequence[Batch],
    quantize: Callable[[Quantizer, Tensor, int], Tensor],
) -> Increases:
    """Return ``1/2 E[(dL/dz) ** 2 (Q(z) - z) ** 2]`` of activations, one backward pass per batch.

    In evaluation mode samples don't meet, so that the gradient of the batch's mean loss, times the samples of the batch, is
    that of each sample's own loss.

    Args:
        model: The network; gradients are those by what leaves each quantizer, switched on or off.
        wanted: Bits by the path of each quantizer.
        task: Loss and forward pass.
        batches: Inputs and targets.
        quantize: Returns the values of a quantizer's input at a number of bits.

    Raises:
        NoGradientError: The loss does not depend on an activation.
    """
    quantizers = _quantizers(model)
    sums = {path: dict.fromkeys(counts, 0.0) for path, counts in wanted.items()}
    total = 0
    with evaluation_mode(model), torch.enable_grad():
        for inputs, targets in batches if wanted else ():
            with _entering({path: quantizers[path] for path in wanted}) as entered:
                value = task.loss(task.forward(model, inputs), targets)
            places = [(path, values, output) for path, seen in entered.items() for values, output in seen]
            tensors = [output for _, _, output in places]
            found = torch.autograd.grad(value, tensors, allow_unused=True) if tensors and value.requires_grad else []
            total += len(inputs)
            for (path, values, _), gradient in zip(places, found, strict=True):
                if gradient is None:
                    continue
                own = (gradient * len(inputs)).square()
                if not bool(torch.isfinite(own).all()):
                    raise NoGradientError(f"the gradient of the loss by the input of {path} is not finite; was it trained?")
                with torch.no_grad():
                    for count in wanted[path]:
                        difference = quantize(quantizers[path], values, count) - values
                        sums[path][count] += 0.5 * float((own * difference.square()).sum(dtype=torch.float64))
    return {path: {count: value / max(1, total) for count, value in found.items()} for path, found in sums.items()}


@contextmanager
def as_float(model: nn.Module) -> Iterator[None]:
    """Switch every quantizer of ``model`` off inside, and as it was afterwards."""
    with _switched_off(_quantizers(model).values()):
        yield


@contextmanager
def as_rounded(model: nn.Module) -> Iterator[None]:
    """Let the weights of ``model`` be their rounded values inside, so that also those that are clipped have a gradient."""
    layers = [layer for layer in quantized_layers(model).values() if layer.weight_quantizer is not None]
    weights = [layer.weight for layer in layers if isinstance(layer.weight, nn.Parameter)]
    exact = [weight.data for weight in weights]
    with torch.no_grad():
        rounded = [layer.quantized_weight().detach() for layer in layers]
    try:
        for weight, values in zip(weights, rounded, strict=True):
            weight.data = values
        with _switched_off([layer.weight_quantizer for layer in layers if layer.weight_quantizer is not None]):
            yield
    finally:
        for weight, values in zip(weights, exact, strict=True):
            weight.data = values


@contextmanager
def _switched_off(quantizers: Iterable[Quantizer]) -> Iterator[None]:
    before = [(module, module.enabled) for module in quantizers]
    for module, _ in before:
        module.enabled = False
    try:
        yield
    finally:
        for module, enabled in before:
            module.enabled = enabled


@contextmanager
def _entering(quantizers: Mapping[str, Quantizer]) -> Iterator[dict[str, list[tuple[Tensor, Tensor]]]]:
    """Note what enters each quantizer, at every call, and what leaves it, as a tensor of its own to take gradients by."""
    entered: dict[str, list[tuple[Tensor, Tensor]]] = {path: [] for path in quantizers}

    def watch(path: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            # Other readers of the same activation have gradients of their own; and it may be changed in place behind.
            own = output.clone() if output.requires_grad else output.detach().clone().requires_grad_(True)
            entered[path].append((args[0].detach().clone(), own))
            return own.clone()

        return hook

    handles = [module.register_forward_hook(watch(path)) for path, module in quantizers.items()]
    try:
        yield entered
    finally:
        for handle in handles:
            handle.remove()


def _quantizers(model: nn.Module) -> dict[str, Quantizer]:
    return {name: module for name, module in model.named_modules() if isinstance(module, Quantizer)}
