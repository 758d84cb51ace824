"""Activations among the nodes of a PyTorch graph: kind, parameters, and use of memory."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import TensorMetadata

from spaces.fusion.float_format import FloatFormat
from spaces.fusion.piecewise_linear import Activation, NotMergeableError, clip, identity, leaky_relu, prelu, relu

Constants = Callable[[fx.Node], Tensor | None]
"""From a node to its constant tensor; None for a node without one."""

_PARAMETERS = {
    "relu": (),
    "relu6": (),
    "leaky_relu": ("negative_slope",),
    "prelu": ("weight",),
    "hardtanh": ("min_val", "max_val"),
    "clamp": ("min", "max"),
    "clip": ("min", "max"),
    "clamp_min": ("min",),
    "clamp_max": ("max",),
}
"""Operators, and the names of the arguments after their input."""

_NEW_MEMORY = frozenset(
    "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution linear addmm matmul mm bmm "
    "add sub mul truediv div cat batch_norm layer_norm group_norm instance_norm max_pool1d max_pool2d max_pool3d "
    "avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d".split()
)
_NEW_MEMORY_MODULES = (
    nn.modules.conv._ConvNd,
    nn.Linear,
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
)


@dataclass(frozen=True)
class TorchActivation:
    """An activation in a graph.

    Attributes:
        node: The activation's node.
        source: The node whose value is the activation's input.
        activation: The function; None if it can't be read.
        inplace: Whether the input's memory is overwritten.
        reason: Why the activation can't be read.
    """

    node: fx.Node
    source: fx.Node
    activation: Activation | None
    inplace: bool = False
    reason: str = ""

    @property
    def passes_on(self) -> bool:
        """True for the identity."""
        return self.activation is not None and self.activation.kind == "Identity"


def find_activations(graph: fx.Graph, owner: nn.Module, constants: Constants) -> dict[fx.Node, TorchActivation]:
    """Return the activations of ``graph``, whose modules belong to ``owner``, in graph order."""
    found = {}
    for node in graph.nodes:
        one = _module(node, owner) if node.op == "call_module" else _operator(node, constants)
        if one is not None:
            found[node] = one
    return found


def has_new_memory(node: fx.Node, owner: nn.Module) -> bool:
    """Return True if the node's output lies in memory of its own."""
    if node.op == "call_module":
        return isinstance(owner.get_submodule(str(node.target)), _NEW_MEMORY_MODULES)
    return operator_name(node) in _NEW_MEMORY


def operator_name(node: fx.Node) -> str:
    """Return the name of the torch operator that a node calls, with its trailing underscore; "" for anything else."""
    target = node.target
    if node.op == "call_method":
        return str(target)
    if node.op != "call_function":
        return ""
    if isinstance(target, torch._ops.OpOverload):
        return target._schema.name.removeprefix("aten::")
    name = getattr(target, "__name__", "")
    places = (torch, nn.functional, torch._C._nn, operator)
    return name if any(getattr(place, name, None) is target for place in places) else ""


def _module(node: fx.Node, owner: nn.Module) -> TorchActivation | None:
    module = owner.get_submodule(str(node.target))
    # A class derived from these may do anything: the type must be the very one.
    kind = type(module)
    if kind not in (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.Hardtanh, nn.Identity):
        return None
    source = node.args[0] if node.args else node.kwargs.get("input")
    if not isinstance(source, fx.Node):
        return None
    if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks:
        return TorchActivation(node, source, None, reason="it has hooks")
    inplace = isinstance(module, nn.ReLU | nn.LeakyReLU | nn.Hardtanh) and module.inplace
    return _found(node, source, inplace, lambda: of_module(module))


def of_module(module: nn.Module) -> Activation:
    """Return an activation module as a piecewise-linear function.

    Raises:
        NotMergeableError: The module can't be merged with any other.
    """
    if isinstance(module, nn.Hardtanh):
        return clip(module.min_val, module.max_val)
    if isinstance(module, nn.LeakyReLU):
        return leaky_relu(module.negative_slope)
    if isinstance(module, nn.PReLU):
        return prelu(_values(module.weight))
    return relu() if isinstance(module, nn.ReLU) else identity()


def _operator(node: fx.Node, constants: Constants) -> TorchActivation | None:
    name = operator_name(node)
    base = name.removesuffix("_")
    names = _PARAMETERS.get(base)
    if names is None:
        return None
    positions = ("input", *names, "inplace")
    given = dict(zip(positions, node.args, strict=False)) | dict(node.kwargs)
    source = given.pop("input", given.pop("self", None))
    if not isinstance(source, fx.Node):
        return None
    if given.keys() - {*positions}:
        return TorchActivation(node, source, None, reason=f"it is called with {sorted(given.keys() - {*positions})[0]!r}")
    inplace = name.endswith("_") or bool(given.get("inplace", False))
    return _found(node, source, inplace, lambda: _of_operator(base, given, constants))


def _of_operator(name: str, given: Mapping[str, Any], constants: Constants) -> Activation:
    if name == "relu":
        return relu()
    if name == "relu6":
        return clip(0.0, 6.0)
    if name == "leaky_relu":
        return leaky_relu(_number(given.get("negative_slope", 0.01), "slope"))
    if name == "prelu":
        weight = given.get("weight")
        tensor = constants(weight) if isinstance(weight, fx.Node) else None
        if tensor is None:
            raise NotMergeableError("its slope is no constant")
        return prelu(_values(tensor))
    if name == "hardtanh":
        return clip(_number(given.get("min_val", -1.0), "bound"), _number(given.get("max_val", 1.0), "bound"))
    low, high = given.get("min"), given.get("max")
    return clip(-inf if low is None else _number(low, "bound"), inf if high is None else _number(high, "bound"))


def _number(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise NotMergeableError(f"its {what} is no constant number")
    return float(value)


def _values(tensor: Tensor) -> Any:
    return tensor.detach().double().cpu().numpy()


def _found(node: fx.Node, source: fx.Node, inplace: bool, read: Callable[[], Activation]) -> TorchActivation:
    dtype = node_dtype(node)
    if dtype is not None and not dtype.is_floating_point:
        return TorchActivation(node, source, None, inplace, f"its tensor is {dtype}")
    try:
        return TorchActivation(node, source, read(), inplace)
    except NotMergeableError as error:
        return TorchActivation(node, source, None, inplace, str(error))


def float_format(dtype: torch.dtype) -> FloatFormat:
    """Return the format of a floating-point dtype."""
    limits = torch.finfo(dtype)
    return FloatFormat(str(dtype).removeprefix("torch."), limits.eps, limits.tiny, limits.max)


def node_dtype(node: fx.Node) -> torch.dtype | None:
    """Return the dtype of a node's output, None if the graph has no record of it."""
    known = node.meta.get("val", node.meta.get("tensor_meta"))
    return known.dtype if isinstance(known, Tensor | TensorMetadata) else None
