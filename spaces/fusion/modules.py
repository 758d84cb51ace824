"""Merging connected activations of PyTorch networks (CN113011565A), for inference.

A network keeps its class if all merged activations are modules used once: the first becomes the merged activation, the others
the identity. A network that calls activations as functions, or one module twice, becomes its ``torch.fx`` graph. Networks that
``torch.fx`` can't trace are read by ``torch.export``; in these, only modules used once are merged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from spaces.cloning.clone import clone
from spaces.errors import EquivalenceError, UnsupportedModelError, error_line
from spaces.execution.batch import Nested, map_tensors
from spaces.execution.evaluation_mode import evaluation_mode
from spaces.execution.forward import Forward, arguments, call, tensors_in
from spaces.fusion.nodes import Constants, TorchActivation
from spaces.fusion.plan import Plan, plan
from spaces.fusion.program import parameters_of
from spaces.fusion.record import finished, merge_nodes, node_record, replace_activations, replacement, slopes_of
from spaces.fusion.report import FusionReport

TOLERANCE = 1e-5
"""Largest accepted difference where slopes were multiplied, relative to the largest output."""


@dataclass(frozen=True)
class Fused:
    """A network with its connected activations merged.

    Attributes:
        model: The network, in evaluation mode; the given one if nothing was merged.
        transformation: JSON data for :func:`spaces.transformation.apply`, None if nothing was merged.
        report: The merges, and the activations left apart with the reasons.
        error: Largest absolute difference between the outputs before and after.
    """

    model: nn.Module
    transformation: dict[str, Any] | None
    report: FusionReport
    error: float


def fuse_activations(model: nn.Module, inputs: Nested, forward: Forward = call, literal: bool = False) -> Fused:
    """Merge the connected activations of ``model``, and compare the outputs on ``inputs``.

    Args:
        model: The network; left unchanged.
        inputs: A batch.
        forward: Runs the network on the batch.
        literal: Keep the patent's types; see :func:`spaces.fusion.piecewise_linear.merge`.

    Raises:
        UnsupportedModelError: Neither ``torch.fx`` nor ``torch.export`` can read the network.
        EquivalenceError: The outputs differ: at all where no slopes were multiplied, else by more than :data:`TOLERANCE`.
    """
    network = clone(model).eval()
    try:
        traced = fx.symbolic_trace(network)
    except Exception as error:
        found, usable = _exported(network, inputs, literal, error_line(error))
    else:
        _propagate(traced, inputs)
        found, usable = plan(traced.graph, traced, attributes_of(traced), literal), _modules_used_once(traced, network)
        if not all(usable(member) is None for step in found.steps for member in step.members):
            transformation: dict[str, Any] = {"kind": "merge_activations", "steps": _rewrite(traced, found)}
            return Fused(traced, transformation, found.report, _difference(model, traced, inputs, forward, found.report))
    if not found.steps:
        return Fused(model, None, found.report, 0.0)
    modules, slopes = {}, {}
    for step in found.steps:
        paths = [_path(member) for member in step.members]
        modules.update(replacement(step, paths))
        slopes[paths[step.anchor]] = slopes_of(step.activation, network)
    transformation = {"kind": "replace_activations", "modules": modules}
    replace_activations(network, transformation, slopes)
    return Fused(network.eval(), transformation, found.report, _difference(model, network, inputs, forward, found.report))


def fuse_graph(graph_module: fx.GraphModule, literal: bool = False) -> tuple[fx.GraphModule, FusionReport]:
    """Return a copy of a traced network with its connected activations merged, and the report.

    Nodes without ``tensor_meta`` or ``val`` are assumed to have the dtype of the network's parameters.
    """
    traced = clone(graph_module)
    found = plan(traced.graph, traced, attributes_of(traced), literal)
    _rewrite(traced, found)
    return traced, found.report


def attributes_of(owner: nn.Module) -> Constants:
    """Return a function from a graph's ``get_attr`` nodes to the tensors of ``owner``."""

    def value(node: fx.Node) -> Tensor | None:
        if node.op != "get_attr":
            return None
        found: Any = owner
        for name in str(node.target).split("."):
            found = getattr(found, name, None)
        return found if isinstance(found, Tensor) else None

    return value


def _rewrite(traced: fx.GraphModule, found: Plan) -> list[dict[str, Any]]:
    """Carry out a plan on the graph, in place, and return its steps as JSON data."""
    records = [node_record(step, traced) for step in found.steps]
    slopes = [slopes_of(step.activation, traced) for step in found.steps]
    for record, values in zip(records, slopes, strict=True):
        merge_nodes(traced, record, values)
    if records:
        finished(traced)
    return records


def _propagate(traced: fx.GraphModule, inputs: Nested) -> None:
    """Record the dtypes of tensors in the graph's nodes; a network that does not run on ``inputs`` is left without."""
    try:
        with torch.no_grad():
            ShapeProp(traced).propagate(*_placed(traced, map_tensors(Tensor.clone, inputs)))
    except Exception:
        return


def _placed(traced: fx.GraphModule, inputs: Nested) -> list[Any]:
    """Return the inputs of a graph in the order of its placeholders, None for those left to their defaults."""
    positional, keywords = arguments(inputs)
    names = [str(node.target) for node in traced.graph.nodes if node.op == "placeholder"]
    return [*positional, *(keywords.get(name) for name in names[len(positional) :])]


Usable = Callable[[TorchActivation], str | None]


def _modules_used_once(traced: fx.GraphModule, network: nn.Module) -> Usable:
    calls = Counter(str(node.target) for node in traced.graph.nodes if node.op == "call_module")
    return _usable(network, calls, "it is no module of its own, or one used more than once")


def _exported(network: nn.Module, inputs: Nested, literal: bool, obstacle: str) -> tuple[Plan, Usable]:
    """Return the plan for a network read by ``torch.export``, because ``torch.fx`` can't trace it."""
    try:
        program = torch.export.export(network, *arguments(inputs))
    except Exception as error:
        raise UnsupportedModelError(
            f"the network can be read neither by torch.fx ({obstacle}) nor by torch.export ({error_line(error)}): leave the "
            "fuse stage out, export to ONNX and merge there with `python -m search fuse`, or wrap what can't be traced"
        ) from error
    calls = Counter(path for node in program.graph.nodes if (path := _exported_path(node)))
    usable = _usable(network, calls, f"it is no module used once, and torch.fx can't trace the network ({obstacle})")
    return plan(program.graph, program.graph_module, parameters_of(program), literal, usable), usable


def _usable(network: nn.Module, calls: Counter[str], reason: str) -> Usable:
    names = Counter(id(module) for _, module in network.named_modules(remove_duplicate=False))
    activations = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.Hardtanh, nn.Identity)

    def usable(found: TorchActivation) -> str | None:
        path = _path(found)
        try:
            module = network.get_submodule(path)
        except AttributeError:
            return reason
        once = type(module) in activations and calls[path] == 1 and names[id(module)] == 1
        return None if once else reason

    return usable


def _path(found: TorchActivation) -> str:
    node = found.node
    return str(node.target) if node.op == "call_module" else _exported_path(node)


def _exported_path(node: fx.Node) -> str:
    """Return the path of the module that calls an operator; "" if unknown."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return str(stack[-1][0]) if stack and node.op == "call_function" else ""


def _difference(model: nn.Module, fused: nn.Module, inputs: Nested, forward: Forward, report: FusionReport) -> float:
    """Return the largest absolute difference of the outputs of two networks."""
    before, after = (_outputs(network, inputs, forward) for network in (model, fused))
    worst = 0.0
    for one, other in zip(before, after, strict=True):
        same = (one == other) | (one.isnan() & other.isnan())
        error = float((one - other).abs()[~same].max()) if not same.all() else 0.0
        scale = float(one[one.isfinite()].abs().max()) if one.isfinite().any() else 1.0
        if not error <= (0.0 if report.exact else TOLERANCE * scale):
            raise EquivalenceError(
                f"after merging activations the network's outputs differ by {error:.3g} (outputs up to {scale:.3g}): its code "
                "may do something else on another call than when it was traced; leave the fuse stage out"
            )
        worst = max(worst, error)
    return worst


def _outputs(model: nn.Module, inputs: Nested, forward: Forward) -> list[Tensor]:
    with evaluation_mode(model), torch.no_grad():
        outputs = tensors_in(forward(model, map_tensors(Tensor.clone, inputs)))
    return [output.double() for output in outputs]
