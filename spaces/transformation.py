"""Transformations: JSON data from which a compressed network's structure is rebuilt on its original factory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from spaces.channels.surgery import Cut, apply_cut, state_names
from spaces.errors import SecateursError
from spaces.registry import lookup

TRANSFORMATIONS = {
    "sequence": "spaces.transformation:apply_all",
    "slice_channels": "spaces.transformation:slice_channels",
    "replace_activations": "spaces.fusion.record:replace_activations",
    "merge_activations": "spaces.fusion.record:merge_activations",
    "quantize": "spaces.quantization.record:quantize",
    "pack_weights": "spaces.quantization.record:pack_weights",
}


def apply(model: nn.Module, transformation: Mapping[str, Any]) -> nn.Module:
    """Return ``model`` with a recorded transformation applied; its weights are then loaded over.

    Raises:
        SecateursError: The transformation's kind is unknown, or it does not fit ``model``.
    """
    rebuild = lookup(TRANSFORMATIONS, str(transformation.get("kind")), "transformation")
    try:
        rebuilt: nn.Module = rebuild(model, transformation)
    except (KeyError, IndexError, AttributeError) as error:
        raise SecateursError(
            f"the recorded {transformation['kind']!r} does not fit the network ({error!r}); "
            "was its factory changed since the run?"
        ) from error
    return rebuilt


def slice_channels(model: nn.Module, transformation: Mapping[str, Any]) -> nn.Module:
    """Cut the recorded channels out of ``model``."""
    cut = Cut.from_json(transformation)
    tensors = dict(state_names(model))
    for name, dims in cut.kept.items():
        for dim, indices in dims.items():
            if max(indices) >= tensors[name].shape[dim]:
                raise IndexError(f"{name} has {tensors[name].shape[dim]} channels, the record keeps number {max(indices)}")
    return apply_cut(model, cut)


def apply_all(model: nn.Module, transformation: Mapping[str, Any]) -> nn.Module:
    """Apply the recorded ``steps``, one after the other."""
    for step in transformation["steps"]:
        model = apply(model, step)
    return model
