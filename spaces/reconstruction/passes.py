"""Passes of a reconstruction: one draws the dense network's outputs, the other takes a layer's inputs and residuals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from spaces.execution.randomness import drawn_places
from spaces.layers.linear_map import LinearMap
from spaces.reconstruction.moments import Moments
from spaces.reconstruction.passage import Call, Passage, Value
from spaces.reconstruction.structure import SharedWeight


@dataclass(frozen=True)
class Target:
    """Dense outputs that the outputs of one call are compared with.

    Attributes:
        index: Positions, an index per dimension.
        shape: Number of positions in every dimension.
        values: Outputs there, float of shape ``(n, outputs)``.
    """

    index: tuple[Tensor, ...]
    shape: tuple[int, ...]
    values: Tensor


class DensePass(Passage):
    """A pass of the dense network that draws the outputs of some layers."""

    def __init__(
        self,
        model: nn.Module,
        maps: Mapping[str, LinearMap],
        weights: Sequence[SharedWeight],
        drawn: Mapping[Call, tuple[int, int]],
    ) -> None:
        super().__init__(model, {layer.name: maps[layer.name] for weight in weights for layer in weight.layers})
        self._sums = frozenset(one for weight in weights for one in weight.sums)
        self._drawn = drawn
        self.targets: dict[Call, Target] = {}

    def called(self, call: Call, inputs: Tensor, output: Tensor) -> bool:
        """Draw the output, unless it is the sum that counts."""
        if call in self._sums:
            return True
        self._draw(call, output)
        return False

    def summed(self, values: list[Value], result: Tensor) -> None:
        """Draw the sum."""
        for value in values:
            self._draw(value.call, result)

    def _draw(self, call: Call, output: Tensor) -> None:
        if call not in self._drawn:
            return
        most, seed = self._drawn[call]
        seen = self._layers[call.layer].by_position(output)
        count = seen[..., 0].numel()
        places = drawn_places(count, most, seed)
        index = tuple(torch.unravel_index(places.to(seen.device), seen.shape[:-1]))
        self.targets[call] = Target(index, tuple(seen.shape[:-1]), floats(seen[index]))
        if len(self.targets) == len(self._drawn):
            self.stop()


class SmallPass(Passage):
    """A pass of the small network that adds one layer's inputs and residuals to its moments."""

    def __init__(
        self,
        model: nn.Module,
        maps: Mapping[str, LinearMap],
        weight: SharedWeight,
        columns: slice,
        targets: Mapping[Call, Target],
        moments: Mapping[str, Moments],
    ) -> None:
        super().__init__(model, {layer.name: maps[layer.name] for layer in weight.layers})
        self._sums, self._columns = weight.sums, columns
        self._targets, self._moments = targets, moments
        self._rows: dict[Call, Tensor] = {}
        self._left = len(targets)

    def called(self, call: Call, inputs: Tensor, output: Tensor) -> bool:
        """Take the inputs, and the residual unless it is the sum that counts."""
        target = self._targets.get(call)
        if target is None:
            return False
        layer = self._layers[call.layer]
        self._rows[call] = floats(layer.rows(layer.patches(inputs, output)[target.index])[:, :, self._columns])
        if call in self._sums:
            return True
        self._add(call, output, None)
        return False

    def summed(self, values: list[Value], result: Tensor) -> None:
        """Take the residual of a sum, in the units of the layer's output."""
        for value in values:
            if value.call in self._rows:
                self._add(value.call, result, value.scale)

    def _add(self, call: Call, output: Tensor, scale: Tensor | None) -> None:
        target, rows = self._targets[call], self._rows.pop(call)
        seen = self._layers[call.layer].by_position(output)
        if tuple(seen.shape[:-1]) == target.shape and seen.shape[-1] == target.values.shape[-1]:
            residuals = target.values - floats(seen[target.index])
            if scale is not None:
                # A channel that its norm switches off has no effect on the sum.
                factor = scale.to(residuals)
                felt = factor.abs() > 1e-4 * factor.abs().max()
                residuals = torch.where(felt, residuals / factor, torch.zeros_like(residuals))
            self._moments[call.layer].add(rows, residuals)
        self._left -= 1
        if not self._left:
            self.stop()


def floats(tensor: Tensor) -> Tensor:
    """Return a tensor in float64 if it is, and in float32 else."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()
