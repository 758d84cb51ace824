"""Fold BatchNorm into the preceding layer: the same function in evaluation mode, with one layer fewer to quantize."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvTransposeNd
from torch.utils.hooks import RemovableHandle

from spaces.cloning.clone import clone
from spaces.execution.batch import Nested
from spaces.execution.comparison import probe
from spaces.execution.forward import Forward, call, in_double, tensors_in
from spaces.execution.hooks import first_tensor, temporary_hooks
from spaces.quantization.layers import channel_axis, has_quantized_form

TOLERANCE = 1e-8
"""Largest accepted difference of the folded network's outputs in double precision, relative to the largest output."""

Fold = tuple[str, str]
"""Names of a layer and of the BatchNorm behind it."""


def find_folds(model: nn.Module, inputs: Nested, forward: Forward = call) -> list[Fold]:
    """Return the layers whose output is read by one BatchNorm and by nothing else.

    Candidates come from one forward pass; a pair is kept if folding it leaves the outputs of a copy with random statistics
    unchanged to :data:`TOLERANCE`.

    Args:
        model: The network; left unchanged.
        inputs: A batch of a single sample.
        forward: Runs ``model`` on ``inputs``.
    """
    network = clone(model).eval()
    candidates = _pairs(network, inputs, forward)
    if not candidates:
        return []
    network = network.double()
    _randomize(network)
    examples = probe(inputs, torch.float64)
    with torch.no_grad(), in_double():
        expected = _flat(forward(network, examples))
        if _same(fold_batch_norms(network, candidates), examples, forward, expected):
            return candidates
        return [pair for pair in candidates if _same(fold_batch_norms(network, [pair]), examples, forward, expected)]


def fold_batch_norms(model: nn.Module, folds: list[Fold]) -> nn.Module:
    """Return a copy of ``model`` with each BatchNorm in ``folds`` folded into its layer, an identity in its place."""
    network = clone(model)
    for layer_name, norm_name in folds:
        layer, norm = network.get_submodule(layer_name), network.get_submodule(norm_name)
        if isinstance(norm, nn.Identity):
            continue
        _merge(layer, norm)
        network.set_submodule(norm_name, nn.Identity())
    return network


def _merge(layer: nn.Module, norm: nn.Module) -> None:
    weight = layer.get_parameter("weight")
    mean, variance = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
    with torch.no_grad():
        factor = torch.rsqrt(variance.double() + float(norm.eps))  # type: ignore[arg-type]
        shift = torch.zeros_like(factor)
        if norm.affine:
            factor = factor * norm.get_parameter("weight").double()
            shift = norm.get_parameter("bias").double()
        before = layer.bias.double() if isinstance(layer.bias, Tensor) else torch.zeros_like(factor)
        view = [-1 if dim == channel_axis(layer) else 1 for dim in range(weight.dim())]
        weight.copy_((weight.double() * factor.reshape(view)).to(weight.dtype))
        layer.bias = nn.Parameter(((before - mean.double()) * factor + shift).to(weight.dtype), weight.requires_grad)


def _pairs(network: nn.Module, inputs: Nested, forward: Forward) -> list[Fold]:
    """Return pairs of a layer and the BatchNorm that reads its output, each called exactly once."""
    names = {id(module): name for name, module in network.named_modules()}
    produced: dict[int, tuple[str, Tensor]] = {}
    calls: dict[str, int] = {}
    found: list[Fold] = []

    def layer_ran(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        name = names[id(module)]
        calls[name] = calls.get(name, 0) + 1
        produced[id(output)] = name, output

    def norm_runs(module: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        name = names[id(module)]
        calls[name] = calls.get(name, 0) + 1
        entering = first_tensor(args, keywords)
        if id(entering) in produced:
            found.append((produced[id(entering)][0], name))

    shared = shared_parameters(network)

    def hooks() -> Iterator[RemovableHandle]:
        for module in network.modules():
            grouped = isinstance(module, _ConvTransposeNd) and module.groups > 1
            if has_quantized_form(module) and id(module.weight) not in shared and not grouped:
                yield module.register_forward_hook(layer_ran)
            elif isinstance(module, _BatchNorm) and module.running_mean is not None:
                yield module.register_forward_pre_hook(norm_runs, with_kwargs=True)

    with temporary_hooks(hooks()), torch.no_grad():
        forward(network, inputs)
    layers = [layer for layer, _ in found]
    return [pair for pair in found if calls[pair[0]] == calls[pair[1]] == 1 and layers.count(pair[0]) == 1]


def shared_parameters(network: nn.Module) -> set[int]:
    """Return the ``id`` of every parameter that belongs to more than one module."""
    seen: dict[int, int] = {}
    for module in network.modules():
        for parameter in module.parameters(recurse=False):
            seen[id(parameter)] = seen.get(id(parameter), 0) + 1
    return {key for key, count in seen.items() if count > 1}


def _randomize(network: nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    for norm in network.modules():
        if isinstance(norm, _BatchNorm) and norm.running_mean is not None and norm.running_var is not None:
            for tensor, low in ((norm.running_mean, -0.5), (norm.running_var, 0.5), (norm.weight, 0.5), (norm.bias, -0.5)):
                if tensor is not None:
                    tensor.data.copy_(torch.rand(tensor.shape, generator=generator, dtype=torch.float64) + low)


def _same(network: nn.Module, examples: Nested, forward: Forward, expected: Tensor) -> bool:
    scale = max(1.0, float(expected.abs().max()))
    return float((_flat(forward(network, examples)) - expected).abs().max()) <= TOLERANCE * scale


def _flat(outputs: object) -> Tensor:
    return torch.cat([tensor.reshape(-1).double() for tensor in tensors_in(outputs)])
