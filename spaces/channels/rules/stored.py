"""Stored rules: parameters and buffers that meet activations outside of a layer, such as positions, tokens, gains."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from spaces.channels.labels.adoption import adopted
from spaces.channels.labels.atoms import compact
from spaces.channels.labels.tracker import LabelTracker


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


def follow_part(
    tracker: LabelTracker, tensor: Tensor, moved: Callable[[Tensor], Tensor], output: Any, equal: bool = False
) -> None:
    """Note that ``output`` is a part of a stored tensor, which ``moved`` picks out of the places of its elements.

    It is one of ``equal`` parts, or picked by numbers of places.
    """
    view = tracker.view_of(tensor)
    if view is not None:
        tracker.views.follow(view, moved, output, not equal)


def resized(places: Tensor, spatial: int, output: Tensor) -> Tensor:
    """Return the places of a stored tensor after its ``spatial`` last dimensions were resized; -1 where they are mixed."""
    small = compact(places)
    if any(size > 1 for size in small.shape[-spatial:]):
        return torch.full((), -1).expand(output.shape)
    return small.expand(output.shape)
