"""Adoption: stored tensors with several wide dimensions take the channels of what they meet."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from spaces.channels.labels.atoms import along, compact, varying
from spaces.channels.labels.tracker import LabelTracker


def adopted(tracker: LabelTracker, tensor: Tensor, others: Sequence[Tensor], apart: int | None = None) -> Tensor:
    """Return the labels of a tensor; one of stored values with several wide dimensions takes those of the channels it meets.

    Args:
        tracker: The tracker of the pass.
        tensor: A stored tensor, or what code made of one by moving its elements.
        others: Tensors that it is joined with.
        apart: Dimension along which they are put behind each other; None where they meet element by element.
    """
    if apart is None and id(tensor) in tracker.names and _crosses(tracker, tensor, others):
        dim = next(dim for dim, size in enumerate(tensor.shape) if size > 1)
        none = torch.zeros(tensor.shape[dim], dtype=torch.int64)
        tracker.tie(tensor, dim, none)
        return along(none, dim, tensor.shape)
    labels: Tensor = tracker.label_of(tensor)
    view = tracker.view_of(tensor)
    stored = id(tensor) in tracker.names
    if (view is None and not stored) or bool(compact(labels).any()):
        return labels
    for other in others:
        if other is tensor or other not in tracker.labelled:
            continue
        small = compact(tracker.labels(other))
        wide = [dim - small.dim() for dim, size in enumerate(small.shape) if size > 1]
        dim = tensor.dim() + wide[0] if len(wide) == 1 else -1
        if dim < 0 or tensor.shape[dim] != small.shape[wide[0]] or (apart is not None and dim == apart % tensor.dim()):
            continue
        own = dim if view is None else view.dim_at(dim)
        if own is not None:
            atoms = small.reshape(-1)
            tracker.tie(tensor if view is None else view.parameter, own, atoms)
            return along(atoms, dim, tensor.shape)
    return labels


def _crosses(tracker: LabelTracker, tensor: Tensor, others: Sequence[Tensor]) -> bool:
    """Return True if a stored tensor, met here first, lies along no channels of what it meets, which have some elsewhere.

    So does the gain of a norm within each attention head: it is the same for every head.
    """
    wide = [dim - tensor.dim() for dim, size in enumerate(tensor.shape) if size > 1]
    if len(wide) != 1 or tracker.tied(tensor, wide[0] + tensor.dim()) is not None:
        return False
    met = [other for other in others if other is not tensor and other in tracker.labelled]
    placed = [dim - other.dim() for other in met for dim in varying(tracker.labels(other))]
    return bool(placed) and wide[0] not in placed
