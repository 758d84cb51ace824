"""Steps that the tracing of several layer kinds shares."""

from __future__ import annotations

import torch
from torch import Tensor

from spaces.channels.labels.atoms import along, varying, vector
from spaces.channels.labels.beside import Beside
from spaces.channels.labels.tracker import LabelTracker
from spaces.cloning.computed_weights import computed_weights
from spaces.layers.layer_kind import LayerKind

COMPUTED = (
    "its weight is computed, not stored; spaces.cloning.plain_network.plain_network(model) stores those that a layer computes "
    "of its own tensors"
)


def input_atoms(
    tracker: LabelTracker, inputs: Tensor, weight: Tensor, modules: tuple[type, ...], channel_dim: int
) -> Tensor | None:
    """Return the input's channel atoms, of shape ``(in,)``; None, and freeze them, where the weight's use can't be followed."""
    labels = tracker.labels(inputs)
    lent = tracker.lender(weight, modules) is not None
    if tracker.owner(weight) is None and not lent:
        tracker.freeze(labels, outside(tracker, weight))
        return None
    atoms = vector(labels, channel_dim)
    if (units := tracker.beside.find(inputs)) is not None:
        tracker.freeze(units.atoms, "reads places of channels, such as tokens, whose number is fixed")
    if atoms is None:
        tracker.freeze(labels, "its input channels are not one dimension")
    elif (lent or not inside(tracker, modules)) and not tracker.masking.zeroes(atoms):
        tracker.freeze(labels, outside(tracker, weight))
        return None
    return atoms


def outside(tracker: LabelTracker, weight: Tensor) -> str:
    """Return why a weight can't be followed that is none of the running layer's parameters."""
    for computed in computed_weights(tracker.stack[-1][1]) if tracker.stack else ():
        if computed.tensor == "weight":
            return f"its weight is computed by {computed.origin}; store it with {computed.remedy}"
    name = tracker.names.get(id(weight))
    return f"uses the weight {name} outside the layer that owns it" if name else COMPUTED


def passes_by(
    tracker: LabelTracker, kind: LayerKind, inputs: Tensor, weight: Tensor, bias: Tensor | None, output: Tensor, dim: int
) -> bool:
    """Follow channels that pass through a layer, which mixes other values of each, such as tokens; return False for none.

    Args:
        tracker: The tracker of the pass.
        kind: Kind of the layer.
        inputs: Its input.
        weight: Its weight, of shape ``(out, in, ...)``.
        bias: Its bias.
        output: Its output.
        dim: Dimension of ``inputs`` and ``output`` that it mixes.
    """
    labels = tracker.labels(inputs)
    wide = varying(labels)
    atoms = vector(labels, wide[0]) if len(wide) == 1 and wide[0] != dim and tracker.stack else None
    if atoms is None:
        return False
    if wide[0] > dim and (weight.shape[1 + wide[0] - dim] > 1 or output.shape[wide[0]] != inputs.shape[wide[0]]):
        for tensor in (weight, bias):
            tie_nothing(tracker, tensor)
        tracker.freeze(
            labels, "its kernel runs along the channels, and a channel's neighbours are others once some are removed"
        )
        return True
    tracker.set_labels(output, along(atoms, wide[0], output.shape))
    read, written = _beside(tracker, kind, inputs, weight, bias, output, dim)
    macs = output.numel() * weight[0].numel() / (len(atoms) * len(read) * len(written))
    tracker.pass_by(kind, read, written, macs, dim - inputs.dim(), atoms)
    return True


def _beside(
    tracker: LabelTracker, kind: LayerKind, inputs: Tensor, weight: Tensor, bias: Tensor | None, output: Tensor, dim: int
) -> tuple[Tensor, Tensor]:
    """Return the atoms of the places that a layer reads and writes beside the channels; a single 0 each where none may go."""
    units = tracker.beside.find(inputs)
    whole = inside(tracker, kind.modules) and tracker.owner(weight) is not None and weight.shape[1] == inputs.shape[dim]
    if units is not None and (not whole or units.dim != dim - inputs.dim()):
        tracker.freeze(units.atoms, "reads places of channels, such as tokens, whose number is fixed")
        units = None
    if not whole or kind.output_dim:
        for tensor in (weight, bias):
            tie_nothing(tracker, tensor)
        return torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)
    read = torch.zeros(inputs.shape[dim], dtype=torch.int64) if units is None else units.atoms
    written = output_atoms(tracker, weight, 0, output.shape[dim])
    tracker.tie(weight, 1, read)
    tracker.tie(weight, 0, written)
    tracker.tie(bias, 0, written)
    tracker.beside.set(output, Beside(dim - output.dim(), written))
    tracker.memory.label_beside(output, written)
    return read, written


def tie_nothing(tracker: LabelTracker, tensor: Tensor | None) -> None:
    """Note that a weight is used where none of its dimensions are channels."""
    if tensor is not None and id(tensor) in tracker.names:
        for dim, size in enumerate(tensor.shape):
            tracker.tie(tensor, dim, torch.zeros(size, dtype=torch.int64))


def leave_frozen(tracker: LabelTracker, kind: LayerKind, weight: Tensor, channels: int) -> None:
    """Record a layer whose weight can't be followed, so that its output channels are among the frozen ones, with the reason."""
    outputs = tracker.atoms.new(channels)
    for labels in (outputs, tracker.labels(weight)):
        tracker.freeze(labels, outside(tracker, weight))
    tracker.record(kind, outputs[:0], outputs, 0.0, 1, -1)


def output_atoms(tracker: LabelTracker, weight: Tensor, dim: int, count: int) -> Tensor:
    """Return the atoms of ``count`` output channels along ``dim`` of ``weight``: those of an earlier use, or fresh."""
    earlier = tracker.tied(weight, dim)
    return tracker.atoms.new(count) if earlier is None else earlier


def label_output(tracker: LabelTracker, output: Tensor, atoms: Tensor, dim: int, single: str) -> None:
    """Label ``output`` with its channel atoms along ``dim``; freeze a single one for the reason ``single``."""
    if len(atoms) == 1:
        tracker.freeze(atoms, f"has a single {single}")
        tracker.set_labels(output, torch.zeros((), dtype=torch.int64).expand(output.shape))
    else:
        tracker.set_labels(output, along(atoms, dim, output.shape))


def couple_groups(tracker: LabelTracker, inputs: Tensor, outputs: Tensor, groups: int) -> None:
    """Unite the input and output channels of each of the layer's groups, since a group leaves whole."""
    joined = torch.cat([inputs.reshape(groups, -1), outputs.reshape(groups, -1)], 1)
    tracker.atoms.unite(joined, joined[:, -1:].expand_as(joined))
    tracker.freeze(joined[(joined == 0).any(1)], "groups channels with values of no channel")


def normalized_atoms(
    tracker: LabelTracker, inputs: Tensor, channel_dim: int, modules: tuple[type, ...], shared: bool = False
) -> Tensor | None:
    """Return the channel atoms that a normalization passes on; None, and freeze them, where it can't be followed.

    Args:
        tracker: The tracker of the pass.
        inputs: Input of the normalization.
        channel_dim: Dimension of its channels.
        modules: Types of the modules whose hooks mask it; in the code of others the very call is masked.
        shared: Whether statistics are taken over the channels.
    """
    labels = tracker.labels(inputs)
    atoms = vector(labels, channel_dim)
    if atoms is None:
        tracker.freeze(labels, "normalizes over more than the channels")
        return None
    if inside(tracker, modules):
        return atoms
    if not bool(atoms.any()):
        return None
    if shared and not tracker.masking.gathers():
        tracker.freeze(labels, "normalizes outside any module")
        return None
    return atoms


def inside(tracker: LabelTracker, modules: tuple[type, ...]) -> bool:
    """Return True if the innermost running module is one of ``modules``."""
    return bool(tracker.stack) and isinstance(tracker.stack[-1][1], modules)
