"""Find additions of two activations, such as residual ones, in a ``torch.fx`` graph and insert quantizers before them."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from spaces.errors import UnsupportedModelError, error_line
from spaces.execution.batch import Nested
from spaces.execution.evaluation_mode import evaluation_mode
from spaces.execution.forward import Forward
from spaces.layers.split_attention import of_torch
from spaces.quantization.fake_quantize import Quantizer
from spaces.quantization.format import Format
from spaces.quantization.layers import QuantizedLayer

_FUNCTIONS = (operator.add, operator.iadd, torch.add)
_METHODS = ("add", "add_")


@dataclass(frozen=True)
class Addition:
    """An addition of two activations of one shape.

    Attributes:
        name: Name of the module whose ``forward`` adds, followed by ``add``, ``add_1`` and so on.
        elements: Elements of both operands together, for one sample.
    """

    name: str
    elements: int

    @property
    def path(self) -> str:
        """Module path of the quantizer, which quantizes both operands."""
        return quantizer_path(self.name)


def quantizer_path(addition: str) -> str:
    """Return the module path of the quantizer of an addition."""
    return f"{addition}_quantizer"


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if isinstance(m, QuantizedLayer | Quantizer | _Probe):
            return True
        # PyTorch's attention is a leaf in the form that can be cut, too.
        attention = isinstance(m, nn.MultiheadAttention | nn.TransformerEncoder | nn.Transformer) and of_torch(m)
        return attention or super().is_leaf_module(m, module_qualified_name)


class _Probe(nn.Module):
    """A module that returns its input and records the shape and dtype of every tensor it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []

    def forward(self, value: Any) -> Any:
        self.seen.append((tuple(value.shape), value.dtype) if isinstance(value, Tensor) else None)
        return value


def find_additions(model: nn.Module, inputs: Nested, forward: Forward) -> list[Addition]:
    """Return the additions of two activations, in the order in which they are computed.

    Args:
        model: The network, in evaluation mode; left unchanged.
        inputs: A batch of a single sample.
        forward: Runs ``model`` on ``inputs``.

    Raises:
        UnsupportedModelError: ``torch.fx`` cannot trace the network, or the traced graph does not run.
    """
    names = _readable(model)
    if not names:
        return []
    probes = {name: _Probe() for name in names}
    try:
        with torch.no_grad():
            forward(insert_quantizers(model, lambda name: probes[name]), inputs)
    except Exception as error:
        raise UnsupportedModelError(f"its torch.fx graph does not run ({error_line(error)})") from error
    found = []
    for name, probe in probes.items():
        # Each probe was met by both operands.
        shapes = {entry[0] if entry is not None and entry[1].is_floating_point else None for entry in probe.seen}
        (shape,) = shapes if len(shapes) == 1 else (None,)
        if shape is not None and len(shape) > 1 and len(probe.seen) == 2:
            found.append(Addition(name, 2 * int(torch.Size(shape).numel())))
    return found


def _readable(model: nn.Module) -> list[str]:
    """Return the names of the candidate additions in the traced graph.

    Raises:
        UnsupportedModelError: The network cannot be traced, or its graph in training mode differs from that in evaluation.
    """
    try:
        traced = []
        with evaluation_mode(model):
            for training in (True, False):
                model.train(training)
                graph = _Tracer().trace(model)
                traced.append((str(graph), list(_named(graph, model))))
    except Exception as error:
        raise UnsupportedModelError(f"torch.fx can't trace the network ({error_line(error)})") from error
    (in_training, _), (in_evaluation, names) = traced
    if in_training != in_evaluation and names:
        raise UnsupportedModelError("the network's code does something else in training than in evaluation")
    return names


def insert_quantizers(model: nn.Module, quantizer: Callable[[str], nn.Module | None]) -> fx.GraphModule:
    """Return ``model`` as a graph in which a module is applied to both operands of each addition.

    Args:
        model: The network; its modules are used, not copied.
        quantizer: Returns the module for the addition with a given name, or None to skip the addition.
    """
    graph = _Tracer().trace(model)
    traced = fx.GraphModule(model, graph)
    for name, node in _named(graph, model).items():
        module = quantizer(name)
        if module is None:
            continue
        path = quantizer_path(name)
        traced.add_submodule(path, module)
        with graph.inserting_before(node):
            operands = tuple(graph.call_module(path, (operand,)) for operand in node.args)
        if node.op == "call_method":
            node.op, node.target = "call_function", operator.add
        elif node.target is operator.iadd:
            node.target = operator.add
        node.args = operands
    graph.lint()
    traced.recompile()
    return traced


def add_quantizers(model: nn.Module, bits: Mapping[str, int], learned: bool) -> nn.Module:
    """Return ``model`` as a graph with uncalibrated quantizers before the named additions; ``model`` itself if none is named.

    Args:
        model: The network; its modules are used, not copied.
        bits: Bits of each addition, by its name.
        learned: Whether training updates the scales.

    Raises:
        UnsupportedModelError: The network has no addition of one of the names.
    """
    if not bits:
        return model
    made = {name: Quantizer(Format(count, signed=False), learned=learned) for name, count in bits.items()}
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    traced = insert_quantizers(model, lambda name: made[name].to(device) if name in made else None)
    absent = [name for name in bits if quantizer_path(name) not in dict(traced.named_modules())]
    if absent:
        raise UnsupportedModelError(f"the network has no addition {absent[0]!r} any more; was its code changed since the run?")
    return traced


def _named(graph: fx.Graph, model: nn.Module) -> dict[str, fx.Node]:
    taken = {name for name, _ in model.named_modules()}
    found: dict[str, fx.Node] = {}
    for node in graph.nodes:
        function = node.op == "call_function" and node.target in _FUNCTIONS
        if not function and not (node.op == "call_method" and node.target in _METHODS):
            continue
        operands = [operand for operand in node.args if isinstance(operand, fx.Node) and operand.op != "get_attr"]
        if len(operands) != 2 or len(node.args) != 2 or node.kwargs:
            continue
        stack = list((node.meta.get("nn_module_stack") or {}).values())
        owner = str(stack[-1][0]) if stack else ""
        count, base = 0, f"{owner}.add" if owner else "add"
        name = base
        while name in found or name in taken or quantizer_path(name) in taken:
            count += 1
            name = f"{base}_{count}"
        found[name] = node
    return found
