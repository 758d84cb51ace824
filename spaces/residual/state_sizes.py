"""Sizes of a network's state, with and without the modules that leave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from spaces.residual.units import Removal


@dataclass(frozen=True)
class StateSizes:
    """Sizes of all tensors of a network's state.

    Attributes:
        parameters: Names of every parameter, several where it is shared, and its number of elements.
        tensors: Names in the state dict, each with its bytes.
    """

    parameters: Sequence[tuple[tuple[str, ...], int]]
    tensors: Sequence[tuple[str, int]]

    @staticmethod
    def of(model: nn.Module) -> StateSizes:
        """Return the sizes of a network's state."""
        names: dict[int, list[str]] = {}
        sizes: dict[int, int] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            names.setdefault(id(parameter), []).append(name)
            sizes[id(parameter)] = parameter.numel()
        tensors = [(name, tensor.numel() * tensor.element_size()) for name, tensor in model.state_dict().items()]
        return StateSizes([(tuple(names[key]), size) for key, size in sizes.items()], tensors)

    @property
    def total(self) -> int:
        """Number of all parameters."""
        return sum(size for _, size in self.parameters)

    def left(self, removal: Removal) -> dict[str, float]:
        """Return ``parameters`` and ``size_bytes`` without the modules that leave."""
        own = sum(size for names, size in self.parameters if not all(map(removal.holds, names)))
        stored = sum(size for name, size in self.tensors if not removal.holds(name))
        return {"parameters": float(own), "size_bytes": float(stored)}
