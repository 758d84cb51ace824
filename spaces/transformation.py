"""Transformations: JSON data from which a compressed network's structure is rebuilt on its original factory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import nn

from spaces.channels.surgery import Cut, apply_cut, state_names
from spaces.cloning.attribute_places import value_at
from spaces.errors import SecateursError
from spaces.records import RecordError, entries, indices, integer, items, one_of
from spaces.registry import lookup

TRANSFORMATIONS = {
    "sequence": "spaces.transformation:apply_all",
    "slice_channels": "spaces.transformation:slice_channels",
    "replace_activations": "spaces.fusion.record:replace_activations",
    "merge_activations": "spaces.fusion.record:merge_activations",
    "quantize": "spaces.quantization.record:quantize",
    "reconstruct": "spaces.reconstruction.record:reconstruct",
    "remove_branches": "spaces.residual.removal:remove_branches",
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
    """Cut the recorded channels out of ``model``.

    Raises:
        RecordError: An index or a size is not one that the layer has.
    """
    _check_cut(model, transformation)
    return apply_cut(model, Cut.from_json(transformation))


def cuts_among(transformations: Iterable[Mapping[str, Any]]) -> Iterator[Cut]:
    """Yield the cuts among recorded changes of structure, those inside sequences included."""
    for one in transformations:
        if one["kind"] == "slice_channels":
            yield Cut.from_json(one)
        elif one["kind"] == "sequence":
            yield from cuts_among(one["steps"])


def _check_cut(model: nn.Module, record: Mapping[str, Any]) -> None:
    where = "slice_channels"
    tensors, modules = dict(state_names(model)), dict(model.named_modules(remove_duplicate=False))
    for name, dims in entries(record, "kept", where).items():
        place = f"{where}: kept: {name}"
        shape = tensors[one_of(name, tensors, place)].shape
        for dim, kept in entries({name: dims}, name, place).items():
            number = integer(int(dim) if str(dim).isdecimal() else None, 0, len(shape) - 1, f"{place}: dimension {dim}")
            indices(kept, shape[number], f"{place}: dimension {dim}")
    for name, fields in entries(record, "attributes", where).items():
        place = f"{where}: attributes: {name}"
        known = vars(modules[one_of(name, modules, place)])
        for key, value in entries({name: fields}, name, place).items():
            before = value_at(known, key)
            _check_size(known[one_of(key, known, place)] if before is None else before, value, f"{place}.{key}")


def _check_size(before: Any, after: Any, where: str) -> None:
    """Raise if ``after`` is no size, or no list of sizes, of which none is larger than in ``before``."""
    if isinstance(before, tuple) and isinstance(after, list | tuple) and len(before) == len(after):
        for old, new in zip(before, after, strict=True):
            _check_size(old, new, where)
        return
    if type(before) is not int:
        raise RecordError(f"{where}: expected the size of a layer, got one that the network does not have")
    integer(after, 1, before, where)


def apply_all(model: nn.Module, transformation: Mapping[str, Any]) -> nn.Module:
    """Apply the recorded ``steps``, one after the other."""
    for step in items(transformation, "steps", "sequence"):
        model = apply(model, step)
    return model
