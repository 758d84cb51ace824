"""Closed-loop reconstruction: the layers of a smaller network solved one after the other against the dense network's outputs.

Every layer's inputs are those of the small network as it is by then, its targets the dense layer's outputs on the same samples,
cut to the channels that are kept, so that later layers make up for what earlier ones have lost (He, Zhang, Sun, ICCV 2017,
arXiv 1707.06168, section 3.2). The solution is a ridge regression towards the present weights; the last layer of a branch is
solved for the sum that the branch is added into (ours). Statistics of normalizations stay those of the dense network.

Each step runs the small network from its inputs up to the layer: time grows with the square of the depth, and memory holds the
activations of one batch, the second moments of one layer and :data:`MOST_BYTES` of targets.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from spaces.execution.batch import Nested, count_samples, select
from spaces.execution.forward import Forward, call
from spaces.execution.randomness import kept_randomness, seed_of
from spaces.layers.batch_norm import keep_statistics
from spaces.reconstruction.moments import Moments, least_squares
from spaces.reconstruction.passage import Call
from spaces.reconstruction.passes import DensePass, SmallPass, Target
from spaces.reconstruction.settings import ReconstructionSettings
from spaces.reconstruction.structure import SharedWeight, bytes_of_targets, linear_maps, solved_weights, windows

LARGEST = 4608
"""Most columns that are solved at once; a wider matrix is solved in blocks of columns, one after the other."""

MOST_BYTES = 512 * 2**20
"""Most bytes of dense outputs that are held at a time."""


@dataclass(frozen=True)
class LayerFit:
    """The solution of one layer, or of one block of its columns.

    Attributes:
        layer: Name of the layer.
        before: Mean squared residual of its outputs before, summed over channels.
        after: The same with the solved weight, on the same positions.
    """

    layer: str
    before: float
    after: float


class Reconstruction:
    """The layers of a small network, to be solved in the order of the forward pass.

    Args:
        dense: The network that channels were cut from; left unchanged.
        small: The network without them, which :meth:`solve` changes in place.
        kept: Output channels that stay, by dense layer, where some have gone.
        batches: Input batches on the networks' device; their samples beyond ``settings.images`` are not used.
        forward: How the networks are run on a batch.
        settings: Options.
        seed: Seed of the positions.
    """

    def __init__(
        self,
        dense: nn.Module,
        small: nn.Module,
        kept: Mapping[str, Tensor],
        batches: Sequence[Nested],
        forward: Forward = call,
        settings: ReconstructionSettings | None = None,
        seed: int = 0,
    ) -> None:
        self._dense, self._small, self._kept = dense, small, kept
        self._settings = ReconstructionSettings() if settings is None else settings
        self._forward, self._seed = forward, seed
        self._batches = list(_first(batches, self._settings.images))
        self._dense_maps, self._maps = linear_maps(dense), linear_maps(small)
        self._weights: tuple[SharedWeight, ...] = ()
        if self._batches:
            with kept_randomness():
                found = solved_weights(small, select(self._batches[0], 0, 1), forward, self._settings.sums)
            self._weights = tuple(one for one in found if all(layer.name in self._dense_maps for layer in one.layers))
        self._steps = [
            (place, columns) for place, one in enumerate(self._weights) for columns in _blocks(self._maps[one.name].columns)
        ]

    def __len__(self) -> int:
        """Return the number of steps."""
        return len(self._steps)

    def solve(self, start: int = 0) -> Iterator[LayerFit]:
        """Solve step by step, in place; yield what each step has done.

        Args:
            start: Steps that the small network has behind it already.
        """
        samples = sum(map(count_samples, self._batches))
        limit = self._settings.positions
        sizes = [bytes_of_targets(one, self._dense_maps, samples, limit) for one in self._weights]
        with kept_randomness():
            for places in windows(self._weights, sizes, MOST_BYTES):
                steps = [(number, one) for number, one in enumerate(self._steps) if one[0] in places and number >= start]
                if not steps:
                    continue
                targets = self._targets([self._weights[place] for place in places if place >= steps[0][1][0]])
                for _, (place, columns) in steps:
                    yield self._solved(self._weights[place], columns, targets)
        keep_statistics(self._small)

    def _targets(self, weights: Sequence[SharedWeight]) -> dict[tuple[Call, int], Target]:
        """Return the dense outputs of the layers with ``weights``, by call and number of the batch."""
        found: dict[tuple[Call, int], Target] = {}
        for number, batch in enumerate(self._batches):
            passage = DensePass(self._dense, self._dense_maps, weights, self._drawn(weights, number))
            torch.manual_seed(self._seed + number)
            passage.run(self._forward, batch)
            for one, target in passage.targets.items():
                kept = self._kept.get(one.layer)
                values = target.values if kept is None else target.values[:, kept.to(target.values.device)]
                found[one, number] = Target(target.index, target.shape, values)
        return found

    def _drawn(self, weights: Sequence[SharedWeight], batch: int) -> dict[Call, tuple[int, int]]:
        """Return, by call, the number of positions to draw from a batch and the seed to draw them with."""
        found = {}
        for weight in weights:
            most = math.ceil(self._settings.positions / (len(self._batches) * len(weight.calls)))
            for one in weight.calls:
                found[one] = most, seed_of(f"{self._seed}/{one.layer}/{one.number}/{batch}")
        return found

    def _solved(self, weight: SharedWeight, columns: slice, targets: Mapping[tuple[Call, int], Target]) -> LayerFit:
        """Solve one block of columns of a weight."""
        moments: dict[str, Moments] = {}
        for layer in weight.layers:
            one = self._maps[layer.name]
            width = len(range(*columns.indices(one.columns)))
            moments[layer.name] = Moments(one.groups, width, one.outputs, layer.shift != "none", one.weight.device)
        for number, batch in enumerate(self._batches):
            own = {one: targets[one, number] for one in weight.calls if (one, number) in targets}
            torch.manual_seed(self._seed + number)
            SmallPass(self._small, self._maps, weight, columns, own, moments).run(self._forward, batch)
        change, before, after = least_squares(list(moments.values()), self._settings.damping)
        if after < before:
            self._apply(weight, columns, change, moments)
        return LayerFit(weight.name, before, after)

    @torch.no_grad()
    def _apply(self, weight: SharedWeight, columns: slice, change: Tensor, moments: Mapping[str, Moments]) -> None:
        """Add a change to the columns of a weight, and let biases and norms take up the means."""
        one = self._maps[weight.name]
        matrices = one.matrices(one.weight.detach()).double()
        matrices[:, :, columns] += change
        one.weight.copy_(one.weights(matrices))
        for layer in weight.layers:
            inputs, residuals = moments[layer.name].means
            shift = (residuals - (change @ inputs[:, :, None])[:, :, 0]).flatten()
            bias = self._maps[layer.name].bias
            if bias is not None:
                bias.add_(shift.to(bias))
            elif layer.shift == "norm":
                mean = self._small.get_buffer(layer.norm)
                mean.sub_(shift.to(mean))


def _blocks(columns: int) -> list[slice]:
    """Return the blocks of columns that are solved one after the other, of about the same width."""
    count = math.ceil(columns / LARGEST)
    edges = [round(columns * place / count) for place in range(count + 1)]
    return [slice(first, last) for first, last in pairwise(edges)]


def _first(batches: Sequence[Nested], samples: int) -> Iterator[Nested]:
    """Yield the first ``samples`` samples of batches."""
    for batch in batches:
        if samples <= 0:
            return
        count = count_samples(batch)
        yield batch if count <= samples else select(batch, 0, samples)
        samples -= count
