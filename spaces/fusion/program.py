"""Merging connected activations of programs exported by ``torch.export``."""

from __future__ import annotations

import copy
from math import inf

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, InputSpec, TensorArgument

from spaces.fusion.nodes import Constants
from spaces.fusion.plan import MergeStep, plan
from spaces.fusion.report import FusionReport


def fuse_program(program: ExportedProgram, literal: bool = False) -> tuple[ExportedProgram, FusionReport]:
    """Return a copy of an exported program with its connected activations merged, and the report.

    Slopes of a merged PReLU become a new parameter, so that other readers of a shared one keep it.
    """
    fused = _copy(program)
    graph, signature = fused.graph, fused.graph_signature
    found = plan(graph, fused.graph_module, parameters_of(fused), literal)
    for step in found.steps:
        last = step.members[-1].node
        result = _insert(fused, step)
        last.replace_all_uses_with(result)
        signature.replace_all_uses(last.name, result.name)
        for member in reversed(step.members):
            graph.erase_node(member.node)
    graph.lint()
    fused.graph_module.recompile()
    fused.validate()  # type: ignore[no-untyped-call]
    return fused, found.report


def _copy(program: ExportedProgram) -> ExportedProgram:
    """Return a deep copy; torch 2.15 renames nodes called like a built-in (``input``) in it, but not their mention."""
    copied = copy.deepcopy(program)
    signature = copied.graph_signature
    for before, after in zip(program.graph.nodes, copied.graph.nodes, strict=True):
        if before.name != after.name:
            signature.replace_all_uses(before.name, after.name)
            for spec in signature.input_specs:
                if isinstance(spec.arg, TensorArgument) and spec.arg.name == before.name:
                    spec.arg = TensorArgument(after.name)
    return copied


def parameters_of(program: ExportedProgram) -> Constants:
    """Return a function from a program's placeholders to parameters, unchanged buffers and constants."""
    signature = program.graph_signature
    changed = set(signature.buffers_to_mutate.values())
    names = {
        spec.arg.name: spec.target
        for spec in signature.input_specs
        if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR) and spec.target not in changed
    }

    def value(node: fx.Node) -> Tensor | None:
        target = names.get(node.name) if node.op == "placeholder" else None
        if target is None:
            return None
        found = program.state_dict.get(target, program.constants.get(target))
        return found if isinstance(found, Tensor) else None

    return value


def _insert(program: ExportedProgram, step: MergeStep) -> fx.Node:
    """Insert the activation of a step and return its node."""
    graph, activation = program.graph, step.activation
    source, anchor, last = step.members[0].source, step.members[step.anchor].node, step.members[-1].node
    kind, aten = activation.kind, torch.ops.aten
    if kind == "Identity":
        return source
    slopes = _add_slopes(program, step) if kind == "PReLU" else None
    result: fx.Node
    with graph.inserting_before(anchor):
        if slopes is not None:
            result = graph.call_function(aten.prelu.default, (source, slopes))
        elif kind == "ReLU":
            result = graph.call_function(aten.relu_.default if step.inplace else aten.relu.default, (source,))
        elif kind == "LeakyReLU":
            leaky = aten.leaky_relu_.default if step.inplace else aten.leaky_relu.default
            result = graph.call_function(leaky, (source, float(activation.slope)))
        else:
            bounds = [bound if abs(bound) != inf else None for bound in (activation.low, activation.high)]
            clamp = aten.clamp_.default if step.inplace else aten.clamp.default
            result = graph.call_function(clamp, (source, *bounds))
    result.meta = dict(last.meta)
    return result


def _add_slopes(program: ExportedProgram, step: MergeStep) -> fx.Node:
    """Add a parameter with the slopes of a merged PReLU, and return its placeholder."""
    graph, signature = program.graph, program.graph_signature
    value = step.members[-1].node.meta["val"]
    slopes = torch.from_numpy(step.activation.slope.reshape(-1).copy()).to(device=value.device, dtype=value.dtype)
    target = f"{step.members[step.anchor].node.name}_merged"
    first = next(node for node in graph.nodes if node.op == "placeholder")
    with graph.inserting_before(first):
        node: fx.Node = graph.placeholder(f"p_{target}")
    node.meta["val"] = value.fake_mode.from_tensor(slopes, static_shapes=True)
    program.state_dict[target] = torch.nn.Parameter(slopes, requires_grad=False)
    signature.input_specs.insert(0, InputSpec(InputKind.PARAMETER, TensorArgument(node.name), target))
    return node
