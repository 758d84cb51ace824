"""The removal of modules from a network: the smaller network, its record, and the network built from the record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from spaces.cloning.clone import Cloning, copied
from spaces.layers.split_attention import split_encoders
from spaces.records import RecordError, entries, integer, one_of
from spaces.residual.stub import stub_of
from spaces.residual.units import Removal

KIND = "remove_branches"
"""Kind of the transformation."""


def remove(model: nn.Module, removal: Removal) -> nn.Module:
    """Return a clone of ``model`` without the modules that leave; ``model`` is left unchanged."""
    stubs = {name: stub_of(record, f"{KIND}: {name}") for name, record in removal.stubs.items()}
    return split_encoders(Cloning(copied, removal.attributes, stubs).clone(model))


def remove_branches(model: nn.Module, transformation: Mapping[str, Any]) -> nn.Module:
    """Remove the recorded modules from ``model``.

    Raises:
        RecordError: A module or an attribute is not one that the network has, or a stub is of no known form.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    stubs = entries(transformation, "stubs", KIND)
    for name in stubs:
        if not one_of(name, modules, KIND):
            raise RecordError(f"{KIND}: expected the name of a part of the network, got the whole of it")
    attributes = entries(transformation, "attributes", KIND)
    for name in attributes:
        known = vars(modules[one_of(name, modules, KIND)])
        for key, value in entries(attributes, name, KIND).items():
            before = known[one_of(key, known, f"{KIND}: {name}")]
            if type(before) is not int:
                raise RecordError(f"{KIND}: {name}.{key}: expected an integer of the module, got one that it does not have")
            integer(value, 0, before, f"{KIND}: {name}.{key}")
    records = {name: entries(stubs, name, KIND) for name in stubs}
    return remove(model, Removal(records, attributes))
