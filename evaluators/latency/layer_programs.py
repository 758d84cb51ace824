"""Make programs of a single layer for timing: ONNX with the surroundings of a network, or PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from evaluators.latency.timing import Run, clock
from evaluators.onnx.quantized import OPSETS
from evaluators.onnx.session import open_session
from spaces.layers.macs import FLOAT_BITS
from spaces.layers.shapes import LayerShape
from spaces.quantization.format import Format

_IR_VERSION = 10


def layer_onnx(shape: LayerShape, weight_bits: int, input_bits: int, batch_size: int = 1, present: bool = True) -> bytes:
    """Return an ONNX file of a layer and a ReLU in the surroundings of a network, or of the surroundings alone.

    A convolution reads the output of a small one, and a pooling reads the convolution's. With ``input_bits`` below 32, input
    and output are quantized in the form of :mod:`evaluators.onnx.quantized`. Weights of less than 5 bits are 4-bit integers.

    Args:
        shape: The layer.
        weight_bits: Bits of the weights; 32 for float.
        input_bits: Bits of the input; 32 for float.
        batch_size: Samples in a run.
        present: Whether to include the layer; without it the graph's output is the layer's input.
    """
    graph = _Graph()
    linear = shape.kind == "linear"
    size = [batch_size, *shape.size, shape.in_channels] if linear else [batch_size, 1, *shape.size]
    values = "input"
    if not linear:
        values = graph.node("Conv", values, graph.number((shape.in_channels, 1, *[1] * len(shape.size))))
    if input_bits < FLOAT_BITS:
        values = graph.quantized(values, input_bits if present else 8)
    if present:
        weight, bias = graph.weight(_weight_shape(shape), weight_bits), graph.number((shape.out_channels,))
        values = _layer(graph, shape, values, weight, bias)
    if present or linear:
        values = graph.node("Relu", values)
    if present and input_bits < FLOAT_BITS:
        values = graph.quantized(values, 8)
    if not linear:
        values = graph.node("GlobalAveragePool", values)
    return graph.model(size, values)


def _layer(graph: _Graph, shape: LayerShape, values: str, weight: str, bias: str) -> str:
    if shape.kind == "linear":
        if not shape.size:
            return graph.node("Gemm", values, weight, bias, transB=1)
        return graph.node("Add", graph.node("MatMul", values, weight), bias)
    options = {"strides": shape.stride, "dilations": shape.dilation, "group": shape.groups}
    if shape.padding:
        options["pads"] = shape.padding
    operator = "Conv" if shape.kind == "conv" else "ConvTranspose"
    return graph.node(operator, values, weight, bias, kernel_shape=shape.kernel, **options)


def _weight_shape(shape: LayerShape) -> tuple[int, ...]:
    if shape.kind == "linear":
        wide = (shape.out_channels, shape.in_channels)
        return wide if not shape.size else wide[::-1]
    if shape.kind == "conv":
        return (shape.out_channels, shape.in_channels // shape.groups, *shape.kernel)
    return (shape.in_channels, shape.out_channels // shape.groups, *shape.kernel)


class _Graph:
    """An ONNX graph under construction; constants are random, since zeros might be computed faster."""

    def __init__(self) -> None:
        self._rng = np.random.default_rng(0)
        self._nodes: list[Any] = []
        self._initializers: list[Any] = []

    def node(self, operator: str, *inputs: str, **options: Any) -> str:
        output = f"value{len(self._nodes)}"
        from onnx import helper

        self._nodes.append(helper.make_node(operator, list(inputs), [output], name=output, **options))
        return output

    def number(self, shape: tuple[int, ...]) -> str:
        return self._constant(self._rng.standard_normal(shape).astype(np.float32) * 0.05)

    def weight(self, shape: tuple[int, ...], bits: int) -> str:
        if bits == FLOAT_BITS:
            return self.number(shape)
        weights = Format(bits, signed=True)
        low, high = weights.low, weights.high
        width = 4 if bits <= 4 else 8
        name = f"constant{len(self._initializers)}"
        integers = self._rng.integers(low, high + 1, shape)
        from onnx import TensorProto, helper

        types = {4: TensorProto.INT4, 8: TensorProto.INT8}
        self._initializers.append(helper.make_tensor(name, types[width], shape, integers.ravel()))
        return self.node("DequantizeLinear", name, self._constant(np.full(shape[0], 0.01, np.float32)), axis=0)

    def quantized(self, values: str, bits: int) -> str:
        scale, zero = self._constant(np.float32(0.02)), self._constant(np.uint8(0))
        if bits < 8:
            high = Format(bits, signed=False).high
            values = self.node("Clip", values, self._constant(np.float32(0.0)), self._constant(np.float32(0.02 * high)))
        return self.node("DequantizeLinear", self.node("QuantizeLinear", values, scale, zero), scale, zero)

    def model(self, size: list[int], output: str) -> bytes:
        from onnx import TensorProto, helper

        given = helper.make_tensor_value_info("input", TensorProto.FLOAT, size)
        found = helper.make_tensor_value_info(output, TensorProto.FLOAT, None)
        graph = helper.make_graph(self._nodes, "layer", [given], [found], self._initializers)
        opset = helper.make_opsetid("", OPSETS[4])
        content: bytes = helper.make_model(graph, opset_imports=[opset], ir_version=_IR_VERSION).SerializeToString()
        return content

    def _constant(self, values: Any) -> str:
        name = f"constant{len(self._initializers)}"
        from onnx import numpy_helper

        self._initializers.append(numpy_helper.from_array(np.asarray(values), name))
        return name


def layer_run(content: bytes, threads: int) -> Run:
    """Return a run of the ONNX file ``content`` of :func:`layer_onnx`, with random inputs."""
    session = open_session(content, threads)
    (given,) = session.get_inputs()
    feed = {given.name: np.random.default_rng(0).standard_normal(given.shape, dtype=np.float32)}
    return clock(lambda: session.run(None, feed), threads)


class EagerLayer(nn.Module):
    """A layer followed by a ReLU, in PyTorch, with random weights."""

    def __init__(self, shape: LayerShape) -> None:
        """Draw weights of the layer that ``shape`` describes."""
        super().__init__()
        self.shape = shape
        self.weight = nn.Parameter(torch.randn(_eager_shape(shape), generator=torch.Generator().manual_seed(0)) * 0.05)
        self.bias = nn.Parameter(torch.zeros(shape.out_channels))

    def forward(self, values: Tensor) -> Tensor:
        """Return the outputs for a batch of :meth:`inputs`."""
        shape = self.shape
        if shape.kind == "linear":
            return functional.linear(values, self.weight, self.bias).relu()
        dims = len(shape.kernel)
        before, behind = shape.padding[:dims], shape.padding[dims:]
        if shape.kind == "conv_transpose":
            transposed = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)[dims - 1]
            return transposed(values, self.weight, self.bias, shape.stride, before or 0, 0, shape.groups, shape.dilation).relu()
        if before != behind:
            pairs = [size for pair in zip(before[::-1], behind[::-1], strict=True) for size in pair]
            values, before = functional.pad(values, pairs), (0,) * dims
        convolve = (functional.conv1d, functional.conv2d, functional.conv3d)[dims - 1]
        return convolve(values, self.weight, self.bias, shape.stride, before, shape.dilation, shape.groups).relu()

    def inputs(self, batch_size: int) -> Tensor:
        """Return a random batch of inputs of the layer's shape."""
        shape = self.shape
        wide = (*shape.size, shape.in_channels) if shape.kind == "linear" else (shape.in_channels, *shape.size)
        return torch.randn((batch_size, *wide), generator=torch.Generator().manual_seed(0))


def _eager_shape(shape: LayerShape) -> tuple[int, ...]:
    return (shape.out_channels, shape.in_channels) if shape.kind == "linear" else _weight_shape(shape)
