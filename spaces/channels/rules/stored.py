"""Stored rules: parameters and buffers that meet activations outside of a layer, such as positions, tokens, gains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from spaces.channels.labels.atoms import along, compact
from spaces.channels.labels.tracker import LabelTracker


def adopted(tracker: LabelTracker, tensor: Tensor, others: Sequence[Tensor], apart: int | None = None) -> Tensor:
    """Return the labels of a tensor; one of stored values with several wide dimensions takes those of the channels it meets.

    Args:
        tracker: The tracker of the pass.
        tensor: A stored tensor, or what code made of one by moving its elements.
        others: Tensors that it is joined with.
        apart: Dimension along which they are put behind each other; None where they meet element by element.
    """
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


def joined_labels(tracker: LabelTracker, operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[[Any], Any]:
    """Return what gives the labels of an argument of an operator that moves elements, such as ``cat``."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    apart = kwargs.get("dim", args[1] if len(args) > 1 else 0) if operator.overloadpacket.__name__ == "cat" else None

    def labels_of(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        found = tracker.label_of(value) if apart is None else adopted(tracker, value, tensors, apart)
        # Labels may belong to several tensors: an operator in place changes the shape of an alias.
        return found.detach()

    return labels_of


def follow_part(tracker: LabelTracker, tensor: Tensor, moved: Callable[[Tensor], Tensor], output: Any) -> None:
    """Note that ``output`` is a part of a stored tensor, which ``moved`` picks out of the places of its elements."""
    view = tracker.view_of(tensor)
    if view is not None:
        tracker.views.follow(view, moved, output)


def resized(places: Tensor, spatial: int, output: Tensor) -> Tensor:
    """Return the places of a stored tensor after its ``spatial`` last dimensions were resized; -1 where they are mixed."""
    small = compact(places)
    if any(size > 1 for size in small.shape[-spatial:]):
        return torch.full((), -1).expand(output.shape)
    return small.expand(output.shape)
