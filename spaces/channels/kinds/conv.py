"""Convolutions."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from spaces.channels.kinds.own import own_layer
from spaces.channels.kinds.tracing import (
    couple_groups,
    input_atoms,
    inside,
    label_output,
    leave_frozen,
    output_atoms,
    passes_by,
)
from spaces.channels.labels.tracker import LabelTracker
from spaces.layers.layer_kind import LayerKind
from spaces.layers.linear_map import ConvolutionMap, LinearMap
from spaces.layers.shapes import LayerShape


class Convolution(LayerKind):
    """A convolution over any number of spatial dimensions; of several groups each leaves whole."""

    name = "conv"
    modules = (_ConvNd,)
    functions: ClassVar[tuple[Callable[..., Any], ...]] = (torch.conv1d, torch.conv2d, torch.conv3d)
    compensable = True
    follows_beside = True
    quantized = {
        nn.Conv1d: "spaces.quantization.layers:QuantizedConv1d",
        nn.Conv2d: "spaces.quantization.layers:QuantizedConv2d",
        nn.Conv3d: "spaces.quantization.layers:QuantizedConv3d",
    }

    def trace(
        self,
        tracker: LabelTracker,
        output: Tensor,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Tie weight and bias to the channels; the group count is the convolution's seventh argument, ``groups``."""
        groups = int(kwargs.get("groups", args[3] if len(args) > 3 else 1))
        channel_dim = input.dim() - (weight.dim() - 2) - 1
        if passes_by(tracker, self, input, weight, bias, output, channel_dim):
            return
        atoms = input_atoms(tracker, input, weight, (_ConvNd,), channel_dim)
        if atoms is None:
            leave_frozen(tracker, self, weight, output.shape[channel_dim])
            return
        out_channels = output.shape[channel_dim]
        places = self.kernel_places(input, output)
        taps = places.numel() // places.shape[channel_dim] * prod(weight.shape[2:])
        if groups == 1:
            outputs = output_atoms(tracker, weight, self.output_dim, out_channels)
            tracker.tie(weight, 1 - self.output_dim, atoms)
            tracker.tie(weight, self.output_dim, outputs)
            macs = float(taps)
        else:
            outputs = tracker.atoms.new(out_channels)
            tracker.tie(weight, 0, atoms if self.output_dim else outputs)
            couple_groups(tracker, atoms, outputs, groups)
            macs = float(taps * len(atoms) / groups)
        tracker.tie(bias, 0, outputs)
        label_output(tracker, output, outputs, channel_dim, "output channel")
        kind: LayerKind = self
        dim = channel_dim - input.dim()
        lender = tracker.lender(weight, (_ConvNd,))
        if lender is None and not inside(tracker, (_ConvNd,)):
            kind, dim = own_layer(tracker, weight, bias, atoms, self.output_dim if groups == 1 else 0)
        tracker.record(kind, atoms, outputs, macs, groups, dim, lender)

    def kernel_places(self, inputs: Tensor, outputs: Tensor) -> Tensor:
        """Return the tensor at whose positions the kernel is laid: the output."""
        return outputs

    def sizes(self, inputs: int, outputs: int, groups: int, before: int) -> dict[str, int | tuple[int, ...]]:
        """Return ``in_channels``, ``out_channels`` and ``groups``."""
        remaining = groups if groups == 1 else groups * inputs // before
        return {"in_channels": inputs, "out_channels": outputs, "groups": remaining}

    def shape(self, module: nn.Module, inputs: Tensor) -> LayerShape:
        """Return channels, kernel, stride, padding and dilation, with the spatial size of ``inputs``."""
        assert isinstance(module, _ConvNd)  # noqa: S101 (for the type checker)
        # PyTorch keeps the padding of the last dimension first, each before and behind.
        pairs = module._reversed_padding_repeated_twice
        dims = len(module.kernel_size)
        reversed_pairs = [(pairs[2 * dim], pairs[2 * dim + 1]) for dim in range(dims)][::-1] if len(pairs) == 2 * dims else []
        before = tuple(pair[0] for pair in reversed_pairs)
        behind = tuple(pair[1] for pair in reversed_pairs)
        return LayerShape(
            "conv_transpose" if self.output_dim else "conv",
            module.in_channels,
            module.out_channels,
            tuple(inputs.shape[2:]),
            tuple(module.kernel_size),
            tuple(module.stride),
            (*before, *behind),
            tuple(module.dilation),
            module.groups,
        )

    def linear_map(self, module: nn.Module) -> LinearMap:
        """Return the convolution as a matrix on windows."""
        assert isinstance(module, _ConvNd)  # noqa: S101 (for the type checker)
        return ConvolutionMap(module)
