"""Find the layers and additions of a network that can be quantized, and the reason why each other layer cannot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from spaces.errors import UnsupportedModelError
from spaces.execution.batch import Nested, count_samples, describe
from spaces.execution.forward import Forward, call
from spaces.execution.hooks import first_tensor, temporary_hooks
from spaces.layers.layer_kind import kind_of
from spaces.layers.macs import MacsCounter
from spaces.patterns import reason_left_out, require_matches
from spaces.quantization.addition_nodes import Addition, find_additions
from spaces.quantization.batch_norm_folding import Fold, find_folds, fold_batch_norms, shared_parameters
from spaces.quantization.layers import QuantizedLayer, has_quantized_form

PRODUCTS = "its matrix products are no layer's"
"""Reason why modules that multiply without a layer of their own, such as attention, stay in float."""


@dataclass(frozen=True)
class QuantizableLayer:
    """A layer that can be quantized.

    Attributes:
        name: Module name.
        weights: Elements of the weight.
        inputs: Elements of the input for one sample, over all calls.
        macs: Multiply-accumulates for one sample, over all calls.
        edge: Whether it is the network's first or last layer with weights.
    """

    name: str
    weights: int
    inputs: int
    macs: float
    edge: bool


@dataclass(frozen=True)
class QuantizerLocation:
    """A place in the prepared network where a weight or an activation is quantized.

    Attributes:
        decision: Name of the decision on its bits.
        layer: Name of the layer or addition.
        kind: ``weight`` or ``activation``.
        path: Module path of the quantizer.
        elements: Quantized values: elements of the weight, or of the activation for one sample.
        macs: Multiply-accumulates of the layer for one sample; 0 for an addition.
    """

    decision: str
    layer: str
    kind: Literal["weight", "activation"]
    path: str
    elements: int
    macs: float


@dataclass(frozen=True)
class Unquantized:
    """A layer that stays in float, with the reason.

    Attributes:
        name: Module name, or ``additions``.
        reason: Why it cannot be quantized, or the pattern that excludes it.
        macs: Multiply-accumulates for one sample.
        weights: Elements of the weight.
    """

    name: str
    reason: str
    macs: float = 0.0
    weights: int = 0


@dataclass(frozen=True)
class Quantizable:
    """Layers and additions of one network that can be quantized.

    Attributes:
        folds: Pairs of a layer and the BatchNorm to fold into it.
        layers: Layers, in the order of their first call.
        additions: Additions of two activations, in the order of execution.
        frozen: Layers that stay in float.
    """

    folds: tuple[Fold, ...]
    layers: tuple[QuantizableLayer, ...]
    additions: tuple[Addition, ...]
    frozen: tuple[Unquantized, ...]

    def without_additions(self) -> Quantizable:
        """Return the same without the additions."""
        return replace(self, additions=())


def find_quantizable(
    model: nn.Module,
    inputs: Nested,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    forward: Forward = call,
    additions: bool = True,
) -> Quantizable:
    """Run the network once and return its layers and additions that can be quantized.

    Args:
        model: The network; left unchanged.
        inputs: A batch of a single sample.
        include: Name patterns of layers to quantize; empty for all.
        exclude: Name patterns of layers to leave in float.
        forward: Runs ``model`` on ``inputs``.
        additions: Whether to look for additions.

    Raises:
        UnsupportedModelError: The forward pass fails, or a pattern matches nothing.
    """
    folds = find_folds(model, inputs, forward)
    network = fold_batch_norms(model, folds).eval()
    layers = {name: module for name, module in network.named_modules() if _has_weight(module)}
    macs, read = _run(network, layers, inputs, forward)
    found_additions: list[Addition] = []
    frozen = [Unquantized(name or "the network itself", PRODUCTS, own) for name, own in macs.items() if name not in layers]
    if additions:
        try:
            found_additions = find_additions(network, inputs, forward)
        except UnsupportedModelError as error:
            frozen.append(Unquantized("additions", str(error)))
    require_matches((*include, *exclude), [*layers, *(addition.name for addition in found_additions)])
    shared = shared_parameters(network)
    order = [name for name in read if (kind := kind_of(layers[name])) is None or not kind.unquantizable]
    edges = {order[0], order[-1]} if order else set()
    sites = []
    for name in [*read, *(name for name in layers if name not in read)]:
        module = layers[name]
        reason = _obstacle(module, name in read, shared) or reason_left_out(name, include, exclude)
        weights = sum(parameter.numel() for parameter in module.parameters(recurse=False) if parameter.dim() > 1)
        if reason:
            frozen.append(Unquantized(name, reason, macs.get(name, 0.0), weights))
        else:
            sites.append(QuantizableLayer(name, weights, read[name], macs.get(name, 0.0), name in edges))
    kept = []
    for addition in found_additions:
        reason = reason_left_out(addition.name, include, exclude)
        if reason:
            frozen.append(Unquantized(addition.name, reason))
        else:
            kept.append(addition)
    return Quantizable(tuple(folds), tuple(sites), tuple(kept), tuple(frozen))


def _has_weight(module: nn.Module) -> bool:
    """Return whether a module itself has a weight of two or more dimensions and is no normalization or PReLU."""
    if isinstance(module, _BatchNorm | nn.LayerNorm | nn.GroupNorm | nn.PReLU):
        return False
    return any(parameter.dim() > 1 for parameter in module.parameters(recurse=False))


def _obstacle(module: nn.Module, called: bool, shared: set[int]) -> str:
    """Return the reason why a layer cannot be quantized, "" if it can."""
    if isinstance(module, QuantizedLayer):
        return "it is quantized already"
    kind = kind_of(module)
    if kind is not None and kind.unquantizable:
        return kind.unquantizable
    if not has_quantized_form(module):
        return f"a {type(module).__name__} is none of the layers that are quantized"
    if not called:
        return "its weight is read by other code than its own forward"
    if any(id(parameter) in shared for parameter in module.parameters(recurse=False)):
        return "it shares its weight with another layer"
    return ""


def _run(
    network: nn.Module, layers: dict[str, nn.Module], inputs: Nested, forward: Forward
) -> tuple[dict[str, float], dict[str, int]]:
    """Run the network; return MACs for one sample by module, and input elements of every called layer in calling order."""
    names = {id(module): name for name, module in layers.items()}
    counter = MacsCounter()
    read: dict[str, int] = {}
    samples = count_samples(inputs)

    def ran(module: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any], output: Any) -> None:
        name = names[id(module)]
        entering = first_tensor(args, keywords)
        read[name] = read.get(name, 0) + (entering.numel() // samples if entering is not None else 0)

    hooks = (module.register_forward_hook(ran, with_kwargs=True) for module in layers.values())
    try:
        with temporary_hooks(hooks), torch.no_grad(), counter.counting(network):
            forward(network, inputs)
    except (RuntimeError, TypeError, ValueError) as error:
        raise UnsupportedModelError(
            f"the forward pass of {type(network).__name__} on a batch of {describe(inputs)} failed: {error}"
        ) from error
    return {name: float(macs // samples) for name, macs in counter.macs.items()}, read
