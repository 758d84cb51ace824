"""Merging connected activations of ONNX models (CN113011565A): Relu, LeakyRelu, PRelu with constant slopes, Clip, Identity.

Merges happen in the main graph, in subgraphs (If, Loop, Scan) and in functions. Two activations are merged if the first has
one reader, in the same graph, and is no output. The rest of the model is unchanged; constants without readers are removed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from spaces.errors import EquivalenceError
from spaces.fusion.float_format import FLOAT16
from spaces.fusion.onnx_nodes import DTYPES, OnnxActivation, Scope, read_activation, scopes, value_dtype
from spaces.fusion.piecewise_linear import Activation, Run, fold_chain
from spaces.fusion.report import FusionReport, Left, Merge

_PROBES = np.array([-1e6, -1000.0, -3.0, -1.0, -0.1, -1e-6, 0.0, 1e-6, 0.1, 1.0, 3.0, 6.0, 1000.0, 1e6])


def fuse_onnx(model: ir.Model, literal: bool = False) -> FusionReport:
    """Merge the connected activations of ``model``, in place, and return the report.

    Args:
        model: The model.
        literal: Keep the patent's types; see :func:`spaces.fusion.piecewise_linear.merge`.
    """
    merges: list[Merge] = []
    while True:
        rewriter = _Pass(model, literal)
        for scope in scopes(model):
            rewriter.run(scope)
        merges += rewriter.merges
        if not rewriter.merges:
            return FusionReport(tuple(merges), tuple(rewriter.left))


def nodes(model: ir.Model) -> int:
    """Return the number of nodes in a model, subgraphs and functions included, constants excluded."""
    return sum(node.op_type != "Constant" for scope in scopes(model) for node in scope.graph)


class _Pass:
    """One pass over all graphs of a model."""

    def __init__(self, model: ir.Model, literal: bool) -> None:
        self.merges: list[Merge] = []
        self.left: list[Left] = []
        self._literal = literal
        everything = list(scopes(model))
        values = [value for scope in everything for node in scope.graph for value in (*node.inputs, *node.outputs)]
        values += [value for scope in everything for value in (*scope.graph.inputs, *scope.graph.initializers.values())]
        self._names = {value.name for value in values if value is not None}
        # An output that its graph doesn't compute is a value of the graph around it, by name only.
        self._captured = {
            value.name
            for scope in everything
            for value in scope.graph.outputs
            if value.producer() is None and not value.is_graph_input() and not value.is_initializer()
        }

    def run(self, scope: Scope) -> None:
        """Merge the connected activations of one graph, in place."""
        found = {node: one for node in scope.graph if (one := read_activation(node)) is not None}
        self.left += [Left(scope.name, (one.name,), one.reason) for one in found.values() if one.activation is None]
        for chain in self._chains(scope, found):
            self._merge(scope, chain)

    def _chains(self, scope: Scope, found: dict[ir.Node, OnnxActivation]) -> list[list[OnnxActivation]]:
        chains: dict[ir.Node, list[OnnxActivation]] = {}
        started: list[list[OnnxActivation]] = []
        for node, one in found.items():
            if one.activation is None:
                continue
            source = node.inputs[0]
            producer = source.producer() if source is not None else None
            before = found.get(producer) if producer is not None else None
            if before is None and producer is not None and producer.graph is not scope.graph:
                before = read_activation(producer)
            if before is not None and before.activation is not None:
                reason = self._separate(before, one)
                if reason is None:
                    chain = chains.pop(before.node)
                    chain.append(one)
                    chains[node] = chain
                    continue
                self._leave(scope, before, one, reason)
            chains[node] = [one]
            started.append(chains[node])
        return started

    def _separate(self, one: OnnxActivation, other: OnnxActivation) -> str | None:
        value = one.node.outputs[0]
        if value.is_graph_output() or value.name in self._captured:
            return f"{value.name} is an output of the graph"
        if len(value.uses()) > 1:
            return f"the output of {one.name} is read {len(value.uses())} times"
        if one.node.graph is not other.node.graph:
            return "they stand in different graphs"
        return None

    def _leave(self, scope: Scope, one: OnnxActivation, other: OnnxActivation, reason: str) -> None:
        if "Identity" not in (one.node.op_type, other.node.op_type):
            self.left.append(Left(scope.name, (one.name, other.name), reason))

    def _merge(self, scope: Scope, chain: list[OnnxActivation]) -> None:
        dtype = next((known for one in chain if (known := value_dtype(one.node)) is not None), None)
        if dtype is not None and dtype not in DTYPES:
            return
        activations = [one.activation for one in chain if one.activation is not None]

        def admissible(run: Run) -> str | None:
            unknown = dtype is None and run.activation.kind == "PReLU"
            return "the type of their tensors isn't known" if unknown else None

        # Where the type isn't known, slopes are multiplied only if the product is normal in the smallest type.
        limits = FLOAT16 if dtype is None else DTYPES[dtype]
        runs, reasons = fold_chain(activations, limits, self._literal, admissible)
        for (one, other), reason in reasons.items():
            self._leave(scope, chain[one], chain[other], reason)
        for run in runs:
            members = chain[run.start : run.stop]
            if len(members) > 1 and any(one.node.op_type != "Identity" for one in members):
                _check(activations[run.start : run.stop], run.activation)
                words = tuple(activation.text for activation in activations[run.start : run.stop])
                names = tuple(one.name for one in members)
                self.merges.append(Merge(scope.name, names, words, run.activation.text, run.exact))
                self._rewrite(scope, members, run.activation, dtype)

    def _rewrite(self, scope: Scope, members: list[OnnxActivation], activation: Activation, dtype: ir.DataType | None) -> None:
        """Turn the last member into ``activation`` of the first one's input, and remove the others."""
        last = members[-1].node
        read = [value for one in members for value in one.node.inputs[1:] if value is not None]
        source = members[0].node.inputs[0]
        kept = next((one.node for one in members if _same(one, activation)), None)
        operator, attributes, others = _operator(activation, dtype, kept)
        what = "slopes" if operator == "PRelu" else "bound"
        constants = [one if isinstance(one, ir.Value | None) else self._constant(scope, last, what, one) for one in others]
        last.op_type = operator
        last.attributes.clear()
        for attribute in attributes:
            last.attributes[attribute.name] = attribute
        last.resize_inputs(1 + len(constants))
        for index, value in enumerate((source, *constants)):
            last.replace_input_with(index, value)
        scope.graph.remove([one.node for one in members[:-1]], safe=True)
        output = last.outputs[0]
        if operator == "Identity" and source is not None and not output.is_graph_output() and output.name not in self._captured:
            output.replace_all_uses_with(source)
            scope.graph.remove(last, safe=True)
        for value in read:
            self._drop(value)

    def _constant(self, scope: Scope, node: ir.Node, what: str, tensor: ir.Tensor[Any]) -> ir.Value:
        """Add a constant that only ``node`` reads."""
        base = name = f"{node.name or node.outputs[0].name}_{what}"
        count = 0
        while name in self._names:
            count += 1
            name = f"{base}_{count}"
        self._names.add(name)
        tensor.name = name
        if scope.initializers:
            value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=tensor.shape, const_value=tensor)
            scope.graph.register_initializer(value)
            return value
        made = ir.Node("", "Constant", [], [ir.AttrTensor("value", tensor)], num_outputs=1, name=name)
        made.outputs[0].name = name
        scope.graph.insert_before(node, made)
        return made.outputs[0]

    def _drop(self, value: ir.Value) -> None:
        """Remove a constant without readers."""
        if value.uses() or value.is_graph_output() or value.is_graph_input() or value.name in self._captured:
            return
        producer, graph = value.producer(), value.graph
        if producer is None:
            if value.is_initializer() and graph is not None and value.name is not None:
                graph.initializers.pop(value.name, None)
        elif producer.op_type in ("Constant", "Identity") and producer.graph is not None:
            sources = [source for source in producer.inputs if source is not None]
            producer.graph.remove(producer, safe=True)
            for source in sources:
                self._drop(source)


def _same(one: OnnxActivation, activation: Activation) -> bool:
    """Return True if the node of ``one`` computes ``activation``, so that its constants can be reused."""
    mine = one.activation
    if mine is None or mine.kind != activation.kind:
        return False
    bounds = (mine.low, mine.high) == (activation.low, activation.high)
    return bounds and mine.slope.shape == activation.slope.shape and np.array_equal(mine.slope, activation.slope)


_Operand = ir.Value | ir.Tensor[Any] | None


def _operator(
    activation: Activation, dtype: ir.DataType | None, kept: ir.Node | None
) -> tuple[str, list[ir.Attr], list[_Operand]]:
    """Return type, attributes and further inputs of a node that computes ``activation``."""
    if kept is not None:
        return kept.op_type, list(kept.attributes.values()), list(kept.inputs[1:])
    if activation.kind == "LeakyReLU":
        return "LeakyRelu", [ir.AttrFloat32("alpha", float(np.float32(activation.slope)))], []
    if activation.kind in ("ReLU", "Identity"):
        return {"ReLU": "Relu", "Identity": "Identity"}[activation.kind], [], []
    if dtype is None:
        raise AssertionError("constants were asked for where their type isn't known")
    if activation.kind == "PReLU":
        return "PRelu", [], [_tensor(activation.slope, dtype)]
    largest = DTYPES[dtype].largest
    low = None if activation.low == -largest else _tensor(np.asarray(activation.low), dtype)
    high = None if activation.high == largest else _tensor(np.asarray(activation.high), dtype)
    return "Clip", [], [low] if high is None else [low, high]


def _tensor(values: np.ndarray, dtype: ir.DataType) -> ir.Tensor[Any]:
    return ir.Tensor(np.ascontiguousarray(values.astype(dtype.numpy())), dtype=dtype)


def _check(chain: list[Activation], merged: Activation) -> None:
    """Compare a merged activation with the chain it replaces, on a few numbers.

    Raises:
        EquivalenceError: The two differ: a defect of this project.
    """
    probes = _PROBES.reshape(-1, *[1] * max(activation.slope.ndim for activation in (*chain, merged)))
    expected = probes
    for activation in chain:
        expected = activation(expected)
    found = merged(probes)
    if not np.allclose(found, expected, rtol=1e-2, atol=0):
        raise EquivalenceError(f"{', '.join(one.text for one in chain)} are not {merged.text}")
