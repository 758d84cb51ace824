"""Transposed convolutions."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from spaces.channels.kinds.conv import Convolution
from spaces.layers.linear_map import LinearMap, TransposedMap


class TransposedConvolution(Convolution):
    """A transposed convolution: its weight is of shape ``(in, out / groups, ...)``."""

    name = "conv_transpose"
    modules = (_ConvTransposeNd,)
    functions = (torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d)
    output_dim = 1
    compensable = False
    quantized = {
        nn.ConvTranspose1d: "spaces.quantization.layers:QuantizedConvTranspose1d",
        nn.ConvTranspose2d: "spaces.quantization.layers:QuantizedConvTranspose2d",
        nn.ConvTranspose3d: "spaces.quantization.layers:QuantizedConvTranspose3d",
    }

    def kernel_places(self, inputs: Tensor, outputs: Tensor) -> Tensor:
        """Return the tensor at whose positions the kernel is laid: the input."""
        return inputs

    def filters(self, module: nn.Module, outputs: int, groups: int) -> Tensor:
        """Return the weights of ``module`` as one row per output channel, of shape ``(outputs, weights)``."""
        weight = module.get_parameter("weight")
        return weight.reshape(groups, -1, *weight.shape[1:]).transpose(1, 2).reshape(outputs, -1)

    def linear_map(self, module: nn.Module) -> LinearMap:
        """Return the transposed convolution as a matrix on windows of its spread inputs."""
        assert isinstance(module, _ConvTransposeNd)  # noqa: S101 (for the type checker)
        return TransposedMap(module)
