"""Activations among the nodes of an ONNX graph, read through the ONNX project's own representation (``onnx_ir``)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from spaces.fusion.float_format import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, FloatFormat
from spaces.fusion.piecewise_linear import Activation, NotMergeableError, clip, identity, leaky_relu, prelu, relu

DTYPES = {
    ir.DataType.FLOAT: FLOAT32,
    ir.DataType.FLOAT16: FLOAT16,
    ir.DataType.BFLOAT16: BFLOAT16,
    ir.DataType.DOUBLE: FLOAT64,
}
_TYPE_OF_FIRST = frozenset(
    "AveragePool BatchNormalization Clip Dropout Flatten GlobalAveragePool GlobalMaxPool Identity InstanceNormalization "
    "LeakyRelu MaxPool Pad Relu Reshape Sigmoid Squeeze Tanh Transpose Unsqueeze".split()
)
"""Operators whose output has the type of their first input."""
_TYPE_OF_ALL = frozenset("Add Concat Conv ConvTranspose Div Gemm MatMul Mul PRelu Sub".split())
"""Operators whose output has the type of every input."""
_FAR = 64
"""How many nodes back the type of a tensor is looked for."""


@dataclass(frozen=True)
class OnnxActivation:
    """An activation of an ONNX graph.

    Attributes:
        node: The activation's node.
        activation: The function; None if it can't be read.
        reason: Why the activation can't be read.
    """

    node: ir.Node
    activation: Activation | None
    reason: str = ""

    @property
    def name(self) -> str:
        """Name of the node, or of its output."""
        return self.node.name or str(self.node.outputs[0].name)


def read_activation(node: ir.Node) -> OnnxActivation | None:
    """Return ``node`` as an activation, None for any other operator."""
    read = _READERS.get(node.op_type)
    if read is None or node.domain not in ("", "ai.onnx") or not node.inputs or node.inputs[0] is None:
        return None
    try:
        return OnnxActivation(node, read(node))
    except NotMergeableError as error:
        return OnnxActivation(node, None, str(error))


def value_dtype(node: ir.Node) -> ir.DataType | None:
    """Return the type of an activation's tensors, None if the file has no record of it."""
    for tensor in (*node.outputs, *node.inputs):
        known = _type(tensor)
        if known is not None:
            return known
    return None


def _type(value: ir.Value | None) -> ir.DataType | None:
    waiting = [value]
    for _ in range(_FAR):
        if not waiting or (one := waiting.pop(0)) is None:
            return None
        if one.dtype is not None:
            return one.dtype
        constant = one.const_value
        if constant is not None:
            return constant.dtype
        producer = one.producer()
        if producer is not None and producer.op_type == "Constant":
            return _constant_node(producer).dtype
        if producer is not None and producer.domain == "" and producer.op_type in _TYPE_OF_FIRST | _TYPE_OF_ALL:
            sources = producer.inputs if producer.op_type in _TYPE_OF_ALL else producer.inputs[:1]
            waiting += [source for source in sources if source is not None]
    return None


def constant(value: ir.Value, what: str) -> ir.TensorProtocol:
    """Return the constant tensor of ``value``.

    Args:
        value: An input of an activation.
        what: Its role, for the message.

    Raises:
        NotMergeableError: ``value`` is no constant.
    """
    while (producer := value.producer()) is not None and producer.op_type == "Identity" and producer.inputs[0] is not None:
        value = producer.inputs[0]
    if value.is_graph_input():
        raise NotMergeableError(f"its {what} {value.name} is an input, which the caller may set")
    if producer is None and value.const_value is not None:
        return value.const_value
    if producer is None:
        raise NotMergeableError(f"its {what} {value.name} comes from outside")
    if producer.op_type != "Constant" or producer.domain != "":
        raise NotMergeableError(f"its {what} is computed by {producer.op_type}")
    return _constant_node(producer)


def _constant_node(node: ir.Node) -> ir.TensorProtocol:
    for name, attribute in node.attributes.items():
        if attribute.is_ref():
            break
        if name == "value":
            return attribute.as_tensor()
        if name in ("value_float", "value_floats"):
            return ir.Tensor(np.asarray(attribute.value, np.float32))
    raise NotMergeableError("a constant of it can't be read")


def numbers(tensor: ir.TensorProtocol, what: str) -> np.ndarray:
    """Return a constant's values as float64.

    Raises:
        NotMergeableError: The values are no floating-point numbers, or can't be read.
    """
    if tensor.dtype not in DTYPES:
        raise NotMergeableError(f"its {what} is of type {tensor.dtype.name}")
    try:
        return tensor.numpy().astype(np.float64)
    except (OSError, ValueError) as error:
        raise NotMergeableError(f"its {what} can't be read: {error}") from error


def _relu(node: ir.Node) -> Activation:
    _require_float(node)
    return relu()


def _leaky_relu(node: ir.Node) -> Activation:
    attribute = node.attributes.get("alpha")
    if attribute is None:
        return leaky_relu(float(np.float32(0.01)))
    if attribute.is_ref():
        raise NotMergeableError("its slope is set by the function's caller")
    return leaky_relu(attribute.as_float())


def _prelu(node: ir.Node) -> Activation:
    slope = node.inputs[1]
    if slope is None:
        raise NotMergeableError("it has no slope")
    return prelu(numbers(constant(slope, "slope"), "slope"))


def _clip(node: ir.Node) -> Activation:
    bounds: list[float | None] = []
    dtype = _require_float(node)
    for index in (1, 2):
        value = node.inputs[index] if len(node.inputs) > index else None
        values = None if value is None else numbers(constant(value, "bound"), "bound")
        if values is not None and values.size != 1:
            raise NotMergeableError("its bound is no single number")
        bounds.append(None if values is None else float(values.item()))
    if None in bounds and dtype is None:
        raise NotMergeableError("it has an open end, and the type of its tensors isn't known")
    # The standard clamps an open end to the largest number of the type, which infinity is not.
    largest = (dtype or FLOAT32).largest
    low, high = bounds
    return clip(-largest if low is None else low, largest if high is None else high)


def _identity(node: ir.Node) -> Activation:
    return identity()


def _require_float(node: ir.Node) -> FloatFormat | None:
    dtype = value_dtype(node)
    if dtype is not None and dtype not in DTYPES:
        raise NotMergeableError(f"its tensors are of type {dtype.name}")
    return None if dtype is None else DTYPES[dtype]


_READERS: dict[str, Callable[[ir.Node], Activation]] = {
    "Relu": _relu,
    "LeakyRelu": _leaky_relu,
    "PRelu": _prelu,
    "Clip": _clip,
    "Identity": _identity,
}


@dataclass(frozen=True)
class Scope:
    """A graph of a model: its main one, a subgraph of a node, or a function's.

    Attributes:
        graph: The graph.
        name: The graph's name in reports.
        initializers: Whether the graph may have initializers.
    """

    graph: ir.Graph
    name: str
    initializers: bool


def scopes(model: ir.Model) -> Iterator[Scope]:
    """Yield every graph of ``model``, outer ones first."""
    # Before version 4 an initializer had to be an input as well.
    yield from _nested(Scope(model.graph, "graph", (model.ir_version or 0) >= 4))
    for function in model.functions.values():
        yield from _nested(Scope(function.graph, f"function {function.domain}.{function.name}", False))


def _nested(scope: Scope) -> Iterator[Scope]:
    yield scope
    for node in scope.graph:
        for name, attribute in node.attributes.items():
            inner: Any = () if attribute.is_ref() else attribute.value
            if attribute.type == ir.AttributeType.GRAPH:
                inner = (inner,)
            elif attribute.type != ir.AttributeType.GRAPHS:
                continue
            place = f"{scope.name}, {name} of {node.op_type} {node.name or node.outputs[0].name}"
            for graph in inner:
                yield from _nested(Scope(graph, place, scope.initializers))
