"""Channel surgery: slicing a keep-mask out of a network's tensors, without copying or re-tracing the network.

The cut is first a plan of plain data (:class:`Cut`): which indices of which dimension of which state tensor stay, and
which sizes the modules announce afterwards. The same plan, read back from JSON, rebuilds the structure in another process.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spaces.channels.groups import ChannelGroups
from spaces.cloning.clone import Cloning, copied
from spaces.layers.batch_norm import open_statistics
from spaces.layers.split_attention import split_attention


@dataclass(frozen=True)
class Cut:
    """Indices that stay in every tensor, and the sizes that modules announce afterwards, as plain data.

    Attributes:
        kept: By state tensor and dimension, the indices that stay, ascending.
        attributes: By module, the attributes that announce its new sizes.
        scaled: By state tensor and dimension, indices of what stays and the factor that it is multiplied by.
    """

    kept: Mapping[str, Mapping[int, Any]]
    attributes: Mapping[str, Mapping[str, int | tuple[int, ...]]]
    scaled: Mapping[str, Mapping[int, tuple[tuple[Any, float], ...]]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the cut as JSON data; :meth:`from_json` reads it back."""
        return {
            "kept": {
                name: {str(dim): [int(index) for index in indices] for dim, indices in dims.items()}
                for name, dims in self.kept.items()
            },
            "attributes": {
                module: {key: list(value) if isinstance(value, tuple) else value for key, value in fields.items()}
                for module, fields in self.attributes.items()
            },
            **({"scaled": scaled} if (scaled := self._scaled_json()) else {}),
        }

    def _scaled_json(self) -> dict[str, Any]:
        return {
            name: {
                str(dim): [{"rows": [int(row) for row in rows], "factor": factor} for rows, factor in parts]
                for dim, parts in dims.items()
            }
            for name, dims in self.scaled.items()
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Cut:
        """Return the cut that :meth:`to_json` wrote."""
        kept = {
            name: {int(dim): np.asarray(indices, dtype=np.int64) for dim, indices in dims.items()}
            for name, dims in data["kept"].items()
        }
        attributes = {
            module: {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
            for module, fields in data["attributes"].items()
        }
        scaled = {
            name: {
                int(dim): tuple((np.asarray(part["rows"], dtype=np.int64), float(part["factor"])) for part in parts)
                for dim, parts in dims.items()
            }
            for name, dims in data.get("scaled", {}).items()
        }
        return Cut(kept, attributes, scaled)


def plan_cut(groups: ChannelGroups, mask: np.ndarray) -> Cut:
    """Turn a whole keep-mask, boolean of shape ``(groups.width,)``, into a :class:`Cut`."""
    extended = groups.extended(mask)
    cache: dict[bytes, np.ndarray] = {}

    def stay(places: np.ndarray) -> np.ndarray:
        key = places.tobytes()
        if key not in cache:
            cache[key] = np.flatnonzero(extended[places])
        return cache[key]

    kept: dict[str, dict[int, np.ndarray]] = {}
    for tensor, dims in groups.ties.items():
        shorter = {dim: indices for dim, places in dims.items() if len(indices := stay(places)) < len(places)}
        if shorter:
            kept[tensor] = shorter
    attributes: dict[str, dict[str, int | tuple[int, ...]]] = {}
    for layer in groups.layers:
        inputs, outputs = len(stay(layer.inputs)), len(stay(layer.outputs))
        if inputs == len(layer.inputs) and outputs == len(layer.outputs):
            continue
        attributes.setdefault(layer.name, {}).update(layer.kind.sizes(inputs, outputs, layer.groups, len(layer.inputs)))
    for module, named in groups.sizes.items():
        for name, places in named.items():
            if (left := len(stay(places))) < len(places):
                attributes.setdefault(module, {})[name] = left
    return Cut(kept, attributes, _scaled(groups, extended, stay))


def _scaled(
    groups: ChannelGroups, extended: np.ndarray, stay: Callable[[np.ndarray], np.ndarray]
) -> dict[str, dict[int, tuple[tuple[Any, float], ...]]]:
    """Return the rows that are multiplied, by state tensor and dimension: their indices in the smaller one, and the factor."""
    scaled: dict[str, dict[int, tuple[tuple[Any, float], ...]]] = {}
    for one in groups.scales:
        left = len(stay(one.places))
        if left == len(one.places):
            continue
        own = groups.ties.get(one.tensor, {}).get(one.dim)
        rows = one.rows
        if own is not None:
            kept = extended[own]
            rows = np.cumsum(kept)[rows[kept[rows]]] - 1
        dims = scaled.setdefault(one.tensor, {})
        dims[one.dim] = (*dims.get(one.dim, ()), (rows, math.sqrt(left / len(one.places))))
    return scaled


def apply_cut(model: nn.Module, cut: Cut, replaced: Mapping[str, Tensor] | None = None) -> nn.Module:
    """Return the smaller network: a clone of ``model`` whose tensors are slices (see :mod:`spaces.cloning.clone`).

    Args:
        model: The dense network; left unchanged.
        cut: What stays.
        replaced: Tensors to use as they are instead of slices of the stored ones, by name.
    """
    indices: dict[tuple[int, torch.device], Tensor] = {}

    def index(stay: Any, device: torch.device) -> Tensor:
        key = (id(stay), device)
        if key not in indices:
            indices[key] = torch.from_numpy(np.ascontiguousarray(stay)).to(device)
        return indices[key]

    def sliced(name: str, tensor: Tensor) -> Tensor:
        found = _plain(name, tensor)
        for dim, parts in cut.scaled.get(name, {}).items():
            for rows, factor in parts:
                shape = [1] * found.dim()
                shape[dim] = found.shape[dim]
                factors = torch.ones(found.shape[dim], dtype=found.dtype, device=found.device)
                factors[index(rows, found.device)] = factor
                found = found * factors.reshape(shape)
        return found

    def _plain(name: str, tensor: Tensor) -> Tensor:
        if replaced is not None and name in replaced:
            return replaced[name]
        dims = cut.kept.get(name)
        if not dims:
            return copied(name, tensor)
        for dim, stay in dims.items():
            tensor = tensor.index_select(dim, index(stay, tensor.device))
        return tensor

    smaller = Cloning(sliced, cut.attributes).clone(model)
    open_statistics(smaller)
    return split_attention(smaller)


def state_names(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield every parameter and buffer with its name."""
    yield from model.named_parameters()
    yield from model.named_buffers()
