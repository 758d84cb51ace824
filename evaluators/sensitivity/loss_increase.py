"""Predict the rise of the loss by quantization, Omega: the sum over all quantizers (HAWQ-V2, arXiv 1911.03852)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from evaluators.base import EvaluationContext, Evaluator
from evaluators.metrics import METRICS, Metric
from evaluators.sensitivity.estimates import (
    FORWARD_BATCH,
    Sensitivity,
    SensitivitySettings,
    calibration_batches,
    weight_sensitivity,
)
from evaluators.sensitivity.measured_increase import divergence
from evaluators.sensitivity.second_moment import NoGradientError
from evaluators.sensitivity.training_hessian import moments_by_weight
from evaluators.task import Batch, Task
from spaces.execution.batch import count_samples
from spaces.execution.evaluation_mode import evaluation_mode
from spaces.execution.hooks import first_tensor, temporary_hooks
from spaces.quantization.fake_quantize import Quantizer, fake_quantizers
from spaces.quantization.layers import quantized_layers
from spaces.quantization.quantizable import QuantizerLocation

Increases = dict[str, dict[int, float]]
"""Rise of the loss, by quantizer (its module path) and number of bits."""


def omega_table(
    model: nn.Module,
    places: Sequence[QuantizerLocation],
    bits: Mapping[str, Sequence[Any]],
    task: Task,
    settings: SensitivitySettings,
    device: torch.device,
    generator: torch.Generator,
    known: Mapping[str, Tensor] | None = None,
) -> tuple[Increases, Sensitivity]:
    """Return the contribution of every choice of bits to Omega, and the sensitivity of the weights.

    Weights: ``1/2 sum_i h_i (Q(w_i) - w_i) ** 2``, ``h`` the second derivatives of ``settings``. Activations, for all kinds:
    ``1/2 E[(dL/dz) ** 2 (Q(z) - z) ** 2]``, summed over the values of a sample and averaged over samples, with the gradient of
    each sample's own loss. Both around the network without quantization.

    Args:
        model: A prepared network with calibrated quantizers; left unchanged.
        places: Quantizers of ``model``; contributions of one decision's quantizers add up.
        bits: Numbers of bits to choose from, by decision.
        task: Data, loss and forward pass.
        settings: Kind and accuracy of the second derivatives.
        device: Device that the network runs on.
        generator: Source of probes, on the CPU.
        known: For ``adam``, second derivatives by weight of :func:`.training_hessian`; None to measure moments.

    Returns:
        The rise of the loss by decision and number of bits; and the weights' sensitivity by decision.
    """
    wanted = {place.path: tuple(int(option) for option in bits[place.decision]) for place in places}
    increases, found = _increases(model, wanted, task, settings, device, generator, known, Quantizer.quantized, as_float)
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
        found.moments,
    )
    return table, named


def omega(
    model: nn.Module,
    task: Task,
    settings: SensitivitySettings,
    device: torch.device,
    generator: torch.Generator,
    known: Mapping[str, Tensor] | None = None,
) -> float:
    """Return Omega of a quantized network for its present bits, quantization parameters and weights.

    The sums are those of :func:`omega_table`, with derivatives around the quantized network, which is the one that was
    trained. A network without quantizers has an Omega of 0.
    """
    wanted = {path: (module.bits,) for path, module in fake_quantizers(model).items()}
    if not wanted:
        return 0.0
    increases, _ = _increases(model, wanted, task, settings, device, generator, known, _as_it_is, as_rounded)
    return sum(value for found in increases.values() for value in found.values())


class LossIncrease(Evaluator):
    """Predicted rise of the loss by quantization, from second derivatives or from the distance of outputs; no label is scored.

    Read off the search's table for a network with the weights of the table. For a network trained since then, Omega is
    computed on the current weights: by second derivatives around the quantized network (for ``adam`` from the moments of that
    training, where it kept some and ``moments: training`` asks for them), or by the distance of the outputs from those of the
    network that the search started from.
    """

    Settings = SensitivitySettings
    rank = 5
    needs_quantizers = True

    def __init__(self, settings: SensitivitySettings) -> None:
        """Keep ``settings``."""
        self.settings = settings

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """``omega``, in nats for a classification task."""
        return {"omega": METRICS["omega"]}

    def evaluate(self, model: nn.Module, context: EvaluationContext) -> dict[str, float]:
        """Return ``omega`` of ``model``."""
        table = context.tables.get("omega")
        if table is not None and context.candidate is not None and not context.trained:
            return {"omega": sum_of(table, context.candidate.values)}
        if self.settings.sensitivity == "divergence":
            batches = calibration_batches(context.task, self.settings, context.device, FORWARD_BATCH)
            reference = context.reference.to(context.device)
            return {"omega": divergence(model.to(context.device), reference, context.task, batches)}
        of_training = self.settings.sensitivity == "adam" and self.settings.moments == "training"
        known = moments_by_weight(context.moments, model) if of_training else None
        return {"omega": omega(model, context.task, self.settings, context.device, context.generator, known)}


def sensitivity_settings(evaluators: Iterable[Evaluator]) -> SensitivitySettings | None:
    """Return the settings of the first evaluator of ``omega``, or None if there is none."""
    return next((one.settings for one in evaluators if isinstance(one, LossIncrease)), None)


def sum_of(table: Mapping[str, Mapping[int, float]], values: Mapping[str, Any]) -> float:
    """Return the sum of a table's entries over the bits chosen for every decision."""
    return sum(entries[int(values[decision])] for decision, entries in table.items())


def _as_it_is(quantizer: Quantizer, values: Tensor, bits: int) -> Tensor:
    """Return ``values`` quantized with the quantizer's present parameters, whatever ``bits`` says."""
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
    known: Mapping[str, Tensor] | None,
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
        found = weight_sensitivity(model, weights, task, batches, settings, generator, known)
        activations = {path: counts for path, counts in wanted.items() if f"{path.removesuffix('_quantizer')}" not in weights}
        increases = activation_increases(model, activations, task, batches, quantize)
    for name, weight in weights.items():
        path = f"{name}_quantizer"
        quantizer = fake_quantizers(model)[path]
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

    In evaluation mode samples are independent, so that the gradient of the batch's mean loss, times the number of samples, is
    the gradient of each sample's own loss.

    Args:
        model: The network; gradients are by the output of each quantizer, switched on or off.
        wanted: Numbers of bits by the path of each quantizer.
        task: Loss and forward pass.
        batches: Inputs and targets on the network's device.
        quantize: Quantizes values with a quantizer at a number of bits.

    Raises:
        NoGradientError: The loss does not depend on an activation.
    """
    quantizers = fake_quantizers(model)
    sums = {path: dict.fromkeys(counts, 0.0) for path, counts in wanted.items()}
    total = 0
    with evaluation_mode(model), torch.enable_grad():
        for inputs, targets in batches if wanted else ():
            with _entering({path: quantizers[path] for path in wanted}) as entered:
                value = task.loss(task.forward(model, inputs), targets)
            places = [(path, values, output) for path, seen in entered.items() for values, output in seen]
            tensors = [output for _, _, output in places]
            found = torch.autograd.grad(value, tensors, allow_unused=True) if tensors and value.requires_grad else []
            samples = count_samples(inputs)
            total += samples
            for (path, values, _), gradient in zip(places, found, strict=True):
                if gradient is None:
                    continue
                own = (gradient * samples).square()
                if not bool(torch.isfinite(own).all()):
                    raise NoGradientError(f"the gradient of the loss by the input of {path} is not finite; was it trained?")
                with torch.no_grad():
                    for count in wanted[path]:
                        difference = quantize(quantizers[path], values, count) - values
                        sums[path][count] += 0.5 * float((own * difference.square()).sum(dtype=torch.float64))
    return {path: {count: value / max(1, total) for count, value in found.items()} for path, found in sums.items()}


@contextmanager
def as_float(model: nn.Module) -> Iterator[None]:
    """Switch every quantizer of ``model`` off inside the context, and back afterwards."""
    with _switched_off(fake_quantizers(model).values()):
        yield


@contextmanager
def as_rounded(model: nn.Module) -> Iterator[None]:
    """Replace the weights of ``model`` by their rounded values inside the context, so that clipped ones have a gradient too."""
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
    """Record each quantizer's inputs, call by call, and its outputs as separate tensors to differentiate by."""
    entered: dict[str, list[tuple[Tensor, Tensor]]] = {path: [] for path in quantizers}

    def watch(path: str) -> Callable[..., Tensor]:
        def hook(module: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any], output: Tensor) -> Tensor:
            values = first_tensor(args, keywords)
            if values is None:
                return output
            # Other readers of the same activation have gradients of their own; and it may be changed in place behind.
            own = output.clone() if output.requires_grad else output.detach().clone().requires_grad_(True)
            entered[path].append((values.detach().clone(), own))
            return own.clone()

        return hook

    with temporary_hooks(module.register_forward_hook(watch(path), with_kwargs=True) for path, module in quantizers.items()):
        yield entered
