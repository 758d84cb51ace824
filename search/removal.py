"""Removal: what a training left without effect, taken out of the network for good."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch

from evaluators.task import Task
from search.network import Network
from spaces.errors import EquivalenceError
from spaces.graph.channel_check import equivalence_error
from spaces.graph.channel_groups import ChannelGroups
from spaces.graph.channel_surgery import apply_cut, plan_cut
from spaces.sparsifiers.base import Sparsifier

TOLERANCE = 1e-5
"""Largest accepted change of the output where what is removed should have had no effect."""


def remove_channels(network: Network, sparsifier: Sparsifier, task: Task) -> tuple[Network, dict[str, Any]] | None:
    """Return the smaller network without the channels that a sparsifier decided against, and what the report needs of it.

    None where it removes nothing: it has no channel groups, or keeps every channel. The notes have ``layers``, ``frozen``,
    ``equivalence_error`` (sliced against masked network) and ``output_change`` (sliced against trained network, null where
    the sparsifier does not promise that there is none).

    Raises:
        EquivalenceError: The smaller network does not answer as the masked one, or as the trained one where it must.
    """
    groups, masks = sparsifier.channel_groups, sparsifier.keep_masks()
    if groups is None or all(bool(mask.all()) for mask in masks.values()):
        return None
    kept = {group.name: masks[group.name].cpu().numpy() for group in groups.groups}
    mask = np.concatenate([kept[group.name] for group in groups.groups])
    model = network.model.eval()
    device = next(model.parameters()).device
    inputs = task.example_inputs().to(device)
    cut = plan_cut(groups, mask)
    error = equivalence_error(model, groups, mask, inputs, task.forward)
    small = apply_cut(model, cut)
    change = output_change(model, small, task) if sparsifier.lossless else None
    named = {name: "".join("1" if bit else "0" for bit in bits) for name, bits in kept.items()}
    transformation = {"kind": "slice_channels", "candidate": named, **cut.to_json()}
    notes = {
        "layers": [{"name": name, "channels": len(bits), "kept": int(bits.sum())} for name, bits in kept.items()],
        "frozen": frozen(groups),
        "equivalence_error": error,
        "output_change": change,
    }
    return Network(small, (*network.transformations, transformation)), notes


def output_change(before: torch.nn.Module, after: torch.nn.Module, task: Task) -> float:
    """Return the largest change of an output, in double precision on a few samples of the search split.

    Raises:
        EquivalenceError: It is above :data:`TOLERANCE` (of the largest output, where that is above 1).
    """
    device = next(before.parameters()).device
    inputs, _ = next(iter(task.batches("search", 16, limit=16)))
    inputs = inputs.to(device).double() if inputs.is_floating_point() else inputs.to(device)
    with torch.no_grad():
        expected = task.forward(copy.deepcopy(before).double().eval(), inputs)
        found = task.forward(copy.deepcopy(after).double().eval(), inputs)
    change = float((found - expected).abs().max())
    if not change < TOLERANCE * max(1.0, float(expected.abs().max())):
        raise EquivalenceError(
            f"removing what training left at zero should change outputs by less than {TOLERANCE:g}, and changes them by "
            f"{change:.3g}"
        )
    return change


def frozen(groups: ChannelGroups) -> list[dict[str, Any]]:
    """Return what was not touched, and why."""
    return [
        {"name": group.name, "size": group.size, "reason": group.reason, "macs_share": group.macs_share}
        for group in groups.frozen
    ]
