"""Removal of the channels that a sparsifier decided against."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from evaluators.batch_norm import recalibrate
from evaluators.task import Task
from evaluators.tasks.batches import whole_batches
from search.run.network import Network
from spaces.candidate import Candidate
from spaces.channels.check import equivalence_error
from spaces.channels.groups import ChannelGroups
from spaces.channels.surgery import apply_cut, plan_cut
from spaces.execution.batch import to_device
from spaces.sparsifiers.base import Sparsifier
from spaces.sparsifiers.zeroing import removal_change

BATCH = 128
CALIBRATION = 8
"""Number of batches, of at most :data:`BATCH` training samples, that BatchNorm statistics are measured on."""


def remove_channels(
    network: Network, sparsifier: Sparsifier, task: Task, complete: bool = True
) -> tuple[Network, dict[str, Any]] | None:
    """Return the network without the channels that a sparsifier decided against, and the notes for the report.

    A sparsifier that was not complete by the end of training took the rest away at once: the statistics of BatchNorm are
    those of a larger network then, and are measured again.

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
    inputs = to_device(task.traced_inputs(), device)
    cut = plan_cut(groups, mask)
    error = equivalence_error(model, groups, mask, inputs, task.forward)
    small = apply_cut(model, cut)
    change = output_change(model, small, task) if sparsifier.lossless else None
    if not complete:
        count, size = whole_batches(task.size("train"), BATCH, CALIBRATION)
        recalibrate(small, task.batches("train", size, limit=count * size), task.forward)
    transformation = {"kind": "slice_channels", "candidate": dict(Candidate(kept).values), **cut.to_json()}
    notes = {
        "layers": [{"name": name, "channels": len(bits), "kept": int(bits.sum())} for name, bits in kept.items()],
        "frozen": frozen(groups),
        "equivalence_error": error,
        "output_change": change,
    }
    return Network(small, (*network.transformations, transformation)), notes


def output_change(before: torch.nn.Module, after: torch.nn.Module, task: Task) -> float:
    """Return the largest absolute change of an output, in double precision on 16 samples of the search split.

    Raises:
        EquivalenceError: It is not below :data:`spaces.sparsifiers.zeroing.TOLERANCE`.
    """
    inputs, _ = next(iter(task.batches("search", 16, limit=16)))
    return removal_change(before, after, to_device(inputs, next(before.parameters()).device), task.forward)


def frozen(groups: ChannelGroups) -> list[dict[str, Any]]:
    """Return, for every frozen group: ``name``, ``size`` (channels), ``reason`` and ``macs_share``."""
    return [
        {"name": group.name, "size": group.size, "reason": group.reason, "macs_share": group.macs_share}
        for group in groups.frozen
    ]
