"""Channel cost: MACs, parameters and bytes of any keep-mask, analytically, without building the network."""

from __future__ import annotations

import numpy as np
from torch import nn

from spaces.channels.groups import ChannelGroups
from spaces.channels.surgery import state_names
from spaces.layers.activation_memory import Timeline
from spaces.layers.macs import FLOAT_BITS

_AT_ONCE = 1 << 22
"""Most channels of layers that are counted at once, over several masks: 32 MB."""


class ChannelCost:
    """Costs of any keep-mask of one network, in a fraction of a millisecond.

    MACs are multiply-accumulates (half the FLOPs) of convolutions, linear layers and attention for one sample. ``size_bytes``
    counts every tensor of the state dict, ``bit_operations`` is MACs * 32 * 32 for float weights and activations.

    Attributes:
        layers: Names of the layers with MACs, one per call.
        tensors: Names of the tensors of the state dict, those that are shared once.
    """

    def __init__(self, model: nn.Module, groups: ChannelGroups) -> None:
        self._vectors: list[np.ndarray] = []
        self._index: dict[bytes, int] = {}
        self._last = groups.width + len(groups.pairs)
        self._groups = groups
        layers = [layer for layer in groups.layers if layer.macs > 0]
        self.layers = tuple(layer.name for layer in layers)
        self._macs = np.asarray([layer.macs for layer in layers])
        self._other_macs = groups.other_macs
        one = self._vector(np.asarray([-1]))
        self._macs_out = np.asarray([self._vector(layer.outputs) for layer in layers], dtype=np.int64)
        self._macs_in = np.asarray(
            [self._vector(layer.inputs) if layer.groups == 1 else one for layer in layers], dtype=np.int64
        )
        self._passing = np.asarray([self._vector(layer.passing) for layer in layers], dtype=np.int64)
        self._reads = np.asarray([self._vector(layer.inputs) for layer in layers], dtype=np.int64)
        timeline = Timeline([(one.born, one.died) for one in groups.activations])
        lived = np.asarray([self._vector(one.places) for one in groups.activations], dtype=np.int64)
        beside = np.asarray([self._vector(one.beside) for one in groups.activations], dtype=np.int64)
        self._changing = lived[timeline.which]
        self._changing_beside = beside[timeline.which] if (beside != one).any() else None
        self._changes = np.asarray([one.bytes for one in groups.activations])[timeline.which] * timeline.signs
        names, factors, pairs, sizes, trained = [], [], [], [], []
        persistent = model.state_dict(keep_vars=True).keys()
        seen: set[int] = set()
        for name, tensor in state_names(model):
            if name not in persistent or id(tensor) in seen:
                continue
            seen.add(id(tensor))
            names.append(name)
            dims = groups.ties.get(name, {})
            rest = 1
            for dim, size in enumerate(tensor.shape):
                rest *= 1 if dim in dims else size
            followed = [self._vector(places) for places in dims.values()][:2]
            pairs.append([*followed, one, one][:2])
            factors.append(rest)
            sizes.append(tensor.element_size())
            trained.append(isinstance(tensor, nn.Parameter))
        self.tensors = tuple(names)
        self._factors = np.asarray(factors, dtype=np.float64)
        self._pairs = np.asarray(pairs, dtype=np.int64).reshape(-1, 2)
        self._sizes = np.asarray(sizes, dtype=np.float64)
        self._trained = np.asarray(trained, dtype=bool)
        lengths = [len(places) for places in self._vectors]
        self._starts = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)
        self._joined = np.concatenate(self._vectors)

    def _vector(self, places: np.ndarray) -> int:
        key = places.tobytes()
        if key not in self._index:
            self._index[key] = len(self._vectors)
            self._vectors.append(np.where(places < 0, self._last, places))
        return self._index[key]

    def of(self, mask: np.ndarray) -> dict[str, float]:
        """Return the costs of a mask, boolean of shape ``(width,)``.

        These are ``macs``, ``parameters``, ``size_bytes``, ``bit_operations`` and ``peak_activation_bytes``, the largest number
        of bytes of activations that live together in the forward pass of one sample, the input among them.
        """
        return {metric: float(value) for metric, value in self._tables(mask).items()}

    def each(self, masks: np.ndarray) -> list[dict[str, float]]:
        """Return :meth:`of` for every one of several masks, boolean of shape ``(masks, width)``."""
        step = max(1, _AT_ONCE // len(self._joined))
        found = []
        for first in range(0, len(masks), step):
            tables = self._tables(masks[first : first + step])
            rows = zip(*(values.tolist() for values in tables.values()), strict=True)
            found += [dict(zip(tables, row, strict=True)) for row in rows]
        return found

    def _tables(self, masks: np.ndarray) -> dict[str, np.ndarray]:
        """Return every cost, float64 of shape ``(...)``, of masks of shape ``(..., width)``."""
        left = self._left(masks)
        by_layer, elements = self._counts(left)
        macs = by_layer.sum(axis=-1) + self._other_macs
        changing = left.take(self._changing, axis=-1)
        if self._changing_beside is not None:
            changing = changing * left.take(self._changing_beside, axis=-1)
        return {
            "macs": macs,
            "parameters": elements.compress(self._trained, axis=-1).sum(axis=-1),
            "size_bytes": (elements * self._sizes).sum(axis=-1),
            "bit_operations": macs * FLOAT_BITS * FLOAT_BITS,
            "peak_activation_bytes": (self._changes * changing).cumsum(axis=-1).max(axis=-1, initial=0.0),
        }

    def channels(self, mask: np.ndarray) -> dict[str, tuple[int, int]]:
        """Return the input and output channels that a mask leaves of every one of :attr:`layers`, by name."""
        left = self._left(mask).astype(np.int64)
        pairs = zip(left[self._reads].tolist(), left[self._macs_out].tolist(), strict=True)
        return dict(zip(self.layers, pairs, strict=True))

    def counts(self, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the MACs of :attr:`layers` and the elements of :attr:`tensors` that a mask leaves, float64 each."""
        return self._counts(self._left(mask))

    def _counts(self, left: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        sides = [left.take(one, axis=-1) for one in (self._macs_in, self._macs_out, self._passing, *self._pairs.T)]
        return self._macs * sides[0] * sides[1] * sides[2], self._factors * sides[3] * sides[4]

    def _left(self, masks: np.ndarray) -> np.ndarray:
        """Return the channels left of every side, float64 of shape ``(..., sides)``, of masks of shape ``(..., width)``."""
        extended = self._groups.extended(np.asarray(masks, dtype=bool)).astype(np.int64)
        return np.add.reduceat(extended.take(self._joined, axis=-1), self._starts, axis=-1).astype(np.float64)
