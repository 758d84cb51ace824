"""Selection of the activations to merge in a PyTorch graph.

Beside the algebra (:mod:`spaces.fusion.piecewise_linear`) the selection respects memory: an in-place activation overwrites a
tensor with other readers, under other names too, and a merge must not change the values that these readers get.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from spaces.fusion.nodes import Constants, TorchActivation, find_activations, float_format, has_new_memory, node_dtype
from spaces.fusion.piecewise_linear import Activation, Run, fold_chain
from spaces.fusion.report import FusionReport, Left, Merge


@dataclass(frozen=True)
class MergeStep:
    """Connected activations to be replaced by one.

    Attributes:
        members: The activations, in the order in which they are applied.
        activation: Their composition.
        exact: Whether no slopes were multiplied.
        anchor: Position of the member to be replaced by the composition: the first that isn't the identity.
    """

    members: tuple[TorchActivation, ...]
    activation: Activation
    exact: bool
    anchor: int

    @property
    def inplace(self) -> bool:
        """True if the merged activation overwrites its input's memory."""
        return self.members[self.anchor].inplace and self.activation.kind != "PReLU"


@dataclass(frozen=True)
class Plan:
    """Merges to carry out in a graph, and the report on them."""

    steps: tuple[MergeStep, ...]
    report: FusionReport


def plan(
    graph: fx.Graph,
    owner: nn.Module,
    constants: Constants,
    literal: bool = False,
    usable: Callable[[TorchActivation], str | None] = lambda found: None,
) -> Plan:
    """Find the connected activations of ``graph`` that can be merged; nothing is changed.

    Args:
        graph: The graph.
        owner: The module that the graph's modules belong to.
        constants: Returns the constant tensor of a node, or None.
        literal: See :func:`spaces.fusion.piecewise_linear.merge`.
        usable: Returns the reason against changing an activation, or None.
    """
    found = find_activations(graph, owner, constants)
    memory = _Memory(found, owner)
    default = _dtype(owner)
    left = [Left(_where(one, owner), (_name(one),), one.reason) for one in found.values() if one.activation is None]
    steps, merges = [], []
    for chain, reason in _chains(found, memory, usable):
        activations = [one.activation for one in chain if one.activation is not None]
        dtype = float_format(node_dtype(chain[-1].node) or default)
        runs, reasons = fold_chain(activations, dtype, literal, lambda run, chain=chain: memory.forbids(chain, run))  # type: ignore[misc]
        for run in runs:
            members = chain[run.start : run.stop]
            real = [index for index, one in enumerate(members) if not one.passes_on]
            # An identity costs nothing here; it is only passed through on the way from one activation to the next.
            if len(real) < 2:
                continue
            steps.append(MergeStep(tuple(members), run.activation, run.exact, real[0]))
            words = tuple(activation.text for activation in activations[run.start : run.stop])
            names = tuple(map(_name, members))
            merges.append(Merge(_where(members[0], owner), names, words, run.activation.text, run.exact))
        pairs = [((chain[one], chain[other]), text) for (one, other), text in reasons.items()]
        if reason is not None:
            pairs.append(reason)
        left.extend(
            Left(_where(one, owner), (_name(one), _name(other)), text)
            for (one, other), text in pairs
            if not (one.passes_on or other.passes_on)
        )
    return Plan(tuple(steps), FusionReport(tuple(merges), tuple(left)))


_Refused = tuple[tuple[TorchActivation, TorchActivation], str]


def _chains(
    found: Mapping[fx.Node, TorchActivation], memory: _Memory, usable: Callable[[TorchActivation], str | None]
) -> list[tuple[list[TorchActivation], _Refused | None]]:
    """Return the longest chains of connected activations, each with the reason for its start behind another activation."""
    chains: dict[fx.Node, list[TorchActivation]] = {}
    started: list[tuple[list[TorchActivation], _Refused | None]] = []
    for one in found.values():
        if one.activation is None:
            continue
        before = found.get(one.source)
        refused: _Refused | None = None
        if before is not None and before.activation is not None:
            reason = usable(before) or usable(one) or memory.separates(before, one)
            if reason is None:
                chain = chains.pop(before.node)
                chain.append(one)
                chains[one.node] = chain
                continue
            refused = ((before, one), reason)
        chain = [one]
        chains[one.node] = chain
        started.append((chain, refused))
    return started


@dataclass(frozen=True)
class _Memory:
    """Readers of the memory that in-place activations overwrite."""

    found: Mapping[fx.Node, TorchActivation]
    owner: nn.Module

    def separates(self, one: TorchActivation, other: TorchActivation) -> str | None:
        """Return the reason against merging ``one`` with its reader ``other``, or None."""
        users = one.node.users
        if len(users) > 1:
            return f"the output of {_name(one)} is read {len(users)} times"
        if one.passes_on or other.passes_on or not one.inplace or self.unseen(one):
            return None
        if other.inplace and _next(one.node) is other.node:
            return None
        return f"{_name(one)} changes its input in place, which others may see"

    def forbids(self, chain: list[TorchActivation], run: Run) -> str | None:
        """Return the reason against replacing the members of a run of ``chain`` by one activation, or None."""
        first = next((chain[index] for index in run.members if not chain[index].passes_on), None)
        if first is None or self.unseen(first):
            return None
        if first.inplace and run.activation.kind == "PReLU":
            return f"{_name(first)} changes its input in place, which others may see, and a PReLU can't"
        if not first.inplace and run.activation.kind == "Identity":
            return "together they return their input itself, which others may change"
        return None

    def unseen(self, one: TorchActivation) -> bool:
        """Return True if only ``one`` reads the memory of its input."""
        source, reader = one.source, one.node
        while set(source.users) == {reader}:
            before = self.found.get(source)
            if before is None:
                return has_new_memory(source, self.owner)
            if before.activation is None:
                return False
            if not before.inplace and not before.passes_on:
                return True
            source, reader = before.source, source
        return False


def _next(node: fx.Node) -> fx.Node:
    """Return the node that runs after ``node``."""
    following = node.next
    while following.op == "get_attr":
        following = following.next
    return following


def _name(found: TorchActivation) -> str:
    return str(found.node.target) if found.node.op == "call_module" else found.node.name


def _where(found: TorchActivation, owner: nn.Module) -> str:
    """Return the path of the module that calls the activation; "network" for the network itself."""
    if found.node.op == "call_module":
        path = str(found.node.target).rpartition(".")[0]
    else:
        stack = list((found.node.meta.get("nn_module_stack") or {}).values())
        path = str(stack[-1][0]) if stack else ""
    return path or "network"


def _dtype(owner: nn.Module) -> torch.dtype:
    """Return the floating-point dtype of a network's tensors; of several, the one with the largest smallest normal number."""
    tensors: list[Tensor] = [*owner.parameters(), *owner.buffers()]
    dtypes = {tensor.dtype for tensor in tensors if tensor.is_floating_point()}
    return max(dtypes, key=lambda dtype: torch.finfo(dtype).tiny, default=torch.get_default_dtype())
