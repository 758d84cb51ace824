"""Layers that are linear in their inputs, as matrices on patches: what a least-squares fit of a layer reads and writes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd


class LinearMap(ABC):
    """A layer as one matrix per group: every output position is the matrix times the patch of inputs that it reads.

    Args:
        module: The layer, with a parameter ``weight`` and perhaps one ``bias``.

    Attributes:
        module: The layer.
        groups: Number of groups, each of which reads channels of its own.
        channel_dim: Dimension of the output that holds the channels, counted from the end.
    """

    groups: int = 1
    channel_dim: int = -1

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    @property
    def weight(self) -> nn.Parameter:
        """The layer's weight."""
        return self.module.get_parameter("weight")

    @property
    def bias(self) -> nn.Parameter | None:
        """The layer's bias."""
        return dict(self.module.named_parameters(recurse=False)).get("bias")

    @property
    @abstractmethod
    def outputs(self) -> int:
        """Number of output channels."""

    @abstractmethod
    def matrices(self, weight: Tensor) -> Tensor:
        """Return a weight as matrices, of shape ``(groups, outputs / groups, columns)``."""

    @abstractmethod
    def weights(self, matrices: Tensor) -> Tensor:
        """Return the weight whose :meth:`matrices` are given."""

    @abstractmethod
    def patches(self, inputs: Tensor, outputs: Tensor) -> Tensor:
        """Return a view of the inputs that each output position reads, of shape ``(*positions, inputs, *taps)``.

        Args:
            inputs: Input of the layer.
            outputs: Output of the layer; its shape alone is read.
        """

    @property
    def columns(self) -> int:
        """Number of columns of the matrix of each group."""
        return self.weight.numel() // self.outputs

    def rows(self, patches: Tensor) -> Tensor:
        """Return chosen patches, of shape ``(n, inputs, *taps)``, as shape ``(groups, n, columns)``."""
        return patches.reshape(len(patches), self.groups, self.columns).transpose(0, 1)

    def by_position(self, outputs: Tensor) -> Tensor:
        """Return a view of outputs of shape ``(*positions, outputs)``."""
        return outputs.movedim(self.channel_dim, -1)

    def kept_outputs(self, rows: Tensor) -> Tensor:
        """Return the output channels that stay, int64, where ``rows`` of the weight's output dimension stay."""
        return rows


class TokenMap(LinearMap):
    """A linear layer over the last dimension."""

    @property
    def outputs(self) -> int:
        """Number of output features."""
        return self.weight.shape[0]

    def matrices(self, weight: Tensor) -> Tensor:
        """Return the weight as its one matrix, of shape ``(1, outputs, inputs)``."""
        return weight[None]

    def weights(self, matrices: Tensor) -> Tensor:
        """Return the one matrix."""
        return matrices[0]

    def patches(self, inputs: Tensor, outputs: Tensor) -> Tensor:
        """Return the inputs."""
        return inputs


class WindowMap(LinearMap):
    """A layer with a window over any number of spatial dimensions, in any number of groups.

    Args:
        module: The layer.
    """

    def __init__(self, module: _ConvNd) -> None:
        super().__init__(module)
        self.convolution = module
        self.groups = module.groups
        self.channel_dim = -1 - len(module.kernel_size)


class ConvolutionMap(WindowMap):
    """A convolution."""

    @property
    def outputs(self) -> int:
        """Number of output channels."""
        return self.weight.shape[0]

    def matrices(self, weight: Tensor) -> Tensor:
        """Return the filters in rows, by group."""
        return weight.reshape(self.groups, len(weight) // self.groups, -1)

    def weights(self, matrices: Tensor) -> Tensor:
        """Return the filters."""
        return matrices.reshape(self.weight.shape)

    def patches(self, inputs: Tensor, outputs: Tensor) -> Tensor:
        """Return the windows of the padded inputs (im2col, without a copy of each)."""
        layer = self.convolution
        pads = [side for pair in reversed(_padding(layer)) for side in pair]
        return _windows(_padded(inputs, pads, layer.padding_mode), layer.kernel_size, layer.stride, layer.dilation)


class TransposedMap(WindowMap):
    """A transposed convolution: a convolution of stride 1 over the inputs with zeros between them."""

    @property
    def outputs(self) -> int:
        """Number of output channels."""
        return self.weight.shape[1] * self.groups

    def matrices(self, weight: Tensor) -> Tensor:
        """Return the flipped filters in rows, by group; the weight is of shape ``(in, out / groups, *taps)``."""
        filters = weight.reshape(self.groups, len(weight) // self.groups, weight.shape[1], -1).flip(-1)
        return filters.transpose(1, 2).reshape(self.groups, weight.shape[1], -1)

    def weights(self, matrices: Tensor) -> Tensor:
        """Return the filters of shape ``(in, out / groups, *taps)``."""
        shape = self.weight.shape
        filters = matrices.reshape(self.groups, shape[1], shape[0] // self.groups, -1).flip(-1)
        return filters.transpose(1, 2).reshape(shape)

    def patches(self, inputs: Tensor, outputs: Tensor) -> Tensor:
        """Return the windows of the inputs with ``stride - 1`` zeros between them."""
        layer = self.convolution
        dims = len(layer.kernel_size)
        sizes = [(size - 1) * step + 1 for size, step in zip(inputs.shape[-dims:], layer.stride, strict=True)]
        spread = inputs.new_zeros((*inputs.shape[:-dims], *sizes))
        spread[_every(layer.stride)] = inputs
        pads: list[int] = []
        for dim in reversed(range(dims)):
            reach = layer.dilation[dim] * (layer.kernel_size[dim] - 1)
            before = reach - int(layer.padding[dim])
            pads += [before, outputs.shape[dim - dims] + reach - sizes[dim] - before]
        return _windows(_padded(spread, pads, "zeros"), layer.kernel_size, (1,) * dims, layer.dilation)

    def kept_outputs(self, rows: Tensor) -> Tensor:
        """Return the outputs that stay: with groups, ``rows`` are inputs, and each group stays or leaves whole."""
        if self.groups == 1:
            return rows
        size, width = self.weight.shape[0] // self.groups, self.weight.shape[1]
        kept: Tensor = torch.unique(rows // size)
        return (kept[:, None] * width + torch.arange(width)).flatten()


def _padding(layer: _ConvNd) -> list[tuple[int, int]]:
    """Return the padding before and behind of every spatial dimension."""
    if not isinstance(layer.padding, str):
        return [(int(size), int(size)) for size in layer.padding]
    if layer.padding == "valid":
        return [(0, 0)] * len(layer.kernel_size)
    reaches = [step * (size - 1) for step, size in zip(layer.dilation, layer.kernel_size, strict=True)]
    return [(reach // 2, reach - reach // 2) for reach in reaches]


def _padded(inputs: Tensor, pads: list[int], mode: str) -> Tensor:
    """Return padded inputs whose channels lie beside each other in memory, since windows are drawn some ten times as fast then.

    Args:
        inputs: Inputs of shape ``(*batch, channels, *positions)``.
        pads: Padding before and behind of every spatial dimension, the last one first.
        mode: Padding mode of a convolution.
    """
    channels = -1 - len(pads) // 2
    if mode != "zeros" and any(pads):
        return F.pad(inputs, pads, mode=mode).movedim(channels, -1).contiguous().movedim(-1, channels)
    padded = inputs.movedim(channels, -1)
    return (F.pad(padded, [0, 0, *pads]) if any(pads) else padded.contiguous()).movedim(-1, channels)


def _windows(padded: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...]) -> Tensor:
    """Return all windows, a view of shape ``(*batch, *positions, channels, *kernel)``."""
    dims = len(kernel)
    batch = padded.dim() - dims - 1
    for dim in range(dims):
        padded = padded.unfold(batch + 1 + dim, dilation[dim] * (kernel[dim] - 1) + 1, stride[dim])
    taken = padded[_every(dilation)]
    return taken.movedim(batch, batch + dims)


def _every(steps: tuple[int, ...]) -> Any:
    """Return the index that takes every so many values of the last dimensions."""
    return (..., *(slice(None, None, step) for step in steps))
