"""Zero channels: set coupled channels to zero, and find the groups whose zero channels go without changing an output."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from spaces.channels.check import find_checked_groups, freeze, randomize_batch_norm, whole_rows
from spaces.channels.groups import ChannelGroups
from spaces.channels.surgery import apply_cut, plan_cut
from spaces.cloning.clone import clone
from spaces.errors import EquivalenceError, UnsupportedModelError
from spaces.execution.batch import Nested, in_type
from spaces.execution.comparison import largest_gap, output_difference
from spaces.execution.forward import Forward, in_double, tensors_in
from spaces.importance.criterion import places_on, writers

TOLERANCE = 1e-5
"""Largest accepted change of an output where what is removed should have had no effect."""


def zero_channels(model: nn.Module, groups: ChannelGroups, mask: np.ndarray) -> nn.Module:
    """Set to zero, in place, all that writes the channels off ``mask``: filters, biases, scaling factors, shifts.

    Running means go with them, as they do where the zero channel is seen long enough.
    """
    gone = np.append(~mask, False)
    means = [(layer.name, name, 0, layer.outputs) for layer in groups.layers for name in layer.kind.statistics]
    state = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    with torch.no_grad():
        for name, tensor, dim, places in (*writers(groups), *means):
            stored = state.get(f"{name}.{tensor}".lstrip("."))
            index = np.flatnonzero(gone[places])
            if stored is not None and len(index):
                stored.index_fill_(dim, torch.from_numpy(index).to(stored.device), 0.0)
    return model


@torch.no_grad()
def largest_weights(model: nn.Module, groups: ChannelGroups) -> Tensor:
    """Return the largest absolute value of all that writes each coupled channel, float64 of shape ``(groups.width,)``."""
    device = next(model.parameters()).device
    largest = torch.zeros(groups.width + 1, dtype=torch.float64, device=device)
    for name, tensor, dim, places in writers(groups):
        weights = model.get_submodule(name).get_parameter(tensor).abs().movedim(dim, 0).reshape(len(places), -1)
        on = places_on(device, places)
        largest.scatter_reduce_(0, torch.where(on < 0, groups.width, on), weights.amax(1).to(torch.float64), "amax")
    return largest[:-1]


def removable_groups(
    model: nn.Module, inputs: Nested, include: Sequence[str], exclude: Sequence[str], forward: Forward
) -> ChannelGroups:
    """Return the checked channel groups of a network whose zero channels can be removed without changing the output.

    Args:
        model: The network; left unchanged.
        inputs: One batch of a single sample.
        include: Name patterns of layers whose channels may go; empty for all.
        exclude: Name patterns of layers whose channels stay.
        forward: How the network is run on it.

    Raises:
        UnsupportedModelError: There are none.
    """
    found = lossless_groups(model, find_checked_groups(model, inputs, include, exclude, forward), inputs, forward)
    if not found.groups:
        reasons = sorted({group.reason for group in found.frozen}) or ["it has no layer with channels"]
        raise UnsupportedModelError(
            "no filter of this network can be cut: " + "; ".join(reasons[:5]) + "; see include, exclude"
        )
    return found


def lossless_groups(model: nn.Module, groups: ChannelGroups, inputs: Nested, forward: Forward) -> ChannelGroups:
    """Freeze, with the reason, the groups whose zero channels can't be removed without changing the output.

    These are channels over which a normalization takes its statistics, and those behind an activation that makes
    something of zero.
    """
    counted = "is normalized together with the kept channels, which a zero among them changes"
    reasons: dict[str, str] = {}
    for layer in groups.layers:
        if layer.kind.shares_statistics(layer.groups):
            reasons |= {
                group.name: f"{layer.name}: {counted}" for group in groups.groups if groups.touched(group, layer.outputs)
            }
    for call in groups.masked:
        for one in call.gathered:
            told = f"{call.module}: {call.function} is over the kept channels too, and a zero among them changes it"
            reasons |= {group.name: told for group in groups.groups if groups.touched(group, one.channels)}
    groups = whole_rows(freeze(groups, reasons) if reasons else groups)
    with in_double():
        probe = in_type(inputs, torch.float64)
        exact = randomize_batch_norm(clone(model).double(), probe, forward)

    def loses(mask: np.ndarray) -> bool:
        zeroed = zero_channels(clone(exact), groups, mask)
        try:
            output_difference(apply_cut(zeroed, plan_cut(groups, mask)), zeroed, inputs, forward)
        except EquivalenceError:
            return True
        return False

    every = {group.name: _without_half(groups, {group.name}) for group in groups.groups}
    if groups.groups and loses(_without_half(groups, set(every))):
        makes = "what reads it makes something of a zero channel"
        bad = {name: makes for name, mask in every.items() if loses(mask)}
        groups = freeze(groups, bad or dict.fromkeys(every, makes))
    return groups


def removal_change(before: nn.Module, after: nn.Module, inputs: Nested, forward: Forward) -> float:
    """Return the largest change of an output by a removal that should change nothing, in double precision.

    Args:
        before: The network with zero channels; left unchanged.
        after: The network without them; left unchanged.
        inputs: A batch on the networks' device.
        forward: How they are run on it.

    Raises:
        EquivalenceError: It is not below :data:`TOLERANCE`.
    """
    inputs = in_type(inputs, torch.float64)
    with torch.no_grad(), in_double():
        expected, found = (tensors_in(forward(clone(m).double().eval(), inputs)) for m in (before, after))
    change, _ = largest_gap(found, expected)
    if not change < TOLERANCE:
        raise EquivalenceError(
            f"removing what training left at zero should change outputs by less than {TOLERANCE:g}, and changes them by "
            f"{change:.3g}"
        )
    return change


def _without_half(groups: ChannelGroups, names: set[str]) -> np.ndarray:
    mask = np.ones(groups.width, dtype=bool)
    for group in groups.groups:
        if group.name in names:
            mask[group.offset : group.offset + group.size // 2] = False
    return mask
