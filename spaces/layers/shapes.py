"""Shapes of the layers with weights: all that decides a layer's latency apart from its channels and bits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from spaces.evaluation_mode import evaluation_mode
from spaces.forward import Forward, call


@dataclass(frozen=True)
class LayerShape:
    """Kind, channels and geometry of a layer in a network that was run once.

    Attributes:
        kind: Kind of computation.
        in_channels: Channels that it reads.
        out_channels: Channels that it writes.
        size: The other dimensions of its input, without the batch: height and width of an image, say.
        kernel: Size of the kernel; empty for a linear layer, as are the next three.
        stride: Steps of the kernel.
        padding: Zeros before and behind every dimension: all before, then all behind.
        dilation: Steps within the kernel.
        groups: Groups of a convolution.
        calls: Number of runs in one pass.
    """

    kind: Literal["conv", "conv_transpose", "linear"]
    in_channels: int
    out_channels: int
    size: tuple[int, ...]
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    calls: int = 1


def layer_shapes(model: nn.Module, inputs: Tensor, forward: Forward = call) -> dict[str, LayerShape]:
    """Return the shape of every convolution and linear layer that ``forward`` runs as a module, by name, in order of use.

    Args:
        model: The network; left unchanged.
        inputs: One batch of a single sample, of shape ``(1, ...)``.
        forward: How ``model`` is run on ``inputs``.
    """
    found: dict[str, LayerShape] = {}
    calls: dict[str, int] = {}

    def look(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
            if arguments and isinstance(arguments[0], Tensor):
                found.setdefault(name, _shape(module, arguments[0]))
                calls[name] = calls.get(name, 0) + 1

        return hook

    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, (_ConvNd, nn.Linear))]
    handles = [module.register_forward_hook(look(name)) for name, module in layers]
    try:
        with evaluation_mode(model), torch.no_grad():
            forward(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return {name: replace(shape, calls=calls[name]) for name, shape in found.items()}


def _shape(module: nn.Module, inputs: Tensor) -> LayerShape:
    if isinstance(module, nn.Linear):
        return LayerShape("linear", module.in_features, module.out_features, tuple(inputs.shape[1:-1]))
    assert isinstance(module, _ConvNd)
    # PyTorch keeps the padding of the last dimension first, each before and behind.
    pairs = module._reversed_padding_repeated_twice
    dims = len(module.kernel_size)
    reversed_pairs = [(pairs[2 * dim], pairs[2 * dim + 1]) for dim in range(dims)][::-1] if len(pairs) == 2 * dims else []
    before = tuple(pair[0] for pair in reversed_pairs)
    behind = tuple(pair[1] for pair in reversed_pairs)
    return LayerShape(
        "conv_transpose" if isinstance(module, _ConvTransposeNd) else "conv",
        module.in_channels,
        module.out_channels,
        tuple(inputs.shape[2:]),
        tuple(module.kernel_size),
        tuple(module.stride),
        (*before, *behind),
        tuple(module.dilation),
        module.groups,
    )
