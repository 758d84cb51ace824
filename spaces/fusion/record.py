"""Merged activations as JSON data, and networks rebuilt from that data.

Two kinds of transformation: activation modules replaced where they stand, so that a network keeps its class; and a network
traced by ``torch.fx``, in whose graph nodes are replaced, where activations are functions or modules used more than once.
Slopes of PReLU are in the network's weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf, isfinite
from typing import Any

import torch
from torch import Tensor, fx, nn

from spaces.fusion.piecewise_linear import Activation
from spaces.fusion.plan import MergeStep
from spaces.records import RecordError, entries, flag, integer, items, name, number, one_of

Record = dict[str, Any]
MAX_SLOPES = 2**20
"""Most slopes of a PReLU that are read from a record (ours: one per channel)."""

_KINDS = dict.fromkeys(("Identity", "ReLU", "LeakyReLU", "Clip", "PReLU"))


def record_of(activation: Activation, inplace: bool) -> Record:
    """Return an activation as JSON data."""
    record: Record = {"type": activation.kind, "inplace": inplace}
    if activation.kind == "LeakyReLU":
        record["slope"] = float(activation.slope)
    elif activation.kind == "PReLU":
        record["parameters"] = int(activation.slope.size)
    elif activation.kind == "Clip":
        record["low"] = activation.low if isfinite(activation.low) else None
        record["high"] = activation.high if isfinite(activation.high) else None
    return record


def module_of(record: Mapping[str, Any], slopes: Tensor | None = None) -> nn.Module:
    """Return the module described by a record; a PReLU gets ``slopes``, of shape ``(parameters,)``."""
    kind = one_of(record.get("type"), _KINDS, "activation")
    inplace = flag(record.get("inplace"), "activation: inplace")
    if kind == "Identity":
        return nn.Identity()
    if kind == "ReLU":
        return nn.ReLU(inplace)
    if kind == "LeakyReLU":
        return nn.LeakyReLU(number(record.get("slope"), "activation: slope"), inplace)
    if kind == "Clip":
        low, high = record.get("low"), record.get("high")
        low = -inf if low is None else number(low, "activation: low")
        return nn.Hardtanh(low, inf if high is None else number(high, "activation: high"), inplace)
    module = nn.PReLU(integer(record.get("parameters"), 1, MAX_SLOPES, "activation: parameters"))
    if slopes is not None:
        module.weight = nn.Parameter(slopes.reshape(-1).clone())
    return module


def slopes_of(activation: Activation, owner: nn.Module) -> Tensor | None:
    """Return a PReLU's slopes in dtype and device of the network's parameters, None for other activations."""
    if activation.kind != "PReLU":
        return None
    like = next((tensor for tensor in owner.parameters() if tensor.is_floating_point()), torch.empty(()))
    return torch.from_numpy(activation.slope.reshape(-1).copy()).to(like)


def replacement(step: MergeStep, paths: Sequence[str]) -> dict[str, Record]:
    """Return the records that replace the modules at ``paths``, the members of a step."""
    record = record_of(step.activation, step.inplace)
    gone: Record = {"type": "Identity", "inplace": False}
    return {path: record if index == step.anchor else gone for index, path in enumerate(paths)}


def replace_activations(
    model: nn.Module, transformation: Mapping[str, Any], slopes: Mapping[str, Tensor | None] | None = None
) -> nn.Module:
    """Replace the recorded modules of ``model``, in place."""
    known = dict(model.named_modules(remove_duplicate=False))
    for path, record in entries(transformation, "modules", "replace_activations").items():
        one_of(path or None, known, "replace_activations: modules")
        entries({path: record}, path, "replace_activations: modules")
        model.set_submodule(path, module_of(record, (slopes or {}).get(path)))
    return model


def node_record(step: MergeStep, owner: nn.Module) -> Record:
    """Return a step as JSON data: the names of its nodes in the traced graph, and their replacement."""
    name = f"{step.members[step.anchor].node.name}_merged"
    while hasattr(owner, name):
        name += "_"
    nodes = [member.node.name for member in step.members]
    return {"nodes": nodes, "anchor": step.anchor, "module": name, **record_of(step.activation, step.inplace)}


def merge_activations(model: nn.Module, transformation: Mapping[str, Any]) -> nn.Module:
    """Trace ``model`` in evaluation mode, and replace the recorded nodes.

    Raises:
        KeyError: The traced graph has no nodes of these names, or the nodes are not connected.
    """
    traced = fx.symbolic_trace(model.eval())
    for step in items(transformation, "steps", "merge_activations"):
        merge_nodes(traced, entries({"step": step}, "step", "merge_activations"))
    return finished(traced)


def merge_nodes(traced: fx.GraphModule, step: Mapping[str, Any], slopes: Tensor | None = None) -> None:
    """Replace the connected nodes of a recorded step by one module, in place."""
    graph = traced.graph
    where, named = "merge_activations", {node.name: node for node in graph.nodes}
    members = [named[one_of(node, named, f"{where}: nodes")] for node in items(step, "nodes", where)]
    anchor = integer(step.get("anchor"), 0, len(members) - 1, f"{where}: anchor")
    sources = [_source(node) for node in members]
    if sources[1:] != members[:-1] or any(len(node.users) != 1 for node in members[:-1]):
        raise KeyError(f"{step['nodes']} are not connected")
    result = sources[0]
    if step.get("type") != "Identity":
        # The name becomes code: torch.fx writes it into the source of the network's forward pass.
        module = name(step.get("module"), f"{where}: module")
        if hasattr(traced, module):
            raise RecordError(f"{where}: module: the network has a {module!r} already")
        traced.add_submodule(module, module_of(step, slopes))
        with graph.inserting_before(members[anchor]):
            result = graph.call_module(module, (sources[0],))
        result.meta = dict(members[-1].meta)
    read = [node for member in members for node in member.all_input_nodes]
    members[-1].replace_all_uses_with(result)
    for node in reversed(members):
        graph.erase_node(node)
    for node in dict.fromkeys(read):
        if node.op == "get_attr" and not node.users:
            graph.erase_node(node)


def _source(node: fx.Node) -> fx.Node:
    """Return the node whose value is an activation's input."""
    source = node.args[0] if node.args else node.kwargs.get("input", node.kwargs.get("self"))
    if not isinstance(source, fx.Node):
        raise KeyError(f"{node.name} is applied to nothing")
    return source


def finished(traced: fx.GraphModule) -> fx.GraphModule:
    """Return a rewritten network without the modules unused by its graph."""
    traced.graph.lint()
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced
