"""Passes of a reconstruction: one draws the dense network's outputs, the other meets the small network's layers with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from spaces.execution.randomness import drawn_places
from spaces.layers.linear_map import LinearMap
from spaces.reconstruction.kept import KeptOutput
from spaces.reconstruction.moments import ENTRIES, Moments
from spaces.reconstruction.passage import Arguments, Call, Passage, Value
from spaces.reconstruction.structure import SharedWeight


@dataclass(frozen=True)
class Target:
    """Dense outputs that the outputs of one call are compared with.

    Attributes:
        index: Positions, an index per dimension.
        shape: Number of positions in every dimension.
        values: Outputs there, float of shape ``(n, outputs)``.
        kept: Those of the outputs that the smaller network still has; None for all.
    """

    index: tuple[Tensor, ...]
    shape: tuple[int, ...]
    values: Tensor
    kept: KeptOutput | None = None


class DensePass(Passage):
    """A pass of the dense network that draws the outputs of some calls, as ``targets``.

    Args:
        model: The network.
        maps: Its linear layers, by name.
        drawn: By call, the number of positions to draw and the seed to draw them with.
        sums: The calls whose outputs are drawn behind the addition that they end in.
    """

    def __init__(
        self,
        model: nn.Module,
        maps: Mapping[str, LinearMap],
        drawn: Mapping[Call, tuple[int, int]],
        sums: frozenset[Call],
    ) -> None:
        super().__init__(model, {call.layer: maps[call.layer] for call in drawn})
        self._sums, self._drawn = sums, drawn
        self.targets: dict[Call, Target] = {}

    def called(self, call: Call, arguments: Arguments, output: Tensor) -> bool:
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


@dataclass(frozen=True)
class Meeting:
    """A call of the small network that meets the dense network's outputs: in its output, or in the sum that this ends in.

    Attributes:
        call: The call.
        layer: Its layer.
        arguments: Its arguments.
        target: The dense outputs.
        result: Output or sum of the small network.
        summed: True for the sum.
        scale: Factor of every channel between output and sum, of shape ``(outputs,)``; None for 1.
    """

    call: Call
    layer: LinearMap
    arguments: Arguments
    target: Target
    result: Tensor
    summed: bool
    scale: Tensor | None

    def add_to(self, moments: Moments, columns: slice) -> None:
        """Add the layer's inputs and residuals to moments, those of some of its columns."""
        layer, index, kept = self.layer, self.target.index, self.target.kept
        values = self.target.values if kept is None else kept.of(self.target.values)
        seen = layer.by_position(self.result)
        if (*seen.shape[:-1], seen.shape[-1]) != (*self.target.shape, values.shape[-1]):
            return
        residuals = values - floats(seen[index])
        if self.scale is not None:
            # A channel that its norm switches off has no effect on the sum.
            factor = self.scale.to(residuals)
            felt = factor.abs() > 1e-4 * factor.abs().max()
            residuals = torch.where(felt, residuals / factor, torch.zeros_like(residuals))
        patches, most = layer.patches(self.arguments.inputs, self.result), max(1, ENTRIES // (layer.groups * layer.columns))
        for part in torch.split(torch.arange(len(values), device=values.device), most):
            rows = layer.rows(patches[tuple(one[part] for one in index)])[:, :, columns]
            moments.add(floats(rows), residuals[part])

    def correct(self, change: Tensor, shift: Tensor | None) -> None:
        """Let the result be that of the layer with a changed weight, in place.

        Args:
            change: Change of the weight, of its shape.
            shift: Change of the bias, or of the output before a norm that takes it, of shape ``(outputs,)``; None for none.
        """
        own = dict(self.layer.module.named_parameters(recurse=False))
        changes = {name: torch.zeros_like(tensor) for name, tensor in own.items()}
        changes["weight"] = change
        added = functional_call(self.layer.module, changes, self.arguments.args, dict(self.arguments.keywords))
        by_position = self.layer.by_position(added)
        # A norm behind a plain output has not run yet.
        if shift is not None and (self.summed or self.layer.bias is not None):
            by_position += shift.to(added)
        if self.scale is not None:
            by_position *= self.scale.to(added)
        self.result.add_(added)


class SmallPass(Passage):
    """A pass of the small network in which some calls meet the dense network's outputs, and which ends with the last of them.

    Args:
        model: The network.
        maps: Its linear layers, by name.
        targets: The dense outputs, by call.
        sums: The calls that meet them behind an addition.
        met: Takes every meeting, while the pass waits.
    """

    def __init__(
        self,
        model: nn.Module,
        maps: Mapping[str, LinearMap],
        targets: Mapping[Call, Target],
        sums: frozenset[Call],
        met: Callable[[Meeting], None],
    ) -> None:
        super().__init__(model, {call.layer: maps[call.layer] for call in targets})
        self._sums, self._targets, self._met = sums, targets, met
        self._waiting: dict[Call, Arguments] = {}
        self._left = len(targets)

    def called(self, call: Call, arguments: Arguments, output: Tensor) -> bool:
        """Compare the output, or keep the arguments until the sum is there."""
        if call not in self._targets:
            return False
        if call in self._sums:
            self._waiting[call] = arguments.copy()
            return True
        self._meet(call, arguments, output, None)
        return False

    def summed(self, values: list[Value], result: Tensor) -> None:
        """Compare the sum."""
        for value in values:
            if value.call in self._waiting:
                self._meet(value.call, self._waiting.pop(value.call), result, value.scale)

    def _meet(self, call: Call, arguments: Arguments, result: Tensor, scale: Tensor | None) -> None:
        layer, target = self._layers[call.layer], self._targets[call]
        self._met(Meeting(call, layer, arguments, target, result, call in self._sums, scale))
        self._left -= 1
        if not self._left:
            self.stop()


def calls_of(weights: Sequence[SharedWeight]) -> tuple[list[Call], frozenset[Call]]:
    """Return the calls of weights, and those of them that are compared behind an addition."""
    return [call for weight in weights for call in weight.calls], frozenset(call for weight in weights for call in weight.sums)


def floats(tensor: Tensor) -> Tensor:
    """Return a tensor in float64 if it is, and in float32 else."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()
